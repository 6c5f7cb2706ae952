"""Manifests are written as a whole and read with clear errors."""

import json
import math
import os
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import BaseModel

from apdm_cli.errors import ApdmError
from apdm_cli.runs import atomic
from apdm_cli.runs.jsonable import canonical_json, jsonable
from apdm_cli.runs.manifest import MANIFEST, now, read_manifest, versions, write_json_atomic


def test_round_trip(tmp_path):
    manifest = {"kind": "protect", "name": "Zoë", "config": {"beta": 0.1, "n": [1, None]}}
    write_json_atomic(tmp_path / MANIFEST, manifest)
    assert read_manifest(tmp_path) == read_manifest(tmp_path / MANIFEST) == manifest
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST]


def test_values_of_all_kinds():
    class Config(BaseModel):
        rate: float = 0.5

    @dataclass
    class Row:
        path: Path

    values = {
        1: Config(),
        "row": Row(Path("a")),
        "set": {2, 1},
        "t": (1,),
        "bad": [math.nan, math.inf],
    }
    expected = {
        "1": {"rate": 0.5},
        "row": {"path": "a"},
        "set": [1, 2],
        "t": [1],
        "bad": [None, None],
    }
    assert jsonable(values) == expected
    with pytest.raises(TypeError, match="object"):
        jsonable({"x": object()})


def test_canonical_json_has_one_text_per_value():
    assert canonical_json({"b": 1, "a": [1.5, "é"]}) == canonical_json({"a": (1.5, "é"), "b": 1})
    assert canonical_json({"a": 1}) != canonical_json({"a": "1"})


def test_the_old_file_stays_when_writing_fails(tmp_path, monkeypatch):
    write_json_atomic(tmp_path / MANIFEST, {"kind": "old"})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(ApdmError, match="No space left"):
        write_json_atomic(tmp_path / MANIFEST, {"kind": "new"})
    assert read_manifest(tmp_path) == {"kind": "old"}
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_permissions_are_the_usual_ones(tmp_path):
    (tmp_path / "plain").touch()
    write_json_atomic(tmp_path / MANIFEST, {"kind": "x"})
    modes = [stat.S_IMODE(os.stat(tmp_path / name).st_mode) for name in ("plain", MANIFEST)]
    assert modes[0] == modes[1]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"kind": "protect", "st', "is broken"),
        (b"", "is broken"),
        (b"\xff\xfe", "is broken"),
        (b"[1, 2]", "no JSON object"),
        (b'{"name": "x"}', "no manifest"),
    ],
)
def test_a_broken_manifest_is_named(tmp_path, content, said):
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(ApdmError, match=said) as caught:
        read_manifest(tmp_path)
    assert str(tmp_path / MANIFEST) in caught.value.what and caught.value.hint


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(ApdmError, match="does not exist"):
        read_manifest(tmp_path)


def test_versions_name_what_results_depend_on():
    found = versions()
    assert set(found) >= {
        "python",
        "platform",
        "apdm",
        "torch",
        "diffusers",
        "transformers",
        "peft",
    }
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    json.dumps(found)


def test_times_sort_as_text():
    assert now() < now()
    assert now().endswith("+00:00")


def test_commands_can_ask_for_runs_without_torch():
    code = (
        "import sys, apdm_cli.runs.run, apdm_cli.runs.cells, apdm_cli.runs.jsonl, "
        "apdm_cli.runs.differences; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0
    )
