"""Which pictures are drawn with every attacked model: of one seed each, whoever draws them."""

from __future__ import annotations

from functools import partial

from apdm_cli.evaluation.profiles import EvaluationSettings, sampler_of
from apdm_cli.evaluation.prompts import load_prompts, spread
from apdm_cli.evaluation.utility import SEEDS_ATTACK, seeds
from apdm_cli.harness.stops import Drawing


def attack_drawing(settings: EvaluationSettings) -> Drawing:
    """The pictures that are drawn with every attacked model, of both arms alike."""
    templates = tuple(spread(load_prompts(settings.prompts), settings.images))
    numbers = seeds(SEEDS_ATTACK, len(templates), settings.seed)
    names = ("sampler", "steps", "guidance")
    asked = {name: getattr(settings, name) for name in names}
    return Drawing(
        templates,
        numbers,
        partial(sampler_of, settings),  # no closure: workers are sent it
        {name: value for name, value in asked.items() if value is not None},
    )
