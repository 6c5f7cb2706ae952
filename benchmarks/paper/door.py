"""The `apdm` commands as a table needs them. What is finished is found and not done again."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from apdm_cli.diffusion.photos import photo_hashes
from apdm_cli.errors import ApdmError
from apdm_cli.pocket.samples import Sample
from apdm_cli.runs.jsonable import canonical_json
from apdm_cli.runs.run import DONE, Run
from apdm_cli.scores import ScoresFile
from benchmarks.ci import call, options
from benchmarks.paper import scale as scales
from benchmarks.paper.subjects import attack_photos
from benchmarks.paper.tables import AttackOptions, ProtectOptions


@dataclass(frozen=True)
class Attacked:
    """One `apdm attack` call.

    Attributes:
        run: that its cells belong to.
        cells: (arm, cell) of every finished one.
        errors: what went wrong with the others.
    """

    run: str
    cells: frozenset[tuple[str, str]]
    errors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Door:
    """What every command of a table shares.

    Attributes:
        model, out: `--model` and `--out`.
        common: options of every command that computes: device, dtype.
        attacking, evaluating: options of these two alone: seeds; weights.
    """

    model: str
    out: Path
    scale: scales.Scale
    common: dict[str, Any] = field(default_factory=dict)
    attacking: dict[str, Any] = field(default_factory=dict)
    evaluating: dict[str, Any] = field(default_factory=dict)

    def protect(self, subject: Sample, wanted: ProtectOptions) -> Run:
        """The finished run of `subject` with these settings; tables that share `out` share it."""
        settings = {"preset": wanted.preset, "set": scales.protection(wanted, self.scale)}
        photos = photo_hashes([subject.seen])
        described = {"model": self.model, "photos": photos, **settings}
        digest = hashlib.sha256(canonical_json(described).encode()).hexdigest()[:8]
        name = f"{subject.name}-{digest}"
        run = next((run for run in Run.all(self.out) if run.name == name), None)
        if run is None or run.status != DONE:
            given: dict[str, Any] = {"class": subject.class_noun, "name": name}
            given |= {"model": self.model, "resume": run is not None, **settings}
            self._run(["protect", str(subject.seen)], {**given, **self.common})
        return Run.open(self.out, name)

    def attack(self, run: Run, subject: Sample, wanted: AttackOptions) -> Attacked:
        """Attack both arms of `run`, which protects `subject`."""
        given: dict[str, Any] = {"plugin": wanted.plugin, "transform": wanted.transform}
        given |= {"identifier": wanted.identifier}
        if wanted.photos != "seen" or wanted.count is not None:
            given["photos"] = self.photos(subject, wanted)
        return self._attack([run.name], given)

    def photos(self, subject: Sample, wanted: AttackOptions) -> list[Path]:
        """What the attacker gets; ApdmError where that is too few, but for a tiny run."""
        full = self.scale == "full"
        return attack_photos(subject, wanted.photos, wanted.count, all_needed=full)

    def attack_other(self, run: Run, other: Sample, wanted: AttackOptions) -> Attacked:
        """Teach `other` to `run`'s model and to its original: a run of its own stands for that.

        `apdm evaluate --neighbours` would teach it under the protected subject's class noun.
        """
        given: dict[str, Any] = {
            "model": run.model,
            "original": self.model,
            "photos": other.seen,
            "subject_class": other.class_noun,
            "plugin": wanted.plugin,
        }
        return self._attack([], given)

    def evaluate(self, run: str, wanted: dict[str, Any], metrics: Sequence[str]) -> ScoresFile:
        """Draw and score everything that `run` has; also writes its comparison and report."""
        given = {**scales.evaluation(wanted, self.scale), "metrics": ",".join(metrics)}
        # Exit code 1 with an answer: something is left out, and the scores name it.
        answer = self._answer(["evaluate", run], {**given, **self.evaluating})
        scores = ScoresFile.model_validate(answer)
        if any(row.role == "attack" for row in scores.rows):
            self._run(["compare", run], {})
        return scores

    def _attack(self, words: Sequence[str], given: dict[str, Any]) -> Attacked:
        given |= {"set": scales.attack(self.scale)}
        # Exit code 1 with an answer: some cells failed, and the answer names them.
        answer = self._answer(["attack", *words], {**given, **self.attacking})
        done = {(c["arm"], c["cell"]) for c in answer["cells"] if c["status"] != "failed"}
        errors = tuple(str(c["error"]) for c in answer["cells"] if c["status"] == "failed")
        return Attacked(answer["run"], frozenset(done), errors)

    def _answer(self, words: Sequence[str], given: dict[str, Any]) -> dict[str, Any]:
        """What a command prints with --json, also where something in it is missing."""
        text = io.StringIO()
        self._run(words, {**given, "json": True, **self.common}, text, (0, 1))
        if not text.getvalue():
            raise ApdmError(f"apdm {words[0]} ended with an error (its message is above)")
        return dict(json.loads(text.getvalue()))

    def _run(
        self,
        words: Sequence[str],
        given: dict[str, Any],
        into: TextIO | None = None,
        fine: Sequence[int] = (0,),
    ) -> None:
        """One command, its stdout in `into`: what it prints is talk here, stdout is the table's."""
        command = [*words, *options(_plain(given)), "--out", str(self.out)]
        print(f"$ apdm {shlex.join(command)}", file=sys.stderr, flush=True)
        started = time.monotonic()
        with contextlib.redirect_stdout(into or sys.stderr):
            code = call(command)
        print(f"  {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
        if code not in fine:
            raise ApdmError(f"apdm {words[0]} ended with exit code {code} (its message is above)")


def _plain(given: dict[str, Any]) -> dict[str, Any]:
    """Sequences as lists, which is what repeats an option; what is not set is left out."""
    lists = {key: list(v) if isinstance(v, tuple) else v for key, v in given.items()}
    return {key: value for key, value in lists.items() if value not in ([], {}, None)}
