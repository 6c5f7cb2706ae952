"""One run with both arms of one attack, copied for the tests that change it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from apdm_cli.evaluation.evaluate import evaluate_run
from apdm_cli.evaluation.profiles import EvaluationSettings
from apdm_cli.runs.run import Run
from tests.evaluation.material import CPU, QUICK, Bench, drawn_and_scored


@pytest.fixture(scope="session")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    bench = Bench(tmp_path_factory.mktemp("bench"))
    bench.cell("original", "dreambooth-000000000001")
    bench.cell("protected", "dreambooth-000000000002", control="dreambooth-000000000001")
    return bench


@pytest.fixture
def bench(_made: Bench, tmp_path: Path) -> Bench:
    """A copy of the runs; model, photos and extractor are shared."""
    copy = Bench.__new__(Bench)
    copy.__dict__ |= _made.__dict__
    copy.root = tmp_path / "runs"
    shutil.copytree(_made.root, copy.root)
    copy.run = Run.open(copy.root, "run")
    return copy


@pytest.fixture(scope="session")
def alone(_made: Bench) -> dict[str, bytes]:
    """Every file of pictures and scores that one process leaves. (In the template of all tests: it
    is copied with its pictures, so they are taken out again.)"""
    settings = EvaluationSettings(metrics=("dino",), weights=_made.weights, **QUICK)
    before = {file for file in _made.root.rglob("*") if file.is_file()}
    evaluate_run(_made.root, _made.run, settings, device=CPU)
    found = drawn_and_scored(_made.root)
    for file in _made.root.rglob("*"):
        if file.is_file() and file not in before:
            file.unlink()
    return found


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch-home"))
    yield
