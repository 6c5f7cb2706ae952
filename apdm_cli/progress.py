"""How a long piece of work tells whoever watches it how far it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """What `protect`, `attack` and `evaluate` report while they go on."""

    def said(self, sentence: str) -> None:
        """Something that the user should know, as a whole sentence."""

    def stage(self, description: str, total: int, done: int = 0, unit: str = "steps") -> None:
        """A stage of `total` units begins; `done` of them were finished by an earlier process."""

    def advance(self, count: int = 1, **terms: float) -> None:
        """`count` more units of the stage are done; `terms` are its latest values by name."""


class Silent:
    """A `Progress` that shows nothing."""

    def said(self, sentence: str) -> None:
        """Drop the sentence."""

    def stage(self, description: str, total: int, done: int = 0, unit: str = "steps") -> None:
        """Show no stage."""

    def advance(self, count: int = 1, **terms: float) -> None:
        """Count nothing."""
