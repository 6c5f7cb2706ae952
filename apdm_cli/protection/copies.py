"""How often the weights of the trained network lie in the device's memory at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from apdm_cli.extension.protection import ProtectionBench


@dataclass(frozen=True)
class Placement:
    """Where the parts of a protection lie.

    Attributes:
        low_memory: `--memory low`.
        device: "cpu", "cuda" or "mps".
        half: it computes in half precision.
        adapter: a difference moves on top of φ, instead of all weights.
    """

    low_memory: bool
    device: str
    half: bool
    adapter: bool

    @property
    def in_files(self) -> bool:
        """Whether φ and the moments lie in memory-mapped files."""
        return self.low_memory and self.device == "cpu"

    @property
    def beside_card(self) -> bool:
        """Whether what is not in use lies in main memory, beside a card."""
        return self.low_memory and self.device == "cuda"

    @property
    def theta_waits(self) -> bool:
        """Whether θ is away while an attacker trains; below a difference lies φ, which is used."""
        return self.beside_card and not self.adapter

    @property
    def rounded(self) -> bool:
        """Whether φ is a copy in half precision."""
        return self.theta_waits and self.half


class Copies:
    """A bench as `Protection.memory_copies` sees it: it counts, and may imagine another place.

    Args:
        frozen, share: with an adapter, copies in float32 that the network below it takes, and its
            number of weights over the network's.
    """

    def __init__(
        self, bench: ProtectionBench, place: Placement, frozen: float = 0.0, share: float = 1.0
    ) -> None:
        self._bench, self._place, self._frozen, self._share = bench, place, frozen, share

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bench, name)

    @property
    def theta_waits(self) -> bool:
        """See `Placement`."""
        return self._place.theta_waits

    def optimizer_copies(self, trained: float, kind: str = "adamw") -> float:
        """Weights and gradient, and two moments where they are in the device's memory."""
        wide = 0.0 if self._place.in_files or self._place.beside_card else 2.0
        moments = 2 / 4 if kind == "adamw8bit" else wide
        return trained * (2 + moments)

    def trained_copies(self, kind: str = "adamw") -> float:
        """θ with gradient and moments; with a difference, the network below it in its own dtype."""
        return self._frozen + self.optimizer_copies(self._share, kind)

    @property
    def reference_copies(self) -> float:
        """One; half a one where it is rounded; none in files, or below a difference."""
        if self._place.in_files or self._place.adapter:
            return 0.0
        return 0.5 if self._place.rounded else 1.0
