"""`apdm evaluate` where nothing can be written, little can be opened, or the run goes away."""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from apdm_cli.diffusion import picture_cache
from tests.evaluation.material import Bench
from tests.hostile.commands import outcome
from tests.hostile.counting import hostile, tried
from tests.processes import Apdm

FEWEST, STEP = 8, 6  # descriptors


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    made = Bench(tmp_path_factory.mktemp("places"))
    made.cell("original", "dreambooth-000000000001")
    made.cell("protected", "dreambooth-000000000002", control="dreambooth-000000000001")
    return made


@pytest.fixture
def root(bench: Bench, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bench.root, tmp_path / "runs"))


def evaluate(bench: Bench, root: Path) -> list[str]:
    drawing = ["--images", "2", "--class-images", "2", "--steps", "1", "--sampler", "ddim"]
    scoring = ["--metrics", "dino", "--weights", f"pocket-vit={bench.vit}"]
    return ["evaluate", "run", "--out", str(root), "--device", "cpu", *drawing, *scoring]


@hostile("places and limits")
@pytest.mark.parametrize("place", ["run/evaluation", "_cache", "run/evaluation/scores.json"])
def test_something_else_in_the_place_of_a_result(
    place: str, bench: Bench, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    way = root / place
    if place.endswith(".json"):
        way.mkdir(parents=True)
    else:
        way.write_text("in the way")
    code, said = outcome(evaluate(bench, root), capfd)
    assert code == 1 and "Traceback" not in said and said.count("Error:") == 1
    assert way.name in said


@hostile("places and limits")
@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("place", ["run", "run/evaluation", "_control"])
def test_a_folder_that_can_only_be_read(
    place: str, bench: Bench, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (root / "run" / "evaluation").mkdir()
    (root / place).chmod(0o500)
    code, said = outcome(evaluate(bench, root), capfd)
    (root / place).chmod(0o700)
    assert code == 1 and "Traceback" not in said and said.count("Error:") == 1


def refuse_writing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be made or replaced in `folder`, as where its mode is 0500; also for root."""

    def refused(path: object, *more: object) -> bool:
        return isinstance(path, str | os.PathLike) and Path(os.fspath(path)).parent == folder

    def guarded(module: object, name: str, writes: Callable[..., bool]) -> None:
        original = getattr(module, name)

        def call(*given: object, **named: object) -> object:
            if writes(*given, **named):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(given[0]))
            return original(*given, **named)

        monkeypatch.setattr(module, name, call)

    def opens_for_writing(path: object, mode: str = "r", *_: object, **__: object) -> bool:
        return refused(path) and set(mode) & set("wxa+") != set()

    guarded(io, "open", opens_for_writing)
    guarded(builtins, "open", opens_for_writing)
    guarded(os, "open", lambda path, flags, *_, **__: refused(path) and bool(flags & os.O_CREAT))
    guarded(os, "mkdir", refused)
    guarded(os, "rename", lambda _, target, **__: refused(target))
    guarded(os, "replace", lambda _, target, **__: refused(target))


@hostile("places and limits")
@pytest.mark.parametrize("place", ["run", "run/evaluation", "run/evaluation/images", "_cache"])
def test_a_folder_that_refuses_to_be_written(
    place: str,
    bench: Bench,
    root: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = root / place
    if place != "run":
        folder.mkdir(parents=True)
    with monkeypatch.context() as patch:
        refuse_writing(folder, patch)
        code, said = outcome(evaluate(bench, root), capfd)
    assert code == 1 and "Traceback" not in said and said.count("Error:") == 1
    assert "Permission denied" in said and str(folder) in said
    assert not (root / "run" / "evaluation" / "scores.json").exists()
    assert outcome(evaluate(bench, root), capfd)[0] == 0  # nothing half-written is in the way


@hostile("places and limits")
@pytest.mark.parametrize("gone", ["run", "run/evaluation", "run/attacks", "_control", "_cache"])
def test_what_is_deleted_while_it_is_evaluated(
    gone: str,
    bench: Bench,
    root: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After the first pictures: one sentence, or a result that holds everything."""
    sample = picture_cache.sample

    def deleting(*given: Any, **named: Any) -> Iterator[Any]:
        for batch in sample(*given, **named):
            yield batch
            shutil.rmtree(root / gone, ignore_errors=True)

    with monkeypatch.context() as patch:
        patch.setattr(picture_cache, "sample", deleting)
        code, said = outcome(evaluate(bench, root), capfd)
    assert code in (0, 1) and "Traceback" not in said
    scores = root / "run" / "evaluation" / "scores.json"
    if code == 0:
        written = json.loads(scores.read_text())
        assert not written["left_out"] and len(written["rows"]) > 3
    elif scores.exists():  # what was left out is named
        assert json.loads(scores.read_text())["left_out"]
        assert "Not everything that was asked for is there" in said
    else:
        assert said.count("Error:") == 1


@hostile("places and limits")
@pytest.mark.parametrize("gone", ["run", "run/manifest.json", "run/model", "run/attacks"])
def test_a_run_of_which_something_was_deleted(
    gone: str, bench: Bench, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = root / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    code, said = outcome(evaluate(bench, root), capfd)
    assert code == 1 and "Traceback" not in said and said.count("Error:") == 1


@hostile("places and limits")
@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_few_file_descriptors(bench: Bench, root: Path, tmp_path: Path) -> None:
    """From far too few to enough: every end is a whole result or one sentence."""
    import resource

    codes = []
    for count in range(FEWEST, 200, STEP):
        limits = {resource.RLIMIT_NOFILE: (count, count)}
        process = Apdm(evaluate(bench, root), tmp_path / f"said-{count}", limits=limits)
        code, text = process.wait(), process.out
        codes.append(code)
        tried()
        assert code in (0, 1) and "Traceback" not in text, (count, text)
        scores = root / "run" / "evaluation" / "scores.json"
        with contextlib.suppress(FileNotFoundError):
            written = json.loads(scores.read_text())
            assert code == 0 and len(written["rows"]) > 3 and not written["left_out"]
            break
        assert code == 1 and text.count("Error:") == 1, (count, text)
    assert codes[0] == 1 and codes[-1] == 0
