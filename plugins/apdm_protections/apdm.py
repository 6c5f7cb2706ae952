"""Anti-Personalized Diffusion Models, arXiv 2511.01307, and what makes it last longer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

from apdm_cli.errors import UsageError
from apdm_cli.extension.protection import (
    Inputs,
    Kind,
    Protection,
    ProtectionBench,
    check_attackers,
)
from apdm_cli.extension.protection_config import low_rank
from apdm_cli.protection.prompts import (
    distillation_captions,
    pseudo_subjects,
    read_captions,
)
from apdm_cli.protection.settings import PRESETS, ProtectionSettings, preset
from apdm_protections.kinds import path_kind, pool, simulated

if TYPE_CHECKING:
    from apdm_cli.extension.attack import Attack
    from apdm_cli.subject import Subject


class APDM(Protection):
    """Learning-to-Protect with Direct Protective Optimization, also with attackers that persist.

    The presets `paper` and `published-code` are arXiv 2511.01307 to the letter; docs/method.md
    has the objective of the others beside it, and the reason.
    """

    name = "apdm"
    several = True
    ranks = True
    Config = ProtectionSettings
    presets = PRESETS
    labels: ClassVar = {
        "objective": "dpo",
        "preservation": "preservation",
        "positive_margin": "r+",
        "negative_margin": "r-",
        "drift": "drift",
    }

    def titles(self, config: Any) -> Mapping[str, str]:
        """The two sides of the objective, and the margin that matters."""
        relative = config.margin.kind == "relative"
        margin = "logarithm of the error's ratio" if relative else "error added"
        return {
            "objective": "DPO loss",
            "negative_margin": f"{margin} on the photos (r⁻)",
            "preservation": "preservation loss",
        }

    def preset(self, name: str) -> dict[str, Any]:
        """The TOML table of a preset."""
        return preset(name)

    def check(self, config: Any, attacks: Mapping[str, Attack]) -> None:
        """Every simulated attacker is a registered attack with settings that it has.

        The files of captions can be read: `inputs` reads them after the model is loaded.
        """
        if config.preservation.kind == "distill":
            read_captions(config.preservation.captions)
        if config.others.count and not config.others.folders:
            read_captions(config.others.captions, "others.captions")
        pool(config, attacks)
        path = path_kind(config, attacks)
        if config.include_personalization_gradient and path.attack.leaves_network:
            raise UsageError(
                f"include_personalization_gradient: the attack {path.attack.name} has no gradient "
                "for the network's own weights",
                "Add --set include_personalization_gradient=false, or simulate an attack that "
                "trains them (--set path.attack=dreambooth).",
            )
        check_attackers(low_rank(config), simulated(config, attacks))

    def inputs(self, subject: Subject, config: Any) -> Inputs:
        """Class pictures, distilled captions, and pictures of the others who are taught."""
        others = tuple(
            (caption,) * config.others.pictures for caption in pseudo_subjects(subject, config)
        )
        folders = config.others.folders if config.others.count else ()
        captions = distillation_captions(subject, config)
        return Inputs(config.prior_pictures, captions, others, folders)

    def living_on(self, config: Any, attacks: Mapping[str, Attack]) -> Sequence[Kind]:
        """Those that persist."""
        return pool(config, attacks) if config.attackers.kind == "persistent" else ()

    def wants_displacements(self, config: Any) -> bool:
        """For the term at them."""
        return bool(config.preservation.displaced)

    def steps(self, bench: ProtectionBench, config: Any) -> Iterator[Mapping[str, float]]:
        """The outer steps of Learning-to-Protect."""
        from apdm_protections.assembly import assemble

        loop = assemble(bench, config)
        bench.keep("loop", loop)
        first = bench.begin(config.steps_outer)
        if first == 0:
            for _ in loop.prepare():
                pass
        left_out = {"index"} if loop.displaced else {"index", "displaced"}
        for step in loop.iterate(first):
            yield {name: value for name, value in asdict(step).items() if name not in left_out}
        if loop.attackers is not None:
            bench.leave(loop.attackers.alive)

    def shortened(self, config: Any) -> tuple[Any, float]:
        """Outer steps with as many inner steps as there are to one protective gradient."""
        part = min(config.steps_inner, config.protect_every)
        short = config.model_copy(update={"steps_inner": part})
        return short, config.steps_inner / part if part else 1.0

    def memory_copies(self, bench: ProtectionBench, config: Any) -> float:
        """θ, φ, g and the outer AdamW's two moments; what the attackers train, the same way.

        With an adapter φ is the only whole copy, unless attackers train all weights.
        Only the attacker whose turn it is has a gradient. Every subject has its own attackers.
        """
        subjects = len(bench.each)
        path = [path_kind(config, bench.attacks)]
        crews = []
        if config.attackers.kind == "persistent":
            crews.append((subjects * config.attackers.count, pool(config, bench.attacks)))
        elif config.steps_inner > 0:
            crews.append((subjects, path))
        if bench.others:
            crews.append((config.others.count, path))
        copies, gradients = bench.reference_copies + bench.trained_copies(config.optimizer), []
        for count, kinds in crews:
            each = max((bench.trained_share(kind), kind.config.optimizer) for kind in kinds)
            copies += count * (bench.optimizer_copies(*each) - each[0])
            gradients.append(each[0])
        if config.preservation.displaced:  # a network that is displaced, once at a time
            copies += 1.0
            gradients.append(1.0)
        gradient = max(gradients, default=0.0)
        if bench.theta_waits:  # then the gradient has its place
            gradient = max(0.0, gradient - 1.0)
        return copies + gradient + (1.0 if config.average or config.average_last else 0.0)

    def losses(self, config: Any) -> Mapping[str, Sequence[int]]:
        """Of every attacker its own and the protective one at θ′; and one at θ, if there is one."""
        kept, path, margin = config.preservation, config.path, config.margin
        preserved = kept.batch_size if kept.weight > 0 else 0
        persistent = config.attackers.kind == "persistent"
        if not persistent and config.steps_inner == 0:
            return {"θ": (2 * config.batch_size + preserved,)}
        learning = path.batch_size * (2 if path.prior_weight > 0 else 1)
        protecting = 2 * config.batch_size + (0 if kept.evaluated_at == "start" else preserved)
        count = config.attackers.count if persistent else 1
        found: dict[str, Sequence[int]] = {
            f"θ′ of attacker {number}": (learning, protecting) for number in range(count)
        }
        for number in range(config.others.count):
            found[f"θ′ of learner {number}"] = (learning, config.others.batch_size)
        if kept.displaced:
            found["θ + δ of an earlier attacker"] = (kept.batch_size,)
        at_start = 2 * margin.at_start_pairs if margin.at_start > 0 else 0
        at_start += 0 if kept.evaluated_at == "path" else preserved
        return {**found, **({"θ": (at_start,)} if at_start else {})}

    def result(self, summary: Mapping[str, Any], config: Any) -> str:
        """How the errors on the photos and on class pictures changed."""
        negative, positive = summary["negative_margin"], summary["positive_margin"]
        if config.margin.kind == "relative":
            return (
                f"the simulated attacker's error on the photos is {math.exp(negative):.2f} times "
                f"the original model's (r⁻), on class pictures {math.exp(positive):.2f} times (r⁺)"
            )
        return (
            f"the error on the photos rose by {negative:.2f} per element (r⁻), on class pictures "
            f"by {positive:.2f} (r⁺)"
        )
