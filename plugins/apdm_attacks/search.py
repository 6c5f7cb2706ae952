"""The search of `adaptive`: many settings at once, under one budget of steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from apdm_attacks.candidates import Candidate, spread
from apdm_attacks.halving import Point, climb, rung_sizes
from apdm_attacks.targets import Target, attack_on, offered
from apdm_attacks.trial import trial
from apdm_cli.errors import UsageError
from apdm_cli.plugin import AttackConfig

if TYPE_CHECKING:
    from apdm_cli.diffusion.model import DiffusionModel
    from apdm_cli.plugin import Artifact, Bench, Personalization


def joint_search(bench: Bench, config: Any) -> Artifact:
    """Climb the rungs, and let the best point of all train once more, on all photos.

    The rungs and that training get equal shares of `config.steps`.
    """
    generator = bench.streams.generator("search")
    candidates = spread(config, _targets(bench.base, config), generator)
    sizes = rung_sizes(len(candidates), config.eta)
    share = config.steps // (len(sizes) + 1)
    if share < len(candidates):
        raise UsageError(
            f"adaptive.steps: {config.steps} are too few to try {len(candidates)} candidates",
            f"Use at least {len(candidates) * (len(sizes) + 1)}, or fewer candidates.",
        )

    def attempt(candidate: Candidate, steps: int, last: bool) -> Point:
        tried, shown = _prepared(bench, config, candidate, steps)
        return {
            **candidate.as_point(),
            "steps": steps,
            **trial(bench, tried, shown, config.pictures),
        }

    points = climb(candidates, sizes, share, attempt)
    best = max(points, key=lambda point: point["score"])
    winner = Candidate(best["target"], best["rank"], best["learning_rate"])
    found, shown = _prepared(bench, config, winner, best["steps"])
    scored = trial(bench, found, f"chosen: {shown}", config.pictures, last=True)
    chosen = {**winner.as_point(), "steps": best["steps"]}
    bench.results |= {"tried": [*points, {**chosen, **scored}], "chosen": chosen}
    return found.save(bench.artifact_folder)


def _prepared(
    bench: Bench, config: Any, candidate: Candidate, steps: int
) -> tuple[Personalization, str]:
    """A training of `candidate` on a fresh copy of the model, and what it is called."""
    bench.restart()
    options = {name: getattr(config, name) for name in AttackConfig.model_fields}
    rate = candidate.learning_rate
    common = AttackConfig(**{**options, "steps": steps, "learning_rate": rate})
    attack, settings = attack_on(candidate.target, candidate.rank, common, bench.base)
    what = " ".join([candidate.target, *([str(candidate.rank)] if candidate.rank else [])])
    return bench.personalization(attack, settings), f"{what} at {rate:.1e} for {steps}"


def _targets(model: DiffusionModel, config: Any) -> tuple[Target, ...]:
    there = offered(model)
    missing = [target for target in config.targets if target not in there]
    if missing:
        raise UsageError(
            f"adaptive.targets: {model.family.title} has no {missing[0]}",
            f"It has {', '.join(there)}.",
        )
    return config.targets or there
