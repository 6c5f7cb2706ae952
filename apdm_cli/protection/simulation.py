"""From a registered attack to an attacker that is simulated inside a protection.

It is made by the code that makes the attack itself (`Attack.trainable`, `Attack.loss`): there is
one DreamBooth in the house.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import nn

from apdm_cli.config import resolve
from apdm_cli.diffusion.latents import LatentDistribution
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.errors import UsageError
from apdm_cli.extension.attack import Attack, AttackConfig
from apdm_cli.extension.manager import attacks, build_plugin_manager, choose
from apdm_cli.personalization.dreambooth import DreamBoothLoss, PictureSource
from apdm_cli.personalization.optimizers import MakeOptimizer, make_optimizer
from apdm_cli.protection.attackers import (
    Life,
    Lives,
    PersistentAttackers,
    RestartedPath,
    SimulatedAttacker,
)
from apdm_cli.protection.low_memory import with_mapped_moments
from apdm_cli.protection.prompts import training_subject
from apdm_cli.protection.settings import ProtectionSettings, SimulatedKind
from apdm_cli.randomness import Streams
from apdm_cli.subject import Subject

Prepare = Callable[[nn.Module], None]


@cache
def _attacks() -> dict[str, Attack]:
    return attacks(build_plugin_manager())


@dataclass(frozen=True)
class Kind:
    """What one simulated attacker is.

    Attributes:
        attack, config: the attack and its whole configuration.
        identifier: the word it uses; empty is the subject's.
        photos: how many photos it has; 0 is all.
        weight: how often it is drawn.
    """

    attack: Attack
    config: AttackConfig
    identifier: str = ""
    photos: int = 0
    weight: float = 1.0


def path_kind(settings: ProtectionSettings) -> Kind:
    """The attack of `path`. UsageError for an unknown attack, or a setting it does not have."""
    path = settings.path
    return _kind(settings, "path", SimulatedKind(attack=path.attack, settings=path.settings))


def pool(settings: ProtectionSettings) -> list[Kind]:
    """What attackers may be, at least one. Raises UsageError like `path_kind`."""
    entries = settings.attackers.pool
    if not entries:
        return [path_kind(settings)]
    return [_kind(settings, f"attackers.pool[{i}]", entry) for i, entry in enumerate(entries)]


def _kind(settings: ProtectionSettings, where: str, entry: SimulatedKind) -> Kind:
    path = settings.path
    base = {
        **path.model_dump(exclude={"attack", "settings"}),
        "optimizer": settings.optimizer,
        "weight_decay": settings.weight_decay,
    }
    try:
        attack = choose(_attacks(), entry.attack)
        config = resolve(attack.Config, base, entry.settings)
    except UsageError as error:
        raise UsageError(f"{where}: {error.what}", error.hint) from None
    return Kind(attack, config, entry.identifier, entry.photos, entry.weight)


@dataclass(frozen=True)
class Simulator:
    """Makes simulated attackers on one model.

    Attributes:
        model: its U-Net is θ.
        subject: in the words that training uses.
        prior: class pictures made by φ, for prior preservation.
        files: keep the moments of AdamW in mapped files.
        prepare: called with the U-Net of every attacker whose layers are θ's own.
    """

    model: DiffusionModel
    subject: Subject
    prior: LatentDistribution
    settings: ProtectionSettings
    streams: Streams
    files: bool = False
    prepare: Prepare = lambda module: None

    def attacker(
        self, kind: Kind, photos: LatentDistribution, label: str, rate: float = 1.0
    ) -> SimulatedAttacker:
        """An attacker at θ as it is now.

        Args:
            photos: whom it learns.
            label: of its random streams.
            rate: multiple of its learning rate.
        """
        attack, config = kind.attack, kind.config
        private = self.model.private_copy()
        for component in (private.unet, private.pipeline.text_encoder):
            component.requires_grad_(False)
        subject = self.subject
        if kind.identifier:
            subject = replace(subject, identifier=kind.identifier)
        with _drawing_from(self.streams.generator(f"{label}/start")):
            trainable = attack.trainable(private, subject, config)
        parameters = list(trainable.parameters())
        _share(private.pipeline.text_encoder, self.model.pipeline.text_encoder, parameters)
        prior = self.prior if config.prior_weight > 0 else None
        loss = attack.loss(
            trainable, config, private, subject, photos, prior, self.streams, label
        )
        if isinstance(loss, DreamBoothLoss):
            loss.one_forward = self.settings.batched_forwards
        named = replace(subject, identifier=trainable.prompt_word())
        same = not trainable.trains_text and named.personal_prompt == self.subject.personal_prompt
        made = SimulatedAttacker(
            self.model.unet,
            private.denoiser,
            parameters,
            loss,
            self._optimizer(config)(parameters, config.learning_rate),
            lambda step: rate * attack.learning_rate(step, config),
            personal=None if same else lambda: trainable.condition(named.personal_prompt),
            max_grad_norm=config.max_grad_norm,
            pictures=PictureSource(
                photos, self.streams, f"{label}/taught", range(private.denoiser.training_timesteps)
            ),
        )
        if _same_layers(private.unet, self.model.unet):
            self.prepare(private.unet)
        return made

    def path(self, photos: LatentDistribution) -> RestartedPath:
        """The paper's: one attacker that starts afresh from θ in every outer step."""
        return RestartedPath(self.attacker(path_kind(self.settings), photos, "protect/path"))

    def persistent(self, photos: LatentDistribution) -> PersistentAttackers:
        """Attackers that live on (settings `attackers`)."""
        chosen, kinds = self.settings.attackers, pool(self.settings)

        def born(slot: int, life: Life) -> SimulatedAttacker:
            kind = kinds[life.kind]
            mine = photos
            if kind.photos:
                mine = photos.select(life.order[: kind.photos])
            return self.attacker(kind, mine, f"protect/attackers/{slot}", life.rate)

        lives = Lives(
            [kind.weight for kind in kinds], chosen.ages, chosen.rates, len(photos),
            self.streams, "protect/attackers",
        )  # fmt: skip
        return PersistentAttackers(chosen.count, lives, born, staggered=chosen.staggered)

    def learners(self, subjects: Sequence[LatentDistribution]) -> PersistentAttackers:
        """Learners of somebody else (settings `others`), one of `subjects` in every life."""
        chosen, kind = self.settings.others, path_kind(self.settings)

        def born(slot: int, life: Life) -> SimulatedAttacker:
            label = f"protect/others/{slot}"
            return self.attacker(kind, subjects[life.kind], label, life.rate)

        lives = Lives(
            [1.0] * len(subjects), chosen.ages, chosen.rates, 1, self.streams, "protect/others"
        )
        return PersistentAttackers(chosen.count, lives, born, staggered=True)

    def _optimizer(self, config: AttackConfig) -> MakeOptimizer:
        make = make_optimizer(config.optimizer, self.settings.betas, config.weight_decay)
        return with_mapped_moments(make) if self.files and config.optimizer == "adamw" else make


class _drawing_from:
    """torch's global CPU generator goes on from `generator` inside the block, and back after it.

    Libraries draw from the global one when they initialize new layers.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        self._fork: Any = None

    def __enter__(self) -> None:
        self._fork = torch.random.fork_rng(devices=[])
        self._fork.__enter__()
        torch.set_rng_state(self.generator.get_state())

    def __exit__(self, *exception: object) -> None:
        self.generator.set_state(torch.get_rng_state())
        self._fork.__exit__(*exception)


def _share(mine: nn.Module, original: nn.Module, trained: Sequence[nn.Parameter]) -> None:
    """Let untouched weights of the copy `mine` lie in the memory of `original`'s."""
    kept = {id(parameter) for parameter in trained}
    weights: Mapping[str, nn.Parameter] = dict(original.named_parameters())
    for name, own in mine.named_parameters():
        other = weights.get(name)
        if other is None or id(own) in kept or own.shape != other.shape:
            continue
        if own.dtype == other.dtype and torch.equal(own, other):
            own.data = other.data


def _same_layers(first: nn.Module, second: nn.Module) -> bool:
    return [name for name, _ in first.named_parameters()] == [
        name for name, _ in second.named_parameters()
    ]
