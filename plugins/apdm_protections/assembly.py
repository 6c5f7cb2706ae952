"""From a bench and settings to the objects of the bilevel loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from apdm_cli.diffusion.condition import Condition
from apdm_cli.diffusion.latents import LatentDistribution
from apdm_cli.extension.protection import Kind, ProtectionBench
from apdm_cli.personalization.simulated import SimulatedAttacker
from apdm_cli.protection.attackers import (
    Crew,
    Life,
    Lives,
    PersistentAttackers,
    RestartedPath,
    TakingTurns,
)
from apdm_cli.protection.displaced import DisplacedPreservation, Held
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
    # Of every subject, under its name where there are several.
    (pairs, personal), *further = (
        (
            PairSource(
                side.photos,
                side.class_pictures,
                config,
                bench.model.process,
                bench.streams,
                _label(bench, number, "pairs"),
            ),
            side.personal,
        )
        for number, side in enumerate(bench.each)
    )
    preservation, typical = _preservation(bench, config)
    objective = ProtectionObjective(
        reference, pairs, personal, preservation, config, typical, further
    )
    return LearningToProtect(
        bench.model.denoiser,
        _attackers(bench, config),
        bench.original,
        objective,
        bench.optimizer(config.optimizer, config.betas, config.weight_decay),
        config,
        _learners(bench, config) if bench.others else None,
        bench.difference,
        _displaced(bench, config, typical) if config.preservation.displaced else None,
        bench.ranks,
    )


def _label(bench: ProtectionBench, number: int, name: str) -> str:
    """What streams of the subject `number` are called: what one draws shifts no other's."""
    return name if len(bench.each) == 1 else f"{bench.each[number].subject.name}/{name}"


def _of_classes(sides: Sequence[ProtectionBench]) -> list[tuple[int, ProtectionBench]]:
    """The first subject of every class, with its number: what they have for the class is shared."""
    found: dict[str, tuple[int, ProtectionBench]] = {}
    for number, side in enumerate(sides):
        found.setdefault(side.subject.class_noun, (number, side))
    return list(found.values())


def _preservation(
    bench: ProtectionBench, config: ProtectionSettings
) -> tuple[PreservationTerm, TypicalError | None]:
    """One term over the classes of all subjects, also of those whom θ protects already."""
    kept = config.preservation
    everybody = [*bench.each, *bench.earlier]
    sides = [side for _, side in _of_classes(everybody)]
    if kept.kind == "class-pictures":
        pictures = LatentDistribution.cat([side.class_pictures for side in sides])
        source = bench.source(pictures, "preservation")
        generic = bench.generic
        if len(sides) > 1:
            generic = Condition.cat(
                [side.generic.index([0] * len(side.class_pictures)) for side in sides]
            )
        return ClassPictures(source, generic, kept.batch_size), None
    captioned = LatentDistribution.cat([side.captioned for side in sides])
    conditions = bench.embed([caption for side in sides for caption in side.inputs.captions])
    term = Distillation(
        bench.source(captioned, "preservation"),
        conditions,
        # Earlier ones stay as θ began with them: under their captions, too.
        Condition.cat(
            list({side.subject.personal_prompt: side.personal for side in everybody}.values())
        ),
        bench.embed([""]),
        identifier_share=kept.identifier_share,
        empty_share=kept.empty_share,
        batch_size=kept.batch_size,
        streams=bench.streams,
    )
    if kept.scale == "absolute":
        return term, None
    return term, typical_error(bench.reference, captioned, conditions, bench.streams)


def _displaced(
    bench: ProtectionBench, config: ProtectionSettings, typical: TypicalError | None
) -> DisplacedPreservation | None:
    """The attackers that were alive when the earlier subjects were protected, one by one."""
    held = []
    for side in bench.earlier:
        name = f"displaced/{side.subject.name}"
        source = bench.source(side.class_pictures, name)
        held += [Held(one, source, side.personal) for one in side.displacements]
    if not held:
        return None
    return DisplacedPreservation(
        bench.model.trained, bench.reference, bench.twin(), held, config.preservation.batch_size,
        typical,
    )  # fmt: skip


def _attackers(bench: ProtectionBench, config: ProtectionSettings) -> Crew | None:
    """Who moves θ′: the paper's path, persistent attackers, or nobody where N_per = 0.

    Of several subjects each has its own, and they take turns.
    """
    if config.attackers.kind != "persistent" and config.steps_inner == 0:
        return None
    crews = [_crew(bench, config, number) for number in range(len(bench.each))]
    every = config.others.every if bench.others else 1
    return crews[0] if len(crews) == 1 else TakingTurns(crews, every)


def _crew(bench: ProtectionBench, config: ProtectionSettings, number: int) -> Crew:
    """The attackers of one subject."""
    side, chosen = bench.each[number], config.attackers
    if chosen.kind != "persistent":
        kind = path_kind(config, bench.attacks)
        label = _label(bench, number, "path")
        return RestartedPath(_attacker(bench, config, number, kind, side.photos, label))
    kinds = pool(config, bench.attacks)
    name = _label(bench, number, "attackers")

    def born(slot: int, life: Life) -> SimulatedAttacker:
        kind = kinds[life.kind]
        photos = side.photos
        if kind.photos:
            photos = photos.select(life.order[: kind.photos])
        return _attacker(bench, config, number, kind, photos, f"{name}/{slot}", life.rate)

    lives = Lives(
        [kind.weight for kind in kinds],
        chosen.ages,
        chosen.rates,
        len(side.photos),
        bench.streams,
        f"protect/{name}",
    )
    return PersistentAttackers(chosen.count, lives, born, staggered=chosen.staggered)


def _learners(bench: ProtectionBench, config: ProtectionSettings) -> PersistentAttackers:
    """Learners of somebody else, of another one in every life, of any subject's class."""
    chosen, kind = config.others, path_kind(config, bench.attacks)
    others = [(number, other) for number, side in _of_classes(bench.each) for other in side.others]

    def born(slot: int, life: Life) -> SimulatedAttacker:
        number, other = others[life.kind]
        return _attacker(bench, config, number, kind, other, f"others/{slot}", life.rate)

    lives = Lives(
        [1.0] * len(others), chosen.ages, chosen.rates, 1, bench.streams, "protect/others"
    )
    return PersistentAttackers(chosen.count, lives, born, staggered=True)


def _attacker(
    bench: ProtectionBench, config: ProtectionSettings, number: int, kind: Kind, photos: Any,
    label: str, rate: float = 1.0,
) -> SimulatedAttacker:  # fmt: skip
    made = bench.each[number].attacker(
        kind, photos, label, rate, betas=config.betas, one_forward=config.batched_forwards
    )
    made.whose = number
    return made
