"""What sees an attack proceed."""

from __future__ import annotations

from typing import Protocol

from apdm_cli.personalization.loop import Step


class Watcher(Protocol):
    """Sees how an attack proceeds."""

    def phase(self, label: str, steps: int) -> None:
        """A training of `steps` steps begins."""

    def step(self, label: str, step: Step) -> None:
        """One step of it was taken."""


class Silent:
    """A watcher that shows nothing."""

    def phase(self, label: str, steps: int) -> None:
        """Nothing."""

    def step(self, label: str, step: Step) -> None:
        """Nothing."""
