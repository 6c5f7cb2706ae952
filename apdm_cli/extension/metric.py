"""What a metric is: a number about pictures that never travels without its sample count."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

from apdm_cli.scores import Backend, Better, Kind, MetricMeaning, Score

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from apdm_cli.diffusion.model import DiffusionModel

__all__ = ["Backend", "Metric", "MetricMeaning", "MetricUnavailable", "Pictures", "Score"]


@dataclass(frozen=True)
class Pictures:
    """What a metric may look at.

    Attributes:
        images: uint8 (N, H, W, 3), judged.
        prompts: one per image.
        photos: uint8 (M, H, W, 3) of the subject, or None.
        reference: uint8 (K, H, W, 3) to compare distributions with, or None.
        pairs: uint8 (N, H, W, 3): picture i as the original model draws it from the same prompt
            and seed, or None.
    """

    images: Tensor
    prompts: Sequence[str] = ()
    photos: Tensor | None = None
    reference: Tensor | None = None
    pairs: Tensor | None = None


class MetricUnavailable(Exception):
    """The metric's weights are not here; the message says which and how to get them."""


class Metric(ABC):
    """One way to score pictures, and what its scores mean.

    What is declared here is all that tables, verdict and report know of a metric: whoever brings
    it, it is shown like every other one. `MetricMeaning` says what each declaration is for.

    Attributes:
        name: as typed after --metrics.
        title: heading of its tables; the name where it is empty.
        explanation: for a reader who is new to it; the docstring's first line where it is empty.
        kind: "similarity", "distance" or "quality".
        better: direction that is better for the protected person, in pictures of an attack.
        better_for_others: direction that is better for everybody else, in all other pictures.
        leads: whether the verdict may rest on it: a similarity to the photos, lower is better.
        collapse: what a collapse of it says, where neither direction protects.
        biased_below: pictures below which the value depends on how many there are.
        needs: fields of `Pictures` that must be there.
        reads: names of --weights that it reads, the one that counts most first; its own where it is
            None.
        optional: only scored when asked for by name, never by `--metrics auto`.
        weights: backend name → path (or whatever the backend takes), from `--weights NAME=PATH`;
            set before `prepare`, whose names it knows.
    """

    name: ClassVar[str]
    title: ClassVar[str] = ""
    explanation: ClassVar[str] = ""
    kind: ClassVar[Kind]
    better: ClassVar[Better]
    better_for_others: ClassVar[Better]
    leads: ClassVar[bool] = False
    collapse: ClassVar[str | None] = None
    biased_below: ClassVar[int] = 0
    needs: ClassVar[frozenset[str]] = frozenset()
    optional: ClassVar[bool] = False
    reads: ClassVar[tuple[str, ...] | None] = None
    weights: Mapping[str, str] = MappingProxyType({})

    @abstractmethod
    def prepare(self, model: DiffusionModel, device: torch.device) -> None:
        """Load the backend for pictures of `model`; raise MetricUnavailable when it is not here."""

    @abstractmethod
    def score(self, pictures: Pictures) -> Score:
        """Score pictures; the order of the images and the batch size change nothing."""

    @property
    def summary(self) -> str:
        """One line of what it measures: the first line of the class's docstring."""
        return (type(self).__doc__ or "").strip().partition("\n")[0]

    @property
    def weight_names(self) -> tuple[str, ...]:
        """What may stand before the = of --weights for this metric."""
        return (self.name,) if self.reads is None else tuple(self.reads)

    @property
    def meaning(self) -> MetricMeaning:
        """What is declared above, for the record that scores are kept in."""
        return MetricMeaning(
            name=self.name,
            title=self.title or self.name,
            explanation=self.explanation or self.summary,
            kind=self.kind,
            better=self.better,
            better_for_others=self.better_for_others,
            leads=self.leads,
            collapse=self.collapse,
            biased_below=self.biased_below,
        )
