"""What a protection works with: the model, what φ drew for it, simulated attackers, its state."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from apdm_cli.diffusion.compiling import CompileForward
from apdm_cli.diffusion.condition import Condition
from apdm_cli.diffusion.denoiser import Denoiser
from apdm_cli.diffusion.displacements import Displacement
from apdm_cli.diffusion.latents import LatentDistribution
from apdm_cli.diffusion.low_rank import LowRankDifference, adaptable_layers
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.perturbation import Perturbation
from apdm_cli.diffusion.process import WHOLE_SCHEDULE
from apdm_cli.errors import ApdmError
from apdm_cli.extension.attack import Attack
from apdm_cli.extension.protection import Inputs, Kind, check_attackers
from apdm_cli.extension.protection_config import LowRank
from apdm_cli.personalization.dreambooth import DreamBoothLoss, PictureSource
from apdm_cli.personalization.optimizers import MakeOptimizer, adamw, make_optimizer
from apdm_cli.personalization.simulated import SimulatedAttacker
from apdm_cli.personalization.streamed_adamw import StreamedAdamW
from apdm_cli.protection.copies import Copies, Placement
from apdm_cli.protection.ingredients import Ingredients
from apdm_cli.protection.low_memory import (
    Waiting,
    main_memory_copy,
    map_weights,
    rounded_copy,
    with_mapped_moments,
)
from apdm_cli.protection.shared_weights import own_memory, share
from apdm_cli.randomness import DrawingFrom, Streams
from apdm_cli.runs.checkpoints import Stateful
from apdm_cli.runs.ranks import Ranks
from apdm_cli.subject import Subject

DEFAULT_BETAS = (0.9, 0.999)


@dataclass
class Bench:
    """The house's `ProtectionBench`; see there.

    Attributes:
        subject: in the words that training uses.
        inputs, ingredients: what was asked for, and what was prepared.
        low_memory: recompute activations and run one forward at a time. On the CPU φ and AdamW's
            moments also lie in memory-mapped files; with a card the moments lie in main memory,
            and so does θ while an attacker trains all of its weights. Slower; changes results by
            rounding.
        compile_forward: called with every network of θ's layers and with what records its passes;
            see `compiled_forwards`.
        on_begin: (total) → steps that are done; restores what is kept.
        adapter: what moves on top of the frozen network; None where all of its weights move.
        eta: how much a value of the photos may change; None where the model is protected.
        each: a bench for every subject, beginning with this one; `seat` adds them.
        earlier: a bench for everybody whom θ protects from the beginning, without photos.
        displacements: of one of `earlier`.
        left: who was alive at the end, and the attack steps left of each life.
    """

    model: DiffusionModel
    subject: Subject
    inputs: Inputs
    ingredients: Ingredients
    streams: Streams
    attacks: Mapping[str, Attack]
    low_memory: bool = False
    compile_forward: CompileForward = lambda module, recorder: None
    on_begin: Callable[[int], int] = lambda total: 0
    adapter: LowRank | None = None
    eta: float | None = None
    ranks: Ranks = field(default_factory=Ranks)
    difference: LowRankDifference | None = field(default=None, init=False)
    each: list[Bench] = field(init=False, repr=False)
    earlier: list[Bench] = field(default_factory=list, init=False, repr=False)
    displacements: Sequence[Displacement] = field(default=(), init=False, repr=False)
    left: Sequence[tuple[SimulatedAttacker, int]] = field(default=(), init=False, repr=False)
    kept: dict[str, Stateful] = field(default_factory=dict, init=False)
    _waiting: Waiting = field(default_factory=Waiting, init=False)
    first: int = field(default=0, init=False)
    total: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.each = [self]
        self._lay_out(self.subject, self.inputs, self.ingredients)
        if self.low_memory:
            self.model.family.save_memory(self.model.components)
        if self.low_memory or self.adapter is not None:
            # Recordings hold activations, and do not see a difference that is off for φ.
            self.model = self.model.launched()
        if self.adapter is not None:
            self.difference = self._difference(self.adapter)
        self.compile_forward(self.model.trained, self.model.recorder)
        if self.eta is not None:
            self.keep("perturbation", self.perturbation)

    def seat(
        self,
        subject: Subject,
        inputs: Inputs,
        ingredients: Ingredients,
        *,
        earlier: bool = False,
        displacements: Sequence[Displacement] = (),
    ) -> None:
        """Add another subject: `each` then has a bench for it on the same θ, φ and streams.

        Args:
            earlier: θ protects it already, and there are no photos; `earlier` then has it.
        """
        _ = self.reference  # one for all
        other = copy.copy(self)
        other.__dict__.pop("_prompts", None)
        other.each, other.earlier = [other], []
        other.displacements = displacements
        other._lay_out(subject, inputs, ingredients)
        (self.earlier if earlier else self.each).append(other)

    def _lay_out(self, subject: Subject, inputs: Inputs, ingredients: Ingredients) -> None:
        self.subject, self.inputs, self.ingredients = subject, inputs, ingredients
        self.photos, self.class_pictures = ingredients.photos, ingredients.class_pictures
        self.captioned, self.others = ingredients.captioned, ingredients.others

    @property
    def place(self) -> Placement:
        """Where its parts lie."""
        half = self.model.dtype != torch.float32
        device = self.model.device.type
        return Placement(self.low_memory, device, half, self.difference is not None)

    @property
    def theta_waits(self) -> bool:
        """See `Placement`."""
        return self.place.theta_waits

    @property
    def weights(self) -> list[nn.Parameter]:
        """All of the network's, or those of the difference."""
        if self.difference is not None:
            return self.difference.parameters
        return list(self.model.trained.parameters())

    def state_dict(self) -> dict[str, Any]:
        """What moves of θ: the difference, or the whole network."""
        moving = self.model.trained if self.difference is None else self.difference
        return dict(moving.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to `state`."""
        moving = self.model.trained if self.difference is None else self.difference
        moving.load_state_dict(state)

    @cached_property
    def perturbation(self) -> Perturbation:
        """x and δ. ValueError where the model is protected, and no photo changes."""
        if self.eta is None:
            raise ValueError("photos change in an ImageProtection only")
        return Perturbation(self.subject.photos.pixels.to(self.model.device), self.eta)

    @cached_property
    def reference(self) -> Denoiser:
        """φ."""
        if self.difference is not None:
            denoiser = self.model.denoiser
            return replace(denoiser, forward=self.difference.without(denoiser.forward))
        if self.place.rounded:
            original = rounded_copy(self.model.trained, self.model.dtype)
        else:
            original = copy.deepcopy(self.model.trained).requires_grad_(False).eval()
        if self.place.in_files:
            map_weights(original)
        self.compile_forward(original, self.model.recorder)
        if self.model.recorder is not None:
            self.model.recorder.never_changes(original)
        return self.model.denoiser.with_network(original)

    @cached_property
    def original(self) -> nn.Module:
        """φ's network, or a copy in main memory where `reference` has rounded weights."""
        return (
            main_memory_copy(self.model.trained) if self.place.rounded else self.reference.network
        )

    @cached_property
    def _prompts(self) -> list[Condition]:
        prompts = [self.subject.personal_prompt, self.subject.class_prompt]
        return self.model.encode_text(prompts).split(1)

    @property
    def personal(self) -> Condition:
        """c_per."""
        return self._prompts[0]

    @property
    def generic(self) -> Condition:
        """c_pr."""
        return self._prompts[1]

    def embed(self, captions: Sequence[str]) -> Condition:
        """One row a caption."""
        distinct = list(dict.fromkeys(captions))
        place = {caption: index for index, caption in enumerate(distinct)}
        return self.model.encode_text(distinct).index([place[caption] for caption in captions])

    def source(
        self,
        pictures: LatentDistribution,
        name: str,
        limits: tuple[float, float] = WHOLE_SCHEDULE,
    ) -> PictureSource:
        """Draws from the streams "protect/<name>/..."."""
        return PictureSource(pictures, self.streams, f"protect/{name}", self.model.process, limits)

    def optimizer(
        self, kind: str, betas: tuple[float, float], weight_decay: float
    ) -> MakeOptimizer:
        """With `low_memory` AdamW's moments lie in files, or in main memory beside a card."""
        return self._small(adamw(kind, betas, weight_decay), kind, betas, weight_decay)

    def attacker(
        self,
        kind: Kind,
        photos: LatentDistribution,
        label: str,
        rate: float = 1.0,
        *,
        betas: tuple[float, float] = DEFAULT_BETAS,
        one_forward: bool = True,
    ) -> SimulatedAttacker:
        """Its streams are "protect/<label>/..."."""
        check_attackers(self.adapter, [kind])
        attack, config, label = kind.attack, kind.config, f"protect/{label}"
        private, on_top = self._frozen_copy()
        subject = self.subject
        if kind.identifier:
            subject = replace(subject, identifier=kind.identifier)
        with DrawingFrom(self.streams.generator(f"{label}/start")):
            trainable = attack.trainable(private, subject, config)
        parameters = list(trainable.parameters())
        if on_top is not None:
            own_memory(parameters, self.model.trained)
        for name in private.family.text_encoders:
            share(private.component(name), self.model.component(name), parameters)
        prior = self.class_pictures if config.prior_weight > 0 else None
        loss = attack.loss(trainable, config, private, subject, photos, prior, self.streams, label)
        if isinstance(loss, DreamBoothLoss):
            loss.one_forward = one_forward
        named = replace(subject, identifier=trainable.prompt_word())
        like_everybody = (
            not trainable.trains_text and named.personal_prompt == self.subject.personal_prompt
        )
        make = make_optimizer(config.optimizer, betas, config.weight_decay, config.prodigy_d0)
        groups: list[Any] = trainable.groups()
        if len(groups) == 1:
            groups = parameters
            make = self._small(make, config.optimizer, betas, config.weight_decay)
        made = SimulatedAttacker(
            self.model.trained,
            private.denoiser,
            parameters,
            loss,
            make(groups, config.learning_rate),
            lambda step: rate * attack.learning_rate(step, config),
            personal=None if like_everybody else lambda: trainable.condition(named.personal_prompt),
            begin=trainable.begin_again,
            max_grad_norm=config.max_grad_norm,
            pictures=PictureSource(photos, self.streams, f"{label}/taught", private.process),
            difference=on_top,
            wait=self._waiting.away if self.theta_waits else None,
        )
        if _same_layers(private.trained, self.model.trained):
            self.compile_forward(private.trained, self.model.recorder)
        return made

    def twin(self) -> Denoiser:
        """A copy of θ as it is now."""
        network = copy.deepcopy(self.model.trained).requires_grad_(False)
        self.compile_forward(network, self.model.recorder)
        return self.model.denoiser.with_network(network)

    def leave(self, attackers: Sequence[tuple[SimulatedAttacker, int]]) -> None:
        """They are saved with the run, if at all."""
        self.left = attackers

    def keep(self, name: str, what: Stateful) -> None:
        """Part of every checkpoint from now on."""
        self.kept[name] = what

    def forget(self) -> None:
        """Give back the memory of what was trained with: φ, what is kept, gradients."""
        self.kept.clear()
        self.left = ()
        for made in ("reference", "original"):
            vars(self).pop(made, None)
        for weight in self.weights:
            weight.grad = None
        self._waiting = Waiting()

    def begin(self, total: int) -> int:
        """Steps that are done already."""
        self.total = total
        self.first = self.on_begin(total)
        return self.first

    @property
    def copies(self) -> Copies:
        """What of it takes memory."""
        if self.difference is None:
            return Copies(self, self.place)
        network = list(self.model.trained.parameters())
        whole = sum(weight.numel() for weight in network)
        held = sum(weight.numel() * weight.element_size() for weight in network)
        share = sum(weight.numel() for weight in self.weights) / whole
        return Copies(self, self.place, held / (4 * whole), share)

    def optimizer_copies(self, trained: float, kind: str = "adamw") -> float:
        """See `Copies`, as the next two."""
        return self.copies.optimizer_copies(trained, kind)

    def trained_copies(self, kind: str = "adamw") -> float:
        """θ and what trains it."""
        return self.copies.trained_copies(kind)

    @property
    def reference_copies(self) -> float:
        """φ."""
        return self.copies.reference_copies

    def trained_share(self, kind: Kind) -> float:
        """Made once and thrown away."""
        with DrawingFrom(Streams(0).generator("protect/share")):
            made = kind.attack.trainable(self._frozen_copy()[0], self.subject, kind.config)
        whole = sum(weight.numel() for weight in self.model.trained.parameters())
        return sum(weight.numel() for weight in made.parameters()) / whole

    def _difference(self, adapter: LowRank) -> LowRankDifference:
        targets = self.model.family.adapter_targets.ends(adapter.targets)
        if not adaptable_layers(self.model.trained, targets):
            raise ApdmError(
                f"adapter.targets: {self.model.family.title} has no such layers",
                "Use --set train=full.",
            )
        generator = self.streams.generator("protect/adapter", common=True)
        network = self.model.trained
        return LowRankDifference(network, targets, adapter.rank, adapter.alpha, generator)

    def _frozen_copy(
        self,
    ) -> tuple[DiffusionModel, list[tuple[nn.Parameter, nn.Parameter]] | None]:
        """A copy of the model, and the pairs of weights of the difference, where there is one."""
        network, pairs = None, None
        if self.difference is not None:
            network, pairs = self.difference.network_on_top()
        private = self.model.private_copy(trained=network)
        for name in (private.family.trained, *private.family.text_encoders):
            private.component(name).requires_grad_(False)
        return private, pairs

    def _small(
        self, make: MakeOptimizer, kind: str, betas: tuple[float, float], weight_decay: float
    ) -> MakeOptimizer:
        """`make` with the moments elsewhere, where memory is short and it makes an AdamW."""
        if kind != "adamw":
            return make
        if self.place.beside_card:
            return lambda weights, rate: StreamedAdamW(weights, rate, betas, weight_decay)
        return with_mapped_moments(make) if self.place.in_files else make


def _same_layers(first: nn.Module, second: nn.Module) -> bool:
    return [name for name, _ in first.named_parameters()] == [
        name for name, _ in second.named_parameters()
    ]
