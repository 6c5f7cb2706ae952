"""One try of a search: a training, and what its attacker can say of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from apdm_attacks.halving import Point

if TYPE_CHECKING:
    from apdm_cli.plugin import Bench, Personalization


def trial(
    bench: Bench, tried: Personalization, label: str, pictures: int, *, last: bool = False
) -> Point:
    """Train `tried` on all photos but one, and score it: a higher score is better.

    The score is the similarity of so many `pictures` to the photos, where there is an extractor,
    else the loss on the photo that was held out, negative. A training that diverges loses.

    Args:
        last: what is trained is kept: all photos are used, and nothing may diverge.
    """
    from apdm_cli.personalization.loop import NonFiniteLoss

    held_out, rest = bench.photos.split_off(0 if last else 1)
    try:
        bench.train(tried, label=label, photos=rest)
    except NonFiniteLoss:
        if last:
            raise
        return {"score": -math.inf}
    similarity = bench.similarity_of(tried, pictures)
    loss = bench.validation_loss(tried, held_out) if len(held_out) else None
    score = -(loss or 0) if similarity is None else similarity
    return {"similarity": similarity, "held_out_loss": loss, "score": score}
