"""What a metric is: a number about pictures that never travels without its sample count."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from apdm_cli.diffusion.model import DiffusionModel


@dataclass(frozen=True)
class Backend:
    """The feature extractor behind a score: its name and the digest of its weights."""

    name: str
    digest: str


@dataclass(frozen=True)
class Score:
    """A number with everything needed to judge it.

    Attributes:
        metric: name, for example "dino".
        value: the score.
        n: pictures that entered; skipped: pictures that could not (constant, NaN).
        better: for the *protected person*: "lower" similarity protects better.
        backend: what made it. Scores of different backends are never compared.
        low, high: 95 % confidence interval, where one exists.
        per_picture: value per picture, where that exists.
    """

    metric: str
    value: float
    n: int
    skipped: int
    better: Literal["lower", "higher"]
    backend: Backend
    low: float | None = None
    high: float | None = None
    per_picture: tuple[float, ...] = field(default=(), repr=False)


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
    """One way to score pictures.

    Attributes:
        name: as typed after --metrics.
        better: direction that is better for the protected person ("lower" for similarity), or
            for picture quality where nobody is in the picture.
        needs: fields of `Pictures` that must be there.
        optional: only scored when asked for by name, never by `--metrics auto`.
        weights: backend name → path (or whatever the backend takes), from `--weights NAME=PATH`;
            set before `prepare`, whose names it knows.
    """

    name: ClassVar[str]
    better: ClassVar[Literal["lower", "higher"]]
    needs: ClassVar[frozenset[str]] = frozenset()
    optional: ClassVar[bool] = False
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
