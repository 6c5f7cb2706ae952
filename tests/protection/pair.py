"""Two subjects that are protected at once, on a tiny pipeline: Alice, a person, and Rex, a dog."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.protection.commands import SHORT, Desk, run
from tests.tiny import make_photos


class Pair(Desk):
    """A desk with photos of both; Rex has an identifier of his own."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.alice = make_photos(folder / "alice", count=2, seed=1)
        self.both = (f"alice={self.alice}:person", f"rex={self.photos}:dog:zwx")

    def together(self, name: str, *more: str, subjects: Sequence[str] = ()) -> int:
        """Protect them, or other `subjects`; returns the exit code."""
        named = [part for one in subjects or self.both for part in ("--subject", one)]
        settings = [part for setting in SHORT for part in ("--set", setting)]
        places = ("--model", str(self.model), "--out", str(self.runs), "--device", "cpu")
        return run(["protect", *named, *places, "--name", name, *settings, *more])

    def manifest(self, name: str) -> dict[str, Any]:
        """manifest.json of a run."""
        loaded: dict[str, Any] = json.loads((self.runs / name / "manifest.json").read_text())
        return loaded
