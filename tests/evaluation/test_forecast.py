"""`apdm evaluate --dry-run`: exactly the pictures that an evaluation then draws."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from apdm_cli.cli.main import main
from tests.evaluation.material import Bench
from tests.tiny import make_photos

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    bench = Bench(tmp_path_factory.mktemp("bench"))
    bench.cell("original", "dreambooth-000000000001")
    bench.cell("protected", "dreambooth-000000000002", control="dreambooth-000000000001")
    return bench


def evaluate(bench: Bench, *arguments: str) -> int:
    typed = ["evaluate", "--out", str(bench.root), "--images", "2", "--class-images", "3"]
    typed += ["--steps", "1", "--sampler", "ddim", "--device", "cpu", "--metrics", "dino"]
    with pytest.raises(SystemExit) as ended:
        main([*typed, "--weights", f"pocket-vit={bench.vit}", *arguments])
    return int(ended.value.code or 0)


def plan(bench: Bench, capsys: Captured, *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert evaluate(bench, "--dry-run", "--json", *arguments) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_it_counts_what_is_drawn_then_and_writes_nothing(bench: Bench, capsys: Captured) -> None:
    before = sorted(bench.root.rglob("*"))
    found = plan(bench, capsys)
    assert sorted(bench.root.rglob("*")) == before
    # Two attacked models with two pictures each; three sets of three for person, dog and cat.
    assert (found["rows"], found["pictures"], found["pictures_to_draw"]) == (2, 31, 31)
    assert found["estimated_seconds_drawing"] > 0 and found["sampler"]["steps"] == 1
    assert found["metrics"] == ["dino"] and found["said"] == []

    assert evaluate(bench) == 0
    drawn = set(bench.root.rglob("*.png"))
    assert len(drawn) == found["pictures_to_draw"]
    after = plan(bench, capsys)
    assert (after["pictures"], after["pictures_to_draw"]) == (31, 0)
    assert after["estimated_seconds_drawing"] == 0
    # One that is damaged would be drawn again, and so would all of another seed.
    sorted(drawn)[0].write_bytes(b"no picture")
    assert plan(bench, capsys)["pictures_to_draw"] == 1
    assert plan(bench, capsys, "--seed", "1")["pictures_to_draw"] == 31


def test_neighbours_who_were_not_taught_yet_cost_steps_and_pictures(
    bench: Bench, capsys: Captured, tmp_path: Path
) -> None:
    photos = make_photos(tmp_path / "somebody", seed=7)
    alone, found = plan(bench, capsys), plan(bench, capsys, "--neighbours", str(photos))
    assert alone["neighbour_steps"] == 0 and found["neighbour_steps"] == 2 * 800
    assert found["rows"] == alone["rows"] + 2
    assert found["pictures_to_draw"] == alone["pictures_to_draw"] + 4


def test_people_read_sentences(bench: Bench, capsys: Captured) -> None:
    bench.cell("protected", "dreambooth-000000000003", artifact={"kind": "x", "path": "../out"})
    assert evaluate(bench, "--dry-run") == 0
    shown = capsys.readouterr()
    said = " ".join(shown.out.split())
    assert "Plan for run (nothing is written) 2 attacked models, counted at every budget" in said
    assert "ddim, 1 step, guidance" in said and "still to be drawn, on cpu (float32)" in said
    assert "dreambooth-000000000003 is left out" in shown.err
