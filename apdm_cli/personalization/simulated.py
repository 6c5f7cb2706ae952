"""A personalization that goes on inside a protection, on top of weights that move beneath it.

It trains θ′ = θ + δ. Of its weights, those that θ has too are *displaced* by δ; those that only it
has (adapters, a text encoder, a new word) are its own; and those of θ that it does not train are
*tied*: they share θ's memory.

Where θ is a difference on a frozen network φ, θ′ is φ + difference + δ: what is displaced then is
displaced from φ, and tied is the difference, through which alone gradients reach θ.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from apdm_cli.diffusion.condition import Condition
from apdm_cli.diffusion.denoiser import Denoiser
from apdm_cli.diffusion.low_rank import adapter_differences, plain_name
from apdm_cli.diffusion.model import PromptNotFinite
from apdm_cli.personalization.dreambooth import PictureSource
from apdm_cli.personalization.loop import NonFiniteLoss, Step, train
from apdm_cli.personalization.optimizers import load_optimizer


class SimulatedAttacker:
    """One personalization on top of θ, a few steps at a time.

    Between two turns of a persistent attacker its displaced weights hold δ and not θ′: that way it
    needs no more memory than the paper's path.

    Args:
        start: θ's network.
        denoiser: θ′, in its own memory (what is tied aside).
        parameters: what trains, of θ′ and besides.
        loss: the attack's; draws a batch on every call.
        optimizer: over `parameters`.
        learning_rate: for a step's index within the life.
        personal: how it embeds c_per, a batch of one; None: as everybody.
        begin: puts what of its own depends on θ's weights to where it begins on them.
        max_grad_norm: clips its gradient; 0 does not.
        pictures: what it learns, for those who are to be taught.
        difference: weights of θ's difference and those that θ′ has in their place, where `start`
            is frozen below one; None where all weights of `start` move.
        wait: takes weights of `start` off the device inside a block; None leaves them there.

    Attributes:
        whose: number of the subject among several that it is an attacker of, or whose words it
            learns somebody else under.
    """

    def __init__(
        self,
        start: nn.Module,
        denoiser: Denoiser,
        parameters: Sequence[nn.Parameter],
        loss: Callable[[], Tensor],
        optimizer: torch.optim.Optimizer,
        learning_rate: Callable[[int], float],
        *,
        personal: Callable[[], Condition] | None = None,
        begin: Callable[[], None] = lambda: None,
        max_grad_norm: float = 0.0,
        pictures: PictureSource | None = None,
        difference: Sequence[tuple[nn.Parameter, nn.Parameter]] | None = None,
        wait: Callable[[Sequence[nn.Parameter]], AbstractContextManager[None]] | None = None,
    ) -> None:
        self.denoiser, self.parameters, self.loss = denoiser, list(parameters), loss
        self.optimizer, self.learning_rate = optimizer, learning_rate
        self.max_grad_norm, self.pictures = max_grad_norm, pictures
        self._personal, self._begin, self._wait = personal, begin, wait
        self.whose = 0
        self.age = 0
        trained = {id(parameter) for parameter in self.parameters}
        mine = {plain_name(name): weight for name, weight in denoiser.network.named_parameters()}
        named = [(name, weight, mine[name]) for name, weight in start.named_parameters()]
        pairs = [(weight, own) for _, weight, own in named]
        self._displaced = [(weight, own) for weight, own in pairs if id(own) in trained]
        self._displaced_names = [name for name, _, own in named if id(own) in trained]
        shared_weights = [(weight, own) for weight, own in pairs if id(own) not in trained]
        for weight, own in shared_weights:
            own.data = weight.data
        self._tied = shared_weights if difference is None else list(difference)
        self._gradients = self._tied if difference is not None else self._displaced + self._tied
        shared = {id(own) for _, own in self._displaced}
        own_weights = [weight for weight in self.parameters if id(weight) not in shared]
        self._own = [(weight, weight.detach().clone()) for weight in own_weights]

    @property
    def personal(self) -> Condition | None:
        """c_per as it embeds it, without gradients; None: as everybody does.

        Raises:
            NonFiniteLoss: what it has trained of the text encoder has diverged.
        """
        if self._personal is None:
            return None
        try:
            with torch.no_grad():
                return self._personal()
        except PromptNotFinite:
            raise NonFiniteLoss("prompt of a simulated attacker", self.age) from None

    def steps(self, count: int) -> Iterator[Step]:
        """Take `count` attack steps, yielding after each: gradients may be read or added then."""
        for step in train(
            self.loss,
            self.parameters,
            self.optimizer,
            range(self.age, self.age + count),
            self.learning_rate,
            max_grad_norm=self.max_grad_norm,
        ):
            self.age += 1
            yield step

    @contextlib.contextmanager
    def open_to_gradients(self) -> Iterator[None]:
        """Inside, the weights that are tied to θ get gradients too."""
        for _, own in self._tied:
            own.requires_grad_(True)
        try:
            yield
        finally:
            for _, own in self._tied:
                own.requires_grad_(False)

    def accumulate(self) -> None:
        """g ← g + ∇_θ′, where g is the `.grad` of θ."""
        sums, gradients = [], []
        for weight, own in self._gradients:
            if own.grad is None:
                continue
            if weight.grad is None:
                weight.grad = torch.zeros_like(own)
            sums.append(weight.grad)
            gradients.append(own.grad)
        if sums:
            torch._foreach_add_(sums, gradients)
        for _, own in self._tied:
            own.grad = None

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Inside, the weights of θ that are displaced are not read: they may wait elsewhere.

        Where they do, the attacker's gradients are given back first when they return.
        """
        if self._wait is None:
            yield
            return
        with self._wait([weight for weight, _ in self._displaced]):
            try:
                yield
            finally:
                self._give_gradients_back()

    @torch.no_grad()
    def restart(self) -> None:
        """θ′ ← θ with a fresh optimizer, all in place: the paper's path begins."""
        self.age = 0
        if self._displaced:
            weights, own = zip(*self._displaced, strict=True)
            torch._foreach_copy_([*own], [*weights])
        for own_weight, initial in self._own:
            own_weight.copy_(initial)
        self._begin()
        if not isinstance(self.optimizer, torch.optim.AdamW):
            self.optimizer.state.clear()  # 8-bit states hold more than moments
            for group in self.optimizer.param_groups:
                group.update(self.optimizer.defaults)  # and Prodigy's groups what it has found
            return
        states = self.optimizer.state.values()
        if moments := [*chain.from_iterable(state.values() for state in states)]:
            torch._foreach_zero_(moments)

    @torch.no_grad()
    def follow(self) -> None:
        """θ′ ← θ + δ: θ has moved since `rest`."""
        for weight, own in self._displaced:
            own.add_(weight)

    @torch.no_grad()
    def rest(self) -> None:
        """δ ← θ′ − θ, in the place of θ′; gradients are given back."""
        for weight, own in self._displaced:
            own.sub_(weight)
        self._give_gradients_back()

    @property
    def displacement(self) -> dict[str, Tensor]:
        """δ of θ's network by the names of its weights, between two turns.

        Of weights that it trains, and of what its adapters add to those below. What it trains
        besides (a word, a text encoder) has none.
        """
        own = (own.detach() for _, own in self._displaced)
        moved = dict(zip(self._displaced_names, own, strict=True))
        for name, added in adapter_differences(self.denoiser.network).items():
            moved[name] = moved[name] + added if name in moved else added
        return moved

    def state_dict(self) -> dict[str, Any]:
        """Its weights (δ where they are displaced), its optimizer and its age."""
        return {
            "parameters": [parameter.detach() for parameter in self.parameters],
            "optimizer": self.optimizer.state_dict(),
            "age": self.age,
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to `state`."""
        for parameter, saved in zip(self.parameters, state["parameters"], strict=True):
            parameter.copy_(saved)
        load_optimizer(self.optimizer, state["optimizer"])
        self.age = state["age"]

    def _give_gradients_back(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None
