"""comparison.json: complete, versioned, and described by the schema file of the package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from apdm_cli.report.assemble import compare_runs
from apdm_cli.report.evaluated import open_runs
from apdm_cli.report.publish import json_text
from apdm_cli.report.requirement import parse
from apdm_cli.report.schema import Comparison, json_schema, shipped_schema
from tests.report.synthetic import make_run


def test_the_schema_file_is_the_one_of_the_code() -> None:
    assert shipped_schema() == json_schema(), "run: python -m apdm_cli.report.schema"


def test_a_comparison_follows_the_schema_and_reads_back(tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    make_run(tmp_path)
    comparison = compare_runs(open_runs(tmp_path, []), [parse("worst.dino<=0.3")])
    data = json.loads(json_text(comparison))
    validator = jsonschema.Draft202012Validator
    validator.check_schema(shipped_schema())
    validator(shipped_schema()).validate(data)
    assert data["schema"] == 2
    assert Comparison.model_validate(data) == comparison
    del data["runs"][0]["verdict"]
    with pytest.raises(jsonschema.ValidationError):
        validator(shipped_schema()).validate(data)


def test_twice_gives_the_same_apart_from_the_time(tmp_path: Path) -> None:
    make_run(tmp_path)
    first, second = (json.loads(json_text(compare_runs(open_runs(tmp_path, [])))) for _ in range(2))
    assert first.pop("created") != second.pop("created")
    assert first == second


def test_loss_curves_are_thinned_out(tmp_path: Path) -> None:
    make_run(tmp_path)
    curves = compare_runs(open_runs(tmp_path, [])).runs[0].curves
    protection = curves[0]
    assert protection.arm is None and protection.steps[-1] == 299
    assert len(protection.steps) == 100  # 300 steps in blocks of 3
    assert protection.values["drift"][0] == pytest.approx(1e-4)  # mean of steps 0, 1, 2
    arms = {(curve.label, curve.arm) for curve in curves[1:]}
    assert ("dreambooth (unseen photos)", "original") in arms and len(arms) == 8
