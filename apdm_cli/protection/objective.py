"""L_protect: draws pairs and evaluates Direct Protective Optimization with preservation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from apdm_cli.devices import sent
from apdm_cli.diffusion.condition import Condition
from apdm_cli.diffusion.denoiser import Denoiser, NoisyDraw
from apdm_cli.diffusion.latents import LatentDistribution
from apdm_cli.diffusion.process import NoiseProcess
from apdm_cli.personalization.dreambooth import PictureSource
from apdm_cli.protection.dpo import (
    direct_protective_loss,
    naive_protection_loss,
    relative_margin,
    relative_protective_loss,
    reward_margin,
)
from apdm_cli.protection.preservation import (
    PreservationDraw,
    PreservationTerm,
    TypicalError,
    preservation_error,
)
from apdm_cli.protection.settings import ProtectionSettings
from apdm_cli.randomness import Streams


class Measured(NamedTuple):
    """The values of one evaluation of L_protect.

    Attributes:
        objective: L_DPO, or the naive objective.
        preservation: unweighted; 0 where it is evaluated elsewhere.
        positive_margin, negative_margin: mean r⁺ and r⁻: per element, or logarithms of ratios
            where margins are relative.
    """

    objective: float
    preservation: float
    positive_margin: float
    negative_margin: float


@dataclass(frozen=True)
class ProtectionTerms:
    """One evaluation of L_protect.

    Attributes:
        total: scalar with gradient, objective + weight · preservation.
        values: scalars on the device without gradients, those of `Measured`.
    """

    total: Tensor
    values: tuple[Tensor, ...]

    def measured(self) -> Measured:
        """The values; on a card, reading them is a wait."""
        return measured([self])[0]


def measured(terms: Sequence[ProtectionTerms]) -> list[Measured]:
    """The values of several evaluations, read all at once."""
    if not terms:
        return []
    rows = torch.stack([torch.stack(term.values) for term in terms]).tolist()
    return [Measured(*row) for row in rows]


@dataclass(frozen=True)
class Pairs:
    """Class pictures x⁺ and photos x⁻ with one timestep and one noise for both of a pair."""

    positive: NoisyDraw
    negative: NoisyDraw


class PairSource:
    """Draws pairs (x⁺, x⁻); photo i always goes with class picture i unless `random`.

    Args:
        photos: N latent distributions of the subject, x⁻.
        class_pictures: at least N latent distributions, x⁺.
        name: of its streams.
    """

    def __init__(
        self,
        photos: LatentDistribution,
        class_pictures: LatentDistribution,
        settings: ProtectionSettings,
        process: NoiseProcess,
        streams: Streams,
        name: str = "pairs",
    ) -> None:
        self.photos, self.class_pictures = photos, class_pictures
        self.random = settings.pairing == "random"
        self.process, self.limits = process, settings.timestep_range
        names = ("choice", "partner", "positive", "negative", "noise", "timesteps")
        self._streams = {what: streams.generator(f"protect/{name}/{what}") for what in names}

    def draw(self, count: int) -> Pairs:
        """Draw `count` pairs with replacement."""
        photo = torch.randint(len(self.photos), (count,), generator=self._streams["choice"])
        partner = photo
        if self.random:
            pool = len(self.class_pictures)
            partner = torch.randint(pool, (count,), generator=self._streams["partner"])
        negative = self.photos.sample(photo, self._streams["negative"])
        positive = self.class_pictures.sample(partner, self._streams["positive"])
        noise = torch.randn(negative.shape, generator=self._streams["noise"])
        noise = sent(noise, negative.device)
        steps = self.process.draw_timesteps(count, self.limits, self._streams["timesteps"])
        steps = sent(steps, negative.device)
        return Pairs(NoisyDraw(positive, noise, steps), NoisyDraw(negative, noise, steps))


class ProtectionObjective:
    """L_protect = L_DPO + w · L_preservation (docs/method.md).

    Args:
        reference: φ, the frozen original.
        pairs: where (x⁺, x⁻) come from.
        personal_condition: c_per, a batch of one; both members of a pair carry it.
        preservation: the term that keeps the rest in place.
        typical: ē(t) that the preservation is divided by; None does not.
        further: pairs and c_per of every further subject, where there are several.
    """

    def __init__(
        self,
        reference: Denoiser,
        pairs: PairSource,
        personal_condition: Condition,
        preservation: PreservationTerm,
        settings: ProtectionSettings,
        typical: TypicalError | None = None,
        further: Sequence[tuple[PairSource, Condition]] = (),
    ) -> None:
        self.reference, self.pairs = reference, pairs
        self.personal_condition = personal_condition
        self.preservation, self.settings, self.typical = preservation, settings, typical
        self.sides = [(pairs, personal_condition), *further]

    def evaluate(
        self,
        denoiser: Denoiser,
        *,
        with_preservation: bool,
        count: int | None = None,
        weight: float = 1.0,
        preserving: float = 1.0,
        personal: Condition | None = None,
        whose: int = 0,
    ) -> ProtectionTerms:
        """Draw pairs (and a preservation batch) and evaluate L_protect at `denoiser`'s weights.

        Forwards through the same weights run as one batch, unless `batched_forwards` is off.

        Args:
            count: pairs; `batch_size` of the settings unless given.
            weight: of L_DPO.
            preserving: how many times its own weight the preservation has.
            personal: c_per as an attacker with a word or text encoder of its own embeds it, a
                batch of one. φ is always asked with the subject's.
            whose: number of the subject.
        """
        settings = self.settings
        count = count or settings.batch_size
        source, subject = self.sides[whose]
        pairs = source.draw(count)
        own = subject.expand(count)
        attacked = own if personal is None else personal.expand(count)
        draws, conditions = [pairs.positive, pairs.negative], [attacked, attacked]
        originals = [own, own]
        kept: PreservationDraw | None = None
        if with_preservation and settings.preservation.weight > 0:
            kept = self.preservation.draw()
            draws.append(kept.draw)
            conditions.append(kept.condition)
            originals.append(kept.condition)
        distilled = kept is not None and kept.distill
        together = settings.batched_forwards
        asked = 3 if distilled else 2
        with torch.no_grad():  # first, while no activations are held for the backward pass
            original = self.reference.predict_each(
                draws[:asked], originals[:asked], one_forward=together
            )
        policy = denoiser.predict_each(draws, conditions, one_forward=together)
        policy_positive, policy_negative, reference_positive, reference_negative = (
            (prediction - denoiser.target(draw)).square()
            for predictions in (policy, original)
            for prediction, draw in zip(predictions[:2], draws[:2], strict=True)
        )
        relative = settings.margin.kind == "relative"
        compare = relative_margin if relative else reward_margin
        positive = compare(policy_positive, reference_positive)
        negative = compare(policy_negative, reference_negative)
        if settings.objective == "naive":
            objective = naive_protection_loss(policy_negative)
        elif relative:
            objective = relative_protective_loss(
                positive,
                negative,
                settings.beta,
                one_sided=settings.margin.one_sided,
                max_negative_margin=settings.max_negative_margin,
            )
        else:
            objective = direct_protective_loss(
                policy_positive,
                reference_positive,
                policy_negative,
                reference_negative,
                settings.beta,
                settings.dpo_reduction,
                settings.max_negative_margin,
            )
        preserved = objective.new_zeros(())
        if kept is not None:
            reference = original[2] if distilled else None
            preserved = self._preserved(denoiser, kept, policy[2], reference)
        total = weight * objective + settings.preservation.weight * preserving * preserved
        found = (objective, preserved, positive.mean(), negative.mean())
        return ProtectionTerms(total, tuple(value.detach() for value in found))

    def preserve(self, denoiser: Denoiser) -> Tensor:
        """The preservation term alone at `denoiser`'s weights, unweighted, a scalar."""
        kept = self.preservation.draw()
        (prediction,) = denoiser.predict_each([kept.draw], [kept.condition])
        reference = None
        if kept.distill:
            with torch.no_grad():
                (reference,) = self.reference.predict_each([kept.draw], [kept.condition])
        return self._preserved(denoiser, kept, prediction, reference)

    def taught(
        self,
        denoiser: Denoiser,
        pictures: PictureSource,
        count: int,
        whose: int = 0,
        personal: Condition | None = None,
    ) -> Tensor:
        """mean log(e_θ / e_φ) on `count` pictures of somebody else, as a learner sees them.

        Low where the learner's weights know that person well; θ is moved to make it lower, so
        that others can still be taught. Not in the paper.

        Args:
            whose: number of the subject under whose words they are learnt.
            personal: c_per as the learner embeds it, as in `evaluate`.
        """
        drawn = pictures.draw(count)
        own = self.sides[whose][1].expand(count)
        learners = own if personal is None else personal.expand(count)
        with torch.no_grad():
            (original,) = self.reference.squared_errors([drawn], [own])
        (learnt,) = denoiser.squared_errors([drawn], [learners])
        return relative_margin(learnt, original).mean()

    def _preserved(
        self,
        denoiser: Denoiser,
        kept: PreservationDraw,
        prediction: Tensor,
        reference: Tensor | None,
    ) -> Tensor:
        if not kept.distill:
            return preservation_error(denoiser, kept, prediction, reference).mean()
        means = self.settings.preservation.means
        error = preservation_error(denoiser, kept, prediction, reference, self.typical, means)
        return error.mean()
