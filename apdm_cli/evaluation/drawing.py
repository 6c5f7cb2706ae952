"""Which pictures are drawn with every attacked model: of one seed each, whoever draws them."""

from __future__ import annotations

from apdm_cli.evaluation.profiles import EvaluationSettings, sampler_for
from apdm_cli.evaluation.prompts import load_prompts, spread
from apdm_cli.evaluation.utility import SEEDS_ATTACK, seeds
from apdm_cli.harness.stops import Drawing


def attack_drawing(settings: EvaluationSettings, profile: str) -> Drawing:
    """The pictures that are drawn with every attacked model, of both arms alike."""
    templates = tuple(spread(load_prompts(settings.prompts), settings.images))
    numbers = seeds(SEEDS_ATTACK, len(templates), settings.seed)
    return Drawing(templates, numbers, sampler_for(settings, profile))
