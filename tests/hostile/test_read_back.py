"""Files that are read back: what lies in them is refused in a sentence, or means what it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apdm_cli.errors import ApdmError
from apdm_cli.harness.pace import Pace
from apdm_cli.runs.cells import FAILURE, Cell, failed_cells
from apdm_cli.runs.checkpoints import DIGESTS, STATE, TENSORS, torn_reason
from apdm_cli.runs.differences import require_same
from apdm_cli.runs.jsonl import StepLog, read_rows, truncate_log
from apdm_cli.runs.manifest import MANIFEST, read_json, read_manifest
from apdm_cli.runs.run import Run
from apdm_cli.subject import SubjectRecord
from tests.hostile.counting import hostile, tried
from tests.hostile.inputs import TEXTS, Tally, as_json, changed, json_texts, toml_texts

DIGEST = "0" * 64
RUN: dict[str, Any] = {
    "kind": "protect",
    "name": "ann",
    "status": "done",
    "created": "2026-01-01T00:00:00+00:00",
    "finished": "2026-01-01T00:00:01+00:00",
    "schema": 1,
    "model": {"source": "pocket", "revision": None, "digest": DIGEST},
    "subject": {
        "name": "ann",
        "class_noun": "person",
        "identifier": "sks",
        "photos": {"sources": ["/photos"], "files": [{"name": "0.png", "sha256": DIGEST}]},
    },
    "configuration": {"steps": 3},
    "preset": "pocket",
    "seed": 0,
    "device": "cpu",
    "dtype": "float32",
    "duration_seconds": 1.5,
    "versions": {"torch": "2.8", "peft": None},
    "summary": {"steps": 3},
}
CELL: dict[str, Any] = {
    **{key: RUN[key] for key in ("schema", "model", "subject", "configuration", "seed")},
    **{"kind": "attack", "attack": "lora", "variant": "", "arm": "protected", "profile": "pocket"},
    **{"control": "lora-0", "status": "done", "prompt_word": "sks", "transforms": ["flip"]},
    **{"artifact": {"kind": "lora", "path": "artifact"}, "duration_seconds": 2.0, "error": None},
    **{"summary": {"final_loss": 0.1}},
    **{"pace": {"steps": 3, "step_seconds": 1.5, "pictures": 2, "picture_seconds": 0.5}},
}
# Where any value of JSON is right: what stands there is somebody else's.
FREE = {"configuration.steps", "summary.steps", "summary.final_loss"}


def write(folder: Path, content: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)  # truncating is slow on some file systems
    (folder / MANIFEST).write_bytes(content)
    return folder


@pytest.mark.parametrize("document", [RUN, CELL], ids=["run", "cell"])
def test_whole_manifests_are_read(tmp_path: Path, document: dict[str, Any]) -> None:
    assert read_manifest(write(tmp_path / "run", as_json(document))) == document


@hostile("files that are read back", "read_manifest, Run")
def test_what_is_no_json_object_is_refused(tmp_path: Path) -> None:
    tally = Tally()
    for number, content in enumerate(json_texts()):
        folder = write(tmp_path / "run", content)
        tally.offer(f"json {number}", read_manifest, folder)
        tally.offer(f"open {number}", Run.open, tmp_path, folder.name)
    assert not tally.failed
    assert not tally.used  # not one of them is a manifest


@hostile("files that are read back", "read_manifest, Run")
def test_an_entry_of_another_type_is_refused_or_harmless(tmp_path: Path) -> None:
    """One entry at a time; what is accepted has a type that the product can go on with."""
    tally = Tally()
    for document in (RUN, CELL):
        for name, other in changed(document):
            folder = write(tmp_path / "run", as_json(other))
            tally.offer(name, _used, folder)
    assert not tally.failed, tally.failed[:5]
    assert len(tally) > 1_500
    wrong = [name for name in tally.used if not _is_harmless(name)]
    assert not wrong, wrong[:10]


def use(manifest: dict[str, Any]) -> None:
    """What commands do with a manifest that they read."""
    run = Run(Path("x"), manifest)
    assert isinstance(run.name, str) and isinstance(run.status, str) and run._age is not None
    if manifest.get("subject") is not None:
        record = SubjectRecord.from_manifest(manifest["subject"])
        assert all(isinstance(word, str) for word in (record.name, *map(str, record.sources)))
        assert sorted(record.digests) is not None
    if manifest.get("model") is not None:
        assert len(manifest["model"]["source"]) + len(manifest["model"]["digest"]) >= 0
    assert 0 <= (manifest.get("duration_seconds") or 0) < float("inf")
    assert 0 <= (Pace.of(manifest).seconds(1, 1) or 0) < float("inf")
    json.dumps(manifest, allow_nan=False)
    require_same("x", RUN, {**RUN, "created": RUN["created"]}, ("subject",))


def _is_harmless(name: str) -> bool:
    """Whether the replaced entry may hold such a value: the same type as before, or any."""
    from tests.hostile.inputs import VALUES

    place, _, rest = name.partition(" = ")
    value = VALUES[int(rest[len("VALUES[") : -1])]
    if place in FREE or place.startswith(("configuration.", "summary.")):
        return True
    nullable = {
        *("model", "subject", "preset", "created", "finished", "device", "dtype", "control"),
        *("duration_seconds", "error", "artifact", "profile", "model.revision"),
        *("versions.torch", "versions.peft", "pace"),
    }
    if value is None:
        return place in nullable
    if isinstance(value, dict):
        # Of a pace only what it is known to hold is looked at, and that has its types.
        return place in {"configuration", "summary", "pace"} or (
            place == "versions" and value in ({}, {"": None})
        )
    if isinstance(value, list):
        return value == [] or (place.endswith(("sources", "transforms")) and value == ["text"])
    if isinstance(value, bool):
        return False
    if isinstance(value, int | float):
        if place.startswith("pace."):
            return 0 <= value < 2**63
        return place in {"seed", "schema", "duration_seconds"} and abs(value) < 2**63
    return isinstance(value, str)


@hostile("files that are read back", "read_manifest, Run")
def test_a_damaged_run_hides_no_other(tmp_path: Path) -> None:
    write(tmp_path / "good", as_json(RUN))
    for number, content in enumerate(json_texts()):
        write(tmp_path / f"bad-{number}", content)
        tried()
    assert [run.path.name for run in Run.all(tmp_path)] == ["good"]
    assert Run.newest_finished(tmp_path).path.name == "good"


@hostile("files that are read back", "read_manifest, Run")
def test_names_of_runs(tmp_path: Path) -> None:
    write(tmp_path / "good", as_json(RUN))
    tally = Tally()
    for text in TEXTS:
        tally.offer(f"open {text[:20]!r}", Run.open, tmp_path, text)
        tally.offer(f"make {text[:20]!r}", Run.create, tmp_path / "new", text)
    assert not tally.failed, tally.failed[:5]
    made = {path.name for path in (tmp_path / "new").iterdir()}
    assert all(name.isprintable() and name not in ("", ".", "..") for name in made)
    assert {name.partition(" ")[0] for name in tally.used} == {"make"}


@hostile("files that are read back", "Cell")
def test_failures_that_are_damaged_still_count(tmp_path: Path) -> None:
    for number, content in enumerate(json_texts()):
        folder = tmp_path / f"c{number}.partial"
        folder.mkdir()
        (folder / FAILURE).write_bytes(content)
        tried()
        with pytest.raises(ApdmError):
            _ = Cell(tmp_path, f"c{number}").failure
    found = failed_cells(tmp_path)
    assert len(found) == sum(1 for _ in json_texts())
    assert all(entry["error"] for entry in found.values())


@hostile("files that are read back", "read_rows, StepLog")
def test_logs(tmp_path: Path) -> None:
    log, tally = tmp_path / "losses.jsonl", Tally()
    for number, content in enumerate(json_texts()):
        line = content.replace(b"\n", b" ") + b"\n"
        log.write_bytes(b'{"step": 0}\n' + line + b'{"step": 1}\n')
        tally.offer(f"read {number}", read_rows, log)
        tally.offer(f"cut {number}", truncate_log, log, 1)
        tally.offer(f"again {number}", _log_again, log)
    assert not tally.failed, tally.failed[:5]
    assert read_rows(log) == [{"step": 0}]


@hostile("files that are read back", "read_rows, StepLog")
def test_a_log_whose_steps_are_no_numbers(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"step": "a"}\n{"step": null}\n{"step": [1]}\n{"step": 0}\n{"step": 7}\n')
    truncate_log(log, 5)
    assert read_rows(log) == [{"step": 0}]


@hostile("files that are read back", "Checkpoints")
def test_digests_of_checkpoints(tmp_path: Path) -> None:
    for name in (TENSORS, STATE):
        (tmp_path / name).write_bytes(b"x")
    for content in json_texts():
        (tmp_path / DIGESTS).write_bytes(content)
        tried()
        assert torn_reason(tmp_path) is not None


@hostile("files that are read back", "read_json, read_rows")
@pytest.mark.parametrize("reader", [read_json, read_rows], ids=["json", "log"])
def test_what_is_no_file(tmp_path: Path, reader: Callable[[Path], Any]) -> None:
    (tmp_path / "folder").mkdir()
    tally = Tally()
    for text in [*TEXTS, "folder"]:
        tally.offer(repr(text[:20]), _joined, reader, tmp_path, text)
    assert not tally.failed, tally.failed[:5]


@hostile("files that are read back", "read_manifest, Run")
def test_a_sparse_manifest_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / MANIFEST).open("wb") as file:
        file.truncate(5 * 2**30)
    with pytest.raises(ApdmError, match="far too large"):
        read_manifest(tmp_path)


def test_count() -> None:
    assert sum(1 for _ in json_texts()) + sum(1 for _ in toml_texts()) > 70


def _used(folder: Path) -> None:
    use(read_manifest(folder))


def _log_again(log: Path) -> None:
    StepLog(log).close()


def _joined(reader: Callable[[Path], Any], folder: Path, text: str) -> Any:
    return reader(folder / text)
