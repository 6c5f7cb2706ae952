"""Learning-to-Protect: the bilevel loop (algorithm 1 of arXiv 2511.01307)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from apdm_cli.diffusion.denoiser import Denoiser
from apdm_cli.diffusion.eight_bits import whole_weights
from apdm_cli.diffusion.low_rank import LowRankDifference
from apdm_cli.personalization.averaging import WeightAverage, exponential, mean_from
from apdm_cli.personalization.loop import NonFiniteLoss, Step
from apdm_cli.personalization.optimizers import MakeOptimizer, load_optimizer
from apdm_cli.protection.attackers import Crew, SimulatedAttacker, in_turn
from apdm_cli.protection.displaced import DisplacedPreservation
from apdm_cli.protection.objective import (
    Measured,
    ProtectionObjective,
    ProtectionTerms,
    measured,
)
from apdm_cli.protection.settings import ProtectionSettings
from apdm_cli.runs.ranks import Ranks


@dataclass(frozen=True)
class OuterStep:
    """What one outer iteration measured; means over its protective gradients.

    Attributes:
        index: of the outer step just taken, from 0.
        objective, preservation: loss parts, preservation unweighted.
        positive_margin, negative_margin: r⁺ and r⁻ per element, or logarithms of ratios.
        path_loss: L_per at the end of the inner path; NaN without one.
        path_age: attack steps that the simulated attacker has behind it; NaN without one.
        others: log(e_θ / e_φ) of a learner of somebody else; NaN in steps without one.
        drift: ‖θ − θ_0‖ / ‖θ_0‖.
        learning_rate: of the outer step.
        displaced: preservation where an attacker of an earlier subject was; NaN without any.
    """

    index: int
    objective: float
    preservation: float
    positive_margin: float
    negative_margin: float
    path_loss: float
    path_age: float
    others: float
    drift: float
    learning_rate: float
    displaced: float = math.nan


class LearningToProtect:
    """Iterates the paper's algorithm on `start` (θ), which is updated in place.

    repeat N_protect times { θ′ ← θ; g ← 0; repeat N_per times { one AdamW step on θ′ with ∇L_per;
    g ← g + ∇_θ′ L_protect, evaluated after that step }; one AdamW step on θ with g }

    First order: no gradient flows through the inner steps. The accumulator g is the `.grad` of θ.
    Who makes the inner steps is the crew's matter: the paper's path starts afresh from θ every
    time, persistent attackers go on where they were. Not in the paper: a term at θ itself,
    learners of others, and an average of θ (docs/method.md).

    Args:
        start: θ; its network is trained.
        attackers: who moves θ′; None where the gradient is taken at θ (N_per = 0).
        original: θ before any step, for the drift, on any device; φ will do.
        objective: L_protect.
        optimizer: makes the optimizer for a list of parameters.
        others: learners of somebody else, who are to stay able to learn; or None.
        difference: what moves in the place of all weights of `start`: θ − φ, of low rank.
        displaced: fixed attackers of subjects whom φ protects already; or None.
        ranks: the processes that walk trajectories of their own from the same θ. g is the mean of
            theirs, so that θ stays the same in all of them.
    """

    # Of the state, what is the same in every rank.
    common = ("optimizer", "average")

    def __init__(
        self,
        start: Denoiser,
        attackers: Crew | None,
        original: nn.Module,
        objective: ProtectionObjective,
        optimizer: MakeOptimizer,
        settings: ProtectionSettings,
        others: Crew | None = None,
        difference: LowRankDifference | None = None,
        displaced: DisplacedPreservation | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.start, self.attackers, self.others = start, attackers, others
        self.original, self.objective, self.settings = original, objective, settings
        self.difference, self.displaced = difference, displaced
        self.ranks = ranks or Ranks()
        self.weights: list[nn.Parameter] = (
            list(start.network.parameters()) if difference is None else difference.parameters
        )
        self.outer_optimizer = optimizer(self.weights, settings.learning_rate)
        self.average: WeightAverage | None = None
        if settings.average > 0:
            self.average = WeightAverage(self.weights, exponential(settings.average))
        elif settings.average_last > 0:
            first = settings.steps_outer - math.ceil(settings.average_last * settings.steps_outer)
            self.average = WeightAverage(self.weights, mean_from(first))
        self._original_norm = _norm(original)

    def prepare(self) -> Iterator[int]:
        """What comes before the first outer step, unless a checkpoint is loaded.

        Yields after every attack step.
        """
        for crew in self.crews:
            yield from crew.prepare()

    def state_dict(self) -> dict[str, Any]:
        """The outer optimizer, the attackers and learners that persist, and the average of θ."""
        return {
            "optimizer": self.outer_optimizer.state_dict(),
            "crews": [crew.state_dict() for crew in self.crews],
            "average": None if self.average is None else self.average.shadow,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to `state`, after θ; attackers that are born again draw from the streams."""
        load_optimizer(self.outer_optimizer, state["optimizer"])
        # A weight that has moved before moves on by its moments, also where a step does not reach
        # it; without a gradient the optimizer would pass over it.
        for weight, values in self.outer_optimizer.state.items():
            if values.get("step"):
                weight.grad = torch.zeros_like(weight)
        for crew, saved in zip(self.crews, state["crews"], strict=True):
            crew.load_state_dict(saved)
        if self.average is not None:
            self.average.load(state["average"])

    @property
    def crews(self) -> list[Crew]:
        """Attackers and learners, where there are any."""
        return [crew for crew in (self.attackers, self.others) if crew is not None]

    def iterate(self, first: int = 0) -> Iterator[OuterStep]:
        """Take the outer steps `first` ... N_protect − 1, yielding after each.

        When the iterator is exhausted θ holds the result: its average, where one is kept.

        Raises:
            NonFiniteLoss: before θ is touched, naming the term.
        """
        for index in range(first, self.settings.steps_outer):
            self.outer_optimizer.zero_grad(set_to_none=False)
            try:
                terms, path = self._protective_gradients(index)
                taught = self._teach_others(index)
                failing = self._preserve_displaced(index)
                self.ranks.average(self.weights)
                self._limit_gradient()
            except NonFiniteLoss as error:  # raised where the outer step is not known
                raise NonFiniteLoss(error.term, index) from None
            rate = self._learning_rate(index)
            for group in self.outer_optimizer.param_groups:
                group["lr"] = rate
            self.outer_optimizer.step()
            if self.average is not None:
                self.average.update(index)
            yield replace(self._summary(index, terms, path, taught, rate), displaced=failing)
        if self.average is not None:
            self.average.apply()

    def _protective_gradients(self, index: int = 0) -> tuple[list[Measured], tuple[float, float]]:
        """Leave Σ ∇L_protect in the `.grad` of θ.

        Returns:
            its terms, and the path's last loss and age. They are read when all steps are on their
            way: a card that is asked for every value stands still in between.
        """
        settings = self.settings
        if self.attackers is None:
            sides, every = len(self.objective.sides), settings.others.every
            whose = in_turn(index, sides, 1 if self.others is None else every)
            alone = self._backward(self.start, with_preservation=True, whose=whose)
            return _finite_terms([alone]), (math.nan, math.nan)
        at_path = settings.preservation.evaluated_at != "start"
        at_start = settings.preservation.evaluated_at != "path"
        terms: list[ProtectionTerms] = []
        path = (math.nan, math.nan)
        last: Step | None = None
        with self.attackers.turn(index) as attacker:
            for number, step in enumerate(attacker.steps(settings.steps_inner), start=1):
                last = step
                if number % settings.protect_every == 0:
                    if not settings.include_personalization_gradient:
                        attacker.optimizer.zero_grad()
                    with attacker.open_to_gradients():
                        terms.append(self._backward_at(attacker, with_preservation=at_path))
                    attacker.accumulate()
            if last is not None:
                path = (last.loss, float(attacker.age))
        found = _finite_terms(terms)
        if settings.margin.at_start > 0:
            found = self._protect_at_start(found, attacker.whose, with_preservation=at_start)
        elif at_start and settings.preservation.weight > 0:
            found = self._preserve_at_start(found)
        return found, path

    def _teach_others(self, index: int) -> float:
        """Add w ∇ log(e_θ′ / e_φ) where θ′ learns somebody else; returns its value."""
        chosen = self.settings.others
        if self.others is None or (index + 1) % chosen.every:
            return math.nan
        with self.others.turn(index // chosen.every) as learner:
            for _ in learner.steps(1):
                pass
            learner.optimizer.zero_grad()
            assert learner.pictures is not None
            with learner.open_to_gradients():
                taught = self.objective.taught(
                    learner.denoiser,
                    learner.pictures,
                    chosen.batch_size,
                    learner.whose,
                    learner.personal,
                )
                value = _finite(taught.item(), "loss of the learners of others")
                (chosen.weight * taught).backward()
            learner.accumulate()
        return value

    def _preserve_displaced(self, index: int) -> float:
        """Add w ∇ of the preservation at θ + δ of an earlier subject's attacker; its value."""
        if self.displaced is None:
            return math.nan
        with self.displaced.turn(index) as error:
            value = _finite(error.item(), "preservation at an earlier displacement")
            (self.settings.preservation.displaced * error).backward()
        return value

    def _protect_at_start(
        self, terms: list[Measured], whose: int, *, with_preservation: bool
    ) -> list[Measured]:
        """Add the gradient at θ itself, L_DPO with its own weight and number of pairs.

        The preservation weighs as much as in `_preserve_at_start`.
        """
        margin = self.settings.margin
        taken = self._backward(
            self.start,
            with_preservation=with_preservation,
            count=margin.at_start_pairs,
            weight=margin.at_start,
            preserving=len(terms),
            whose=whose,
        )
        (at_start,) = _finite_terms([taken])
        if not with_preservation:
            return terms
        return [term._replace(preservation=at_start.preservation) for term in terms]

    def _preserve_at_start(self, terms: list[Measured]) -> list[Measured]:
        """Add w ∇L_preservation at θ, once, weighing as much as one at each of the `terms`.

        The terms then report its value: that of the weights that are kept.
        """
        preservation = self.objective.preserve(self.start)
        value = _finite(preservation.item(), "preservation loss")
        (self.settings.preservation.weight * len(terms) * preservation).backward()
        return [term._replace(preservation=value) for term in terms]

    def _backward_at(
        self, attacker: SimulatedAttacker, *, with_preservation: bool
    ) -> ProtectionTerms:
        return self._backward(
            attacker.denoiser,
            with_preservation=with_preservation,
            personal=attacker.personal,
            whose=attacker.whose,
        )

    def _backward(self, denoiser: Denoiser, **how: Any) -> ProtectionTerms:
        terms = self.objective.evaluate(denoiser, **how)
        terms.total.backward()
        return terms

    def _limit_gradient(self) -> None:
        """Clip g, and refuse one that is not finite: a step with it would make θ NaN."""
        norm = nn.utils.clip_grad_norm_(self.weights, self.settings.max_grad_norm or math.inf)
        _finite(norm.item(), "gradient of the protection loss")

    def _learning_rate(self, index: int) -> float:
        settings = self.settings
        if settings.learning_rate_schedule == "constant":
            return settings.learning_rate
        progress = index / settings.steps_outer
        return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))

    @torch.no_grad()
    def _summary(
        self,
        index: int,
        terms: list[Measured],
        path: tuple[float, float],
        taught: float,
        rate: float,
    ) -> OuterStep:
        def mean(name: str) -> float:
            return sum(getattr(term, name) for term in terms) / max(len(terms), 1)

        return OuterStep(
            index,
            mean("objective"),
            mean("preservation"),
            mean("positive_margin"),
            mean("negative_margin"),
            *path,
            taught,
            self._distance() / self._original_norm,
            rate,
        )

    def _distance(self) -> float:
        """‖θ − θ_0‖."""
        if self.difference is not None:
            return self.difference.norm()
        originals = self.original.parameters()
        # One difference at a time: a full-size model has no memory for all of them.
        distances = [
            (weight - original.to(weight.device, non_blocking=True)).norm()
            for weight, original in zip(self.weights, originals, strict=True)
        ]
        return float(torch.stack(distances).norm())


def _finite_terms(terms: Sequence[ProtectionTerms]) -> list[Measured]:
    found = measured(terms)
    for each in found:
        _finite(each.objective, "objective loss")
        _finite(each.preservation, "preservation loss")
    return found


def _finite(value: float, term: str) -> float:
    if not math.isfinite(value):
        raise NonFiniteLoss(term, 0)
    return value


@torch.no_grad()
def _norm(module: nn.Module) -> float:
    return float(torch.stack([weight.float().norm() for weight in whole_weights(module)]).norm())
