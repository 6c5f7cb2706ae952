"""Learning-to-Protect: the bilevel loop (algorithm 1 of arXiv 2511.01307)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from apdm_cli.diffusion.denoiser import Denoiser
from apdm_cli.personalization.loop import NonFiniteLoss, train
from apdm_cli.protection.objective import ProtectionObjective, ProtectionTerms
from apdm_cli.protection.settings import ProtectionSettings


@dataclass(frozen=True)
class OuterStep:
    """What one outer iteration measured; means over its protective gradients.

    Attributes:
        index: of the outer step just taken, from 0.
        objective, preservation: loss parts, preservation unweighted.
        positive_margin, negative_margin: r⁺ and r⁻ per element.
        path_loss: L_per at the end of the inner path; NaN without one.
        drift: ‖θ − θ_0‖ / ‖θ_0‖.
        learning_rate: of the outer step.
    """

    index: int
    objective: float
    preservation: float
    positive_margin: float
    negative_margin: float
    path_loss: float
    drift: float
    learning_rate: float


class LearningToProtect:
    """Iterates the paper's algorithm on `start` (θ), which is updated in place.

    repeat N_protect times { θ′ ← θ; g ← 0; repeat N_per times { one AdamW step on θ′ with ∇L_per;
    g ← g + ∇_θ′ L_protect, evaluated after that step }; one AdamW step on θ with g }

    First order: no gradient flows through the inner steps. The copy θ′ and the accumulator g (the
    `.grad` of θ) are allocated once.

    Args:
        start: θ; its network is trained.
        path: θ′; a copy of θ in its own memory.
        original: θ before any step, for the drift; φ will do.
        personalization: L_per of θ′, draws a batch on every call.
        objective: L_protect.
        optimizer: makes the optimizer for a list of parameters.
    """

    def __init__(
        self,
        start: Denoiser,
        path: Denoiser,
        original: nn.Module,
        personalization: Callable[[], Tensor],
        objective: ProtectionObjective,
        optimizer: Callable[[list[nn.Parameter], float], torch.optim.Optimizer],
        settings: ProtectionSettings,
    ) -> None:
        self.start, self.path, self.original = start, path, original
        self.personalization, self.objective, self.settings = personalization, objective, settings
        self.weights: list[nn.Parameter] = list(start.network.parameters())
        self.path_weights: list[nn.Parameter] = list(path.network.parameters())
        self.outer_optimizer = optimizer(self.weights, settings.learning_rate)
        self.inner_optimizer = self.outer_optimizer  # for N_per = 0, which never uses it
        if settings.steps_inner > 0:
            self.inner_optimizer = optimizer(self.path_weights, settings.path.learning_rate)
        self._original_norm = _norm(original)

    def iterate(self, first: int = 0) -> Iterator[OuterStep]:
        """Take the outer steps `first` ... N_protect − 1, yielding after each.

        Raises:
            NonFiniteLoss: before θ is touched, naming the term.
        """
        for index in range(first, self.settings.steps_outer):
            self.outer_optimizer.zero_grad(set_to_none=False)
            try:
                terms, path_loss = self._protective_gradients()
                self._limit_gradient()
            except NonFiniteLoss as error:  # raised where the outer step is not known
                raise NonFiniteLoss(error.term, index) from None
            rate = self._learning_rate(index)
            for group in self.outer_optimizer.param_groups:
                group["lr"] = rate
            self.outer_optimizer.step()
            yield self._summary(index, terms, path_loss, rate)

    def _protective_gradients(self) -> tuple[list[ProtectionTerms], float]:
        """Leave Σ ∇L_protect in the `.grad` of θ; returns its terms and the path's last loss."""
        settings = self.settings
        if settings.steps_inner == 0:
            return [self._backward(self.start, with_preservation=True)], math.nan
        at_path = settings.preservation.evaluated_at != "start"
        at_start = settings.preservation.evaluated_at != "path"
        terms: list[ProtectionTerms] = []
        path_loss = math.nan
        self._restart_path()
        for step in train(
            self.personalization,
            self.path_weights,
            self.inner_optimizer,
            range(settings.steps_inner),
            lambda _: settings.path.learning_rate,
            max_grad_norm=settings.path.max_grad_norm,
        ):
            path_loss = step.loss
            if (step.index + 1) % settings.protect_every == 0:
                if not settings.include_personalization_gradient:
                    self.inner_optimizer.zero_grad(set_to_none=False)
                terms.append(self._backward(self.path, with_preservation=at_path))
                self._accumulate()
        if at_start and settings.preservation.weight > 0:
            terms = self._preserve_at_start(terms)
        return terms, path_loss

    def _preserve_at_start(self, terms: list[ProtectionTerms]) -> list[ProtectionTerms]:
        """Add w ∇L_preservation at θ, once, weighing as much as one at each of the `terms`.

        The terms then report its value: that of the weights that are kept.
        """
        preservation = self.objective.preserve(self.start)
        value = _finite(preservation.item(), "preservation loss")
        (self.settings.preservation.weight * len(terms) * preservation).backward()
        return [term._replace(preservation=value) for term in terms]

    def _backward(self, denoiser: Denoiser, *, with_preservation: bool) -> ProtectionTerms:
        terms = self.objective.evaluate(denoiser, with_preservation=with_preservation)
        _finite(terms.objective, "objective loss")
        _finite(terms.preservation, "preservation loss")
        terms.total.backward()
        return terms

    def _limit_gradient(self) -> None:
        """Clip g, and refuse one that is not finite: a step with it would make θ NaN."""
        norm = nn.utils.clip_grad_norm_(self.weights, self.settings.max_grad_norm or math.inf)
        _finite(norm.item(), "gradient of the protection loss")

    def _restart_path(self) -> None:
        """θ′ ← θ and a fresh inner AdamW, both in place."""
        with torch.no_grad():
            torch._foreach_copy_([*self.path_weights], [*self.weights])
        if not isinstance(self.inner_optimizer, torch.optim.AdamW):
            self.inner_optimizer.state.clear()  # 8-bit states hold more than moments
            return
        for state in self.inner_optimizer.state.values():
            for value in state.values():
                value.zero_()

    def _accumulate(self) -> None:
        """g ← g + ∇_θ′."""
        for weight, path_weight in zip(self.weights, self.path_weights, strict=True):
            if path_weight.grad is None:
                continue
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            weight.grad.add_(path_weight.grad)

    def _learning_rate(self, index: int) -> float:
        settings = self.settings
        if settings.learning_rate_schedule == "constant":
            return settings.learning_rate
        progress = index / settings.steps_outer
        return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))

    @torch.no_grad()
    def _summary(
        self, index: int, terms: list[ProtectionTerms], path_loss: float, rate: float
    ) -> OuterStep:
        originals = self.original.parameters()
        # One difference at a time: a full-size model has no memory for all of them.
        distances = [(w - o).norm() for w, o in zip(self.weights, originals, strict=True)]

        def mean(name: str) -> float:
            return sum(getattr(term, name) for term in terms) / max(len(terms), 1)

        return OuterStep(
            index,
            mean("objective"),
            mean("preservation"),
            mean("positive_margin"),
            mean("negative_margin"),
            path_loss,
            float(torch.stack(distances).norm()) / self._original_norm,
            rate,
        )


def _finite(value: float, term: str) -> float:
    if not math.isfinite(value):
        raise NonFiniteLoss(term, 0)
    return value


@torch.no_grad()
def _norm(module: nn.Module) -> float:
    return float(torch.stack([weight.float().norm() for weight in module.parameters()]).norm())
