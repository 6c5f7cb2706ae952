"""The training that undoes a protection: on pictures of other people."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apdm_attacks.dreambooth import DreamBooth
from apdm_cli.plugin import AttackConfig, Bench

if TYPE_CHECKING:
    from apdm_cli.diffusion.latents import LatentDistribution


def heal(bench: Bench, config: Any) -> None:
    """Fine-tune all of `bench.model`'s trained network, with an optimizer of its own."""
    word = "" if config.heal_caption == "class" else bench.subject.identifier
    other = replace(bench.subject, identifier=word)
    healing = bench.personalization(DreamBooth(), _options(config), other)
    bench.train(healing, label="heal", photos=_pictures(bench, config))


def _options(config: Any) -> AttackConfig:
    # The healing has no class pictures beside it: these are what it trains on.
    common = {name: getattr(config, name) for name in AttackConfig.model_fields}
    steps, rate = config.heal_steps, config.heal_learning_rate
    return AttackConfig(**{**common, "steps": steps, "learning_rate": rate, "prior_weight": 0.0})


def _pictures(bench: Bench, config: Any) -> LatentDistribution:
    if config.heal_from in ("original", "attacked"):
        original = bench.load_original() if config.heal_from == "original" else None
        drawing = config.model_copy(update={"prior_pictures": config.heal_pictures})
        return bench.draw_class(original or bench.base, drawing)
    from apdm_cli.diffusion.photos import load_photos

    photos = load_photos([Path(config.heal_from)], bench.base.resolution, may_ignore=False)
    return bench.base.encode_pixels(photos.pixels)
