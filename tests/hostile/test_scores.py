"""scores.json with anything in the place of any entry: refused by name, or read as what it says."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from apdm_cli.report.assemble import judge
from apdm_cli.scores import SCORES, ScoresFile
from tests.hostile.counting import hostile
from tests.hostile.inputs import VALUES, Tally, as_json, changed, json_texts
from tests.report.synthetic import METRICS, both, levels, make_run

KIND = "files that are read back"


def document(tmp_path: Path) -> dict[str, Any]:
    """A small one, as `apdm evaluate` writes it."""
    rows = [*both("dreambooth", 0.7, 0.2), *levels()[:1]]
    dino = [meaning for meaning in METRICS if meaning.name == "dino"]
    unavailable = [{"metric": "clip-t", "reason": "no weights"}]
    folder = make_run(tmp_path, rows=rows, metrics=dino, pictures=0, unavailable=unavailable)
    found = json.loads((folder / "evaluation" / SCORES).read_text())
    return {**found, "left_out": [{"cell": "lora-1", "reason": "no artifact"}], "asked": {}}


def use(file: Path) -> None:
    """What `apdm evaluate` and `apdm compare` do with it."""
    scores = ScoresFile.read(file, "run")
    assert judge(scores).answer and isinstance(scores.missing, tuple)
    json.dumps(scores.as_json(), allow_nan=False)
    for row in scores.rows:
        assert row.role in ("attack", "utility", "neighbour", "floor", "ceiling")
        assert row.arm in ("original", "protected") and row.where
        assert math.isfinite(row.budget)
        assert all(one.n >= 0 and one.skipped >= 0 and one.shown for one in row.scores)
    assert all(one.better in ("lower", "higher") for one in scores.metrics)


@hostile(KIND, "ScoresFile")
def test_an_entry_of_another_type_is_refused_or_harmless(tmp_path: Path) -> None:
    whole = document(tmp_path / "whole")
    file, tally = tmp_path / SCORES, Tally()
    file.write_bytes(as_json(whole))
    use(file)
    for name, other in changed(whole):
        file.write_bytes(as_json(other))
        tally.offer(name, use, file)
    assert not tally.failed, tally.failed[:5]
    for name in tally.used:
        place, _, which = name.partition(" = ")
        value = VALUES[int(which[len("VALUES[") : -1])]
        assert _may_be(value, place), name


def _may_be(value: Any, place: str) -> bool:
    """Whether an entry may hold `value`: the type it was written with, or anything."""
    last = place.rpartition(".")[2]
    if place.startswith(("model.", "sampler.", "subject.")):  # tables of other rooms
        return True
    if value is None:
        return last in {*("model", "protected_digest", "collapse", "attack", "cell", "images"),
                        *("value", "low", "high")}  # fmt: skip
    if isinstance(value, dict):
        return place in {"model", "sampler", "subject", "asked"}
    if isinstance(value, list):
        return value == [] and last in {"rows", "scores", "per_picture", "unavailable", "left_out"}
    if isinstance(value, bool):
        return last == "leads"
    if isinstance(value, int):
        return last in {"n", "seed", "skipped", "biased_below", "value", "low", "high"}
    if isinstance(value, float):
        return last in {"value", "low", "high"}
    return last not in {"role", "arm", "kind", "better", "better_for_others", "leads", "n", "seed"}


@hostile(KIND, "ScoresFile")
def test_a_comparison_without_any_attack_on_both_models(tmp_path: Path) -> None:
    """What is left where each attack lost another half of its cells."""
    rows = [both("dreambooth", 0.7, 0.2)[0], both("lora", 0.7, 0.2)[1], *levels()]
    folder = make_run(tmp_path, rows=rows, pictures=0)
    use(folder / "evaluation" / SCORES)


@hostile(KIND, "ScoresFile")
def test_what_is_no_json_object_is_refused(tmp_path: Path) -> None:
    file, tally = tmp_path / SCORES, Tally()
    for number, content in enumerate(json_texts()):
        file.write_bytes(content)
        tally.offer(f"{number}", use, file)
    assert not tally.failed and not tally.used
