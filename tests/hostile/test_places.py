"""`apdm evaluate` where nothing can be written, little can be opened, or the run goes away."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from apdm_cli.cli.main import main
from tests.evaluation.material import Bench
from tests.hostile.commands import outcome

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


@pytest.mark.parametrize("gone", ["run", "run/manifest.json", "run/model", "run/attacks"])
def test_a_run_of_which_something_was_deleted(
    gone: str, bench: Bench, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = root / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    code, said = outcome(evaluate(bench, root), capfd)
    assert code == 1 and "Traceback" not in said and said.count("Error:") == 1


@pytest.fixture(scope="module")
def server() -> Iterator[multiprocessing.context.ForkServerContext]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["apdm_cli.evaluation.evaluate", "apdm_cli.cli.evaluate", "apdm_metrics", "apdm_attacks"]
    )
    yield context


def _with_few_descriptors(count: int, arguments: list[str], said: Path) -> None:
    import resource

    with said.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))
    main(arguments)


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_few_file_descriptors(
    bench: Bench,
    root: Path,
    tmp_path: Path,
    server: multiprocessing.context.ForkServerContext,
) -> None:
    """From far too few to enough: every end is a whole result or one sentence."""
    codes = []
    for count in range(FEWEST, 200, STEP):
        said = tmp_path / "said.txt"
        process = server.Process(
            target=_with_few_descriptors, args=(count, evaluate(bench, root), said)
        )
        process.start()
        process.join()
        text = said.read_text()
        codes.append(process.exitcode)
        assert process.exitcode in (0, 1) and "Traceback" not in text, (count, text)
        scores = root / "run" / "evaluation" / "scores.json"
        with contextlib.suppress(FileNotFoundError):
            written = json.loads(scores.read_text())
            assert process.exitcode == 0 and len(written["rows"]) > 3 and not written["left_out"]
            break
        assert process.exitcode == 1 and text.count("Error:") == 1, (count, text)
    assert codes[0] == 1 and codes[-1] == 0
