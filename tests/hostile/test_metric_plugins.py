"""Metrics at their worst, through the front door: they cost themselves only."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.commands import Said, evaluate, scored, state
from tests.hostile.counting import hostile, tried

METRICS = '''
import os, sys
import torch
from apdm_cli.extension.hooks import hookimpl
from apdm_cli.extension.metric import Backend, Metric, Score

class Good(Metric):
    """A number."""
    kind = "quality"
    better = better_for_others = "lower"
    model = None
    def prepare(self, model, device):
        Good.model = model
    def score(self, pictures):
        return Score(self.name, 0.5, len(pictures.images), 0, Backend("x", "y"))

@hookimpl
def apdm_metrics():
    return [{items}]
'''
METRIC = '''
class {cls}(Good):
    """Does what no metric should."""
    name = "{name}"
    {declared}
    def prepare(self, model, device):
        {prepare}
        return super().prepare(model, device)
    def score(self, pictures):
        {score}
        return super().score(pictures)
'''
WRONG = "return Score('{name}', {value}, {n}, 0, Backend('x', 'y'))"
CHANGED = (
    "[weight.data.zero_() for network in {model}.networks().values()"
    " for weight in network.parameters()]"
)
# name -> what `prepare` does, what `score` does
FAILING = {
    "exits": ("pass", "sys.exit(0)"),
    "exits-early": ("sys.exit(0)", "pass"),
    "raises": ("pass", "1 / 0"),
    "raises-early": ("1 / 0", "pass"),
    "raises-base": ("pass", "raise BaseException('x')"),
    "number": ("pass", "return 3"),
    "nothing": ("pass", "return None"),
    "negative": ("pass", WRONG.format(name="negative", value="float('nan')", n=-5)),
    "text": ("pass", WRONG.format(name="text", value="'text'", n=5)),
    "other-name": ("pass", WRONG.format(name="dino", value="0.5", n=5)),
    "changes-model": (CHANGED.format(model="model"), "pass"),
}
SCORING = {
    "changes-pictures": ("pass", "pictures.images.zero_()"),
    "changes-photos": ("pass", "pictures.photos.zero_() if pictures.photos is not None else 0"),
    "changes-state": ("pass", "torch.set_default_dtype(torch.float64)"),
    "changes-model-later": ("pass", CHANGED.format(model="self.model")),
    "prints": ("print('HELLO')", "os.write(1, b'HELLO')"),
}


def metric_plugin(
    folder: Path, declared: Mapping[str, str] | None = None
) -> tuple[Path, list[str]]:
    """A plugin file with every metric of FAILING and SCORING, or one for each of `declared`."""
    file = folder / "bad_metrics.py"
    bodies = {**FAILING, **SCORING} if declared is None else dict.fromkeys(declared, ("pass",) * 2)
    classes = ""
    for number, (name, (prepare, score)) in enumerate(bodies.items()):
        classes += METRIC.format(
            cls=f"Bad{number}",
            name=name,
            prepare=prepare,
            score=score,
            declared=(declared or {}).get(name, ""),
        )
    items = ", ".join(f"Bad{number}()" for number in range(len(bodies)))
    file.write_text(METRICS.replace("{items}", items) + classes)
    return file, list(bodies)


@hostile("plugins: metrics")
def test_metrics_cost_themselves_only(
    made: Path, attacked: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    without = Path(shutil.copytree(attacked, tmp_path / "without"))
    code, alone, _ = scored(capfd, *evaluate(made, without))
    assert code == 0
    file, names = metric_plugin(tmp_path)
    tried(len(names))
    before = state()
    code, scores, said = scored(
        capfd,
        *evaluate(made, attacked, metrics=",".join([*names, "dino"])),
        *("--plugin-file", str(file)),
    )
    assert state() == before
    assert code == 1 and "Traceback" not in said  # not everything that was asked for is there
    written = json.loads((attacked / "run" / "evaluation" / "scores.json").read_text())
    assert written == scores
    assert {one["metric"] for one in scores["unavailable"]} == set(FAILING)
    for name in FAILING:
        assert f"{name} is left out" in said
    values, expected = _values(scores), _values(alone)
    assert {key[-1] for key in values} == {*SCORING, "dino"}
    assert {key: value for key, value in values.items() if key[-1] == "dino"} == expected
    pictures = [
        {file.relative_to(root): file.read_bytes() for file in root.rglob("*.png")}
        for root in (attacked, without)
    ]
    assert pictures[0] and pictures[0] == pictures[1]


@hostile("plugins: metrics")
def test_a_model_that_a_metric_changed_draws_nothing(
    made: Path, attacked: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whichever is drawn first after the metric was: attacks, class pictures, the ceiling."""
    without = Path(shutil.copytree(attacked, tmp_path / "without"))
    file, _ = metric_plugin(tmp_path)
    more = ("--class-images", "4")
    for options in ((), more, more):  # the last time nothing is left to be drawn
        _, alone, _ = scored(capfd, *evaluate(made, without), *options)
        _, scores, said = scored(
            capfd,
            *evaluate(made, attacked, metrics="changes-model-later,dino"),
            *("--plugin-file", str(file), *options),
        )
        assert "a metric has changed the original model itself" in said
        assert _values(scores).items() >= _values(alone).items()
        pictures = [
            {file.relative_to(root): file.read_bytes() for file in root.rglob("*.png")}
            for root in (attacked, without)
        ]
        assert pictures[0] and pictures[0] == pictures[1]


DECLARED_METRICS = {
    "sideways": "better = 'sideways'",
    "no-kind": "kind = None",
    "raising-kind": "kind = property(lambda self: 1 / 0)",
    "needs-text": "needs = 'photos'",
    "needs-more": "needs = frozenset({'passport'})",
    "raising-optional": "optional = property(lambda self: 1 / 0)",
    "leads": "leads = True",
}


@hostile("plugins: declarations")
def test_declarations_of_metrics(made: Path, attacked: Path, tmp_path: Path, apdm: Said) -> None:
    file, names = metric_plugin(tmp_path, DECLARED_METRICS)
    tried(len(names))
    options = ("--plugin-file", file)
    code, said = apdm(*evaluate(made, attacked, metrics="auto"), *options)
    assert code == 0 and "Traceback" not in said
    assert said.count("is broken and was left out") == len(names)
    code, said = apdm(*evaluate(made, attacked, metrics="sideways,dino"), *options)
    assert code == 2 and "better" in said and "sideways" in said


def _values(scores: Mapping[str, Any]) -> dict[tuple[str, ...], Any]:
    return {
        (row["role"], row["label"], row["arm"], row["seed"], score["metric"]): score["value"]
        for row in scores["rows"]
        for score in row["scores"]
    }
