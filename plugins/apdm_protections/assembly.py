"""From a bench and settings to the objects of the bilevel loop."""

from __future__ import annotations

from typing import Any

from apdm_cli.extension.protection import Kind, ProtectionBench
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
from apdm_cli.protection.settings import ProtectionSettings
from apdm_protections.kinds import path_kind, pool


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
        bench.original,
        objective,
        bench.optimizer(config.optimizer, config.betas, config.weight_decay),
        config,
        _learners(bench, config) if bench.others else None,
        bench.difference,
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
