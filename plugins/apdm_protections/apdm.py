"""Anti-Personalized Diffusion Models, arXiv 2511.01307, and what makes it last longer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, ClassVar

from apdm_cli.errors import UsageError
from apdm_cli.extension.attack import Attack
from apdm_cli.extension.manager import choose
from apdm_cli.extension.protection import Inputs, Kind, Protection, ProtectionBench
from apdm_cli.personalization.simulated import SimulatedAttacker
from apdm_cli.protection.attackers import (
    Crew,
    Life,
    Lives,
    PersistentAttackers,
    RestartedPath,
)
from apdm_cli.protection.l2p import LearningToProtect
from apdm_cli.protection.objective import PairSource, ProtectionObjective
from apdm_cli.protection.preservation import (
    ClassPictures,
    Distillation,
    PreservationTerm,
    TypicalError,
    typical_error,
)
from apdm_cli.protection.prompts import distillation_captions, pseudo_subjects
from apdm_cli.protection.settings import PRESETS, ProtectionSettings, SimulatedKind, preset
from apdm_cli.subject import Subject


class APDM(Protection):
    """Learning-to-Protect with Direct Protective Optimization, also with attackers that persist.

    The presets `paper` and `published-code` are arXiv 2511.01307 to the letter; docs/method.md
    has the objective of the others beside it, and the reason.
    """

    name = "apdm"
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
        """Every simulated attacker is a registered attack with settings that it has."""
        pool(config, attacks)
        path_kind(config, attacks)

    def inputs(self, subject: Subject, config: Any) -> Inputs:
        """Class pictures, distilled captions, and pictures of the others who are taught."""
        others = tuple(
            (caption,) * config.others.pictures for caption in pseudo_subjects(subject, config)
        )
        folders = config.others.folders if config.others.count else ()
        captions = distillation_captions(subject, config)
        return Inputs(config.prior_pictures, captions, others, folders)

    def steps(self, bench: ProtectionBench, config: Any) -> Iterator[Mapping[str, float]]:
        """The outer steps of Learning-to-Protect."""
        loop = assemble(bench, config)
        bench.keep("loop", loop)
        first = bench.begin(config.steps_outer)
        if first == 0:
            for _ in loop.prepare():
                pass
        for step in loop.iterate(first):
            yield {name: value for name, value in asdict(step).items() if name != "index"}

    def shortened(self, config: Any) -> tuple[Any, float]:
        """Outer steps with as many inner steps as there are to one protective gradient."""
        part = min(config.steps_inner, config.protect_every)
        short = config.model_copy(update={"steps_inner": part})
        return short, config.steps_inner / part if part else 1.0

    def memory_copies(self, bench: ProtectionBench, config: Any) -> float:
        """θ, φ, g and the outer AdamW's two moments; what the attackers train, the same way.

        Only the attacker whose turn it is has a gradient.
        """
        path = [path_kind(config, bench.attacks)]
        crews = []
        if config.attackers.kind == "persistent":
            crews.append((config.attackers.count, pool(config, bench.attacks)))
        elif config.steps_inner > 0:
            crews.append((1, path))
        if bench.others:
            crews.append((config.others.count, path))
        copies, gradients = bench.reference_copies + bench.optimizer_copies(1, config.optimizer), []
        for count, kinds in crews:
            each = max((bench.trained_share(kind), kind.config.optimizer) for kind in kinds)
            copies += count * (bench.optimizer_copies(*each) - each[0])
            gradients.append(each[0])
        return copies + max(gradients, default=0.0) + (1.0 if config.average else 0.0)

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


def assemble(bench: ProtectionBench, config: ProtectionSettings) -> LearningToProtect:
    """Wire the bilevel loop."""
    if bench.low_memory:
        config = config.model_copy(update={"batched_forwards": False})
    reference = bench.reference
    pairs = PairSource(
        bench.photos, bench.class_pictures, config, bench.model.process, bench.streams
    )
    preservation, typical = _preservation(bench, config)
    objective = ProtectionObjective(reference, pairs, bench.personal, preservation, config, typical)
    return LearningToProtect(
        bench.model.denoiser,
        _attackers(bench, config),
        reference.network,
        objective,
        bench.optimizer(config.optimizer, config.betas, config.weight_decay),
        config,
        _learners(bench, config) if bench.others else None,
    )


def _preservation(
    bench: ProtectionBench, config: ProtectionSettings
) -> tuple[PreservationTerm, TypicalError | None]:
    kept = config.preservation
    if kept.kind == "class-pictures":
        source = bench.source(bench.class_pictures, "preservation")
        return ClassPictures(source, bench.generic, kept.batch_size), None
    conditions = bench.embed(bench.inputs.captions)
    term = Distillation(
        bench.source(bench.captioned, "preservation"),
        conditions,
        bench.personal,
        bench.embed([""]),
        identifier_share=kept.identifier_share,
        empty_share=kept.empty_share,
        batch_size=kept.batch_size,
        streams=bench.streams,
    )
    if kept.scale == "absolute":
        return term, None
    return term, typical_error(bench.reference, bench.captioned, conditions, bench.streams)


def _attackers(bench: ProtectionBench, config: ProtectionSettings) -> Crew | None:
    """Who moves θ′: the paper's path, persistent attackers, or nobody where N_per = 0."""
    chosen = config.attackers
    if chosen.kind == "persistent":
        kinds = pool(config, bench.attacks)

        def born(slot: int, life: Life) -> SimulatedAttacker:
            kind = kinds[life.kind]
            photos = bench.photos
            if kind.photos:
                photos = photos.select(life.order[: kind.photos])
            return _attacker(bench, config, kind, photos, f"attackers/{slot}", life.rate)

        lives = Lives(
            [kind.weight for kind in kinds],
            chosen.ages,
            chosen.rates,
            len(bench.photos),
            bench.streams,
            "protect/attackers",
        )
        return PersistentAttackers(chosen.count, lives, born, staggered=chosen.staggered)
    if config.steps_inner == 0:
        return None
    kind = path_kind(config, bench.attacks)
    return RestartedPath(_attacker(bench, config, kind, bench.photos, "path"))


def _learners(bench: ProtectionBench, config: ProtectionSettings) -> PersistentAttackers:
    """Learners of somebody else, of another one in every life."""
    chosen, kind = config.others, path_kind(config, bench.attacks)

    def born(slot: int, life: Life) -> SimulatedAttacker:
        subject = bench.others[life.kind]
        return _attacker(bench, config, kind, subject, f"others/{slot}", life.rate)

    lives = Lives(
        [1.0] * len(bench.others), chosen.ages, chosen.rates, 1, bench.streams, "protect/others"
    )
    return PersistentAttackers(chosen.count, lives, born, staggered=True)


def _attacker(
    bench: ProtectionBench, config: ProtectionSettings, kind: Kind, photos: Any, label: str,
    rate: float = 1.0,
) -> SimulatedAttacker:  # fmt: skip
    return bench.attacker(
        kind, photos, label, rate, betas=config.betas, one_forward=config.batched_forwards
    )


def path_kind(config: ProtectionSettings, attacks: Mapping[str, Attack]) -> Kind:
    """The attack of `path`. UsageError for an unknown attack, or a setting that it lacks."""
    path = config.path
    return _kind(config, attacks, "path", SimulatedKind(attack=path.attack, settings=path.settings))


def pool(config: ProtectionSettings, attacks: Mapping[str, Attack]) -> list[Kind]:
    """What attackers may be, at least one. UsageError like `path_kind`."""
    entries = config.attackers.pool
    if not entries:
        return [path_kind(config, attacks)]
    return [
        _kind(config, attacks, f"attackers.pool, entry {number}", entry)
        for number, entry in enumerate(entries, start=1)
    ]


def _kind(
    config: ProtectionSettings, attacks: Mapping[str, Attack], where: str, entry: SimulatedKind
) -> Kind:
    base = {
        **config.path.model_dump(exclude={"attack", "settings"}),
        "optimizer": config.optimizer,
        "weight_decay": config.weight_decay,
    }
    try:
        attack = choose(attacks, entry.attack)
        if not attack.trains_once:
            raise UsageError(
                f"{attack.name} is made of several trainings and cannot be simulated",
                "Name the attack that it trains with.",
            )
        chosen = attack.configure("", (base, entry.settings), attacks)
    except UsageError as error:
        raise UsageError(f"{where}: {error.what}", error.hint) from None
    return Kind(attack, chosen, entry.identifier, entry.photos, entry.weight)
