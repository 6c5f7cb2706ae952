"""How fast an attack was on this machine: what the plan of the next one reckons with."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any


@dataclass
class Pace:
    """What was done, and in how many seconds.

    Only what this process did itself counts: what an interrupted one did before is no part of it.

    Attributes:
        steps: optimizer steps.
        pictures: drawn at the budgets on the way.
    """

    steps: int = 0
    step_seconds: float = 0.0
    pictures: int = 0
    picture_seconds: float = 0.0

    def step(self, seconds: float) -> None:
        """Note one optimizer step."""
        self.steps += 1
        self.step_seconds += seconds

    @contextmanager
    def drawing(self, pictures: int) -> Iterator[None]:
        """Note that the block draws so many."""
        started = time.monotonic()
        yield
        self.pictures += pictures
        self.picture_seconds += time.monotonic() - started

    def __add__(self, other: Pace) -> Pace:
        return replace(
            self,
            steps=self.steps + other.steps,
            step_seconds=self.step_seconds + other.step_seconds,
            pictures=self.pictures + other.pictures,
            picture_seconds=self.picture_seconds + other.picture_seconds,
        )

    def seconds(self, steps: int, pictures: int) -> float | None:
        """How long so much would take at this pace; None where a part of it was not measured."""
        if (steps and not self.steps) or (pictures and not self.pictures):
            return None
        training = steps * self.step_seconds / self.steps if steps else 0.0
        drawing = pictures * self.picture_seconds / self.pictures if pictures else 0.0
        return training + drawing

    def as_record(self) -> dict[str, Any]:
        """For a manifest."""
        return {
            "steps": self.steps,
            "step_seconds": round(self.step_seconds, 3),
            "pictures": self.pictures,
            "picture_seconds": round(self.picture_seconds, 3),
        }

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> Pace:
        """What a finished cell took; nothing for one of an earlier version, which kept no pace."""
        recorded = manifest.get("pace") or {}
        return cls(**{name: recorded[name] for name in cls().as_record() if name in recorded})
