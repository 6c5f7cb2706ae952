"""What photos are called while they are learned."""

from __future__ import annotations

import pytest
import torch

from apdm_cli.diffusion.condition import Condition
from apdm_cli.personalization.captions import PhotoCaptions, spoken
from apdm_cli.randomness import Streams


def embed(prompt: str) -> Condition:
    return Condition({"text": torch.full((1, 1, 1), float(len(prompt)))})


def lengths(captions: PhotoCaptions, indices: list[int]) -> list[int]:
    return [int(row) for row in captions(torch.tensor(indices))["text"].flatten()]


def captions(prompts: list[str], dropout: float, seed: int = 0) -> PhotoCaptions:
    return PhotoCaptions(embed, prompts, dropout, Streams(seed).generator("captions"))


def test_every_photo_has_its_own_and_a_single_one_is_everybodys() -> None:
    assert lengths(captions(["a", "bb", "ccc"], 0.0), [2, 0, 2, 1]) == [3, 1, 3, 2]
    assert lengths(captions(["bb"], 0.0), [2, 0, 5]) == [2, 2, 2]


@pytest.mark.parametrize("share", [0.05, 0.3, 1.0])
def test_dropout_leaves_out_its_share(share: float) -> None:
    found = lengths(captions(["bb"], share), [0] * 4000)
    assert set(found) <= {0, 2}
    assert found.count(0) / 4000 == pytest.approx(share, abs=0.02)
    assert found == lengths(captions(["bb"], share), [0] * 4000), "of the seed only"


def test_a_caption_describes_or_is_the_whole_prompt() -> None:
    personal = "a photo of sks person"
    assert spoken("", personal, "sks") == personal
    assert spoken("with a hat", personal, "sks") == "a photo of sks person, with a hat"
    assert (
        spoken("portrait of [trigger],  red hat", personal, "<new>") == "portrait of <new>, red hat"
    )
