"""Families of models at their worst, through the front door: one sentence that names them.

Every command works with whatever a family answers, so a bad answer ends it, or the cell that asked.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.families.toy_flow import make_toy_flow
from tests.hostile.commands import Said, evaluate
from tests.hostile.counting import hostile, tried
from tests.tiny import make_photos

FAMILY = '''
import os, sys
import torch
from apdm_cli.plugin import hookimpl
from tests.families.toy_flow import ToyFlow

class Bad(ToyFlow):
    """Does what no family should."""
    name = "bad"
{methods}

@hookimpl
def apdm_families():
    return [Bad()]
'''
METHOD = """
    def {name}(self, *given):
        {line}
        return super().{name}(*given)
"""


def family(folder: Path, **lines: str) -> Path:
    """A plugin file with the toy family, in which each of `lines` begins the method of its name."""
    file = folder / "bad_family.py"
    methods = "".join(METHOD.format(name=name, line=line) for name, line in lines.items())
    file.write_text(FAMILY.format(methods=methods or "    pass"))
    return file


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    (folder / "model").mkdir()
    make_toy_flow(folder / "model")
    make_photos(folder / "photos")
    return folder


def protect(toy: Path, out: Path, file: Path) -> list[str]:
    settings = ("steps_outer=1", "steps_inner=1", "prior_pictures=2", "sampler_steps=2")
    return [
        *("protect", str(toy / "photos"), "--class", "dog", "--model", str(toy / "model")),
        *("--out", str(out), "--name", "run", "--device", "cpu", "--plugin-file", str(file)),
        *(part for setting in settings for part in ("--set", setting)),
    ]


# What `protect` asks a family, and what a method that returns nothing should have returned.
ASKED = {
    "open": "dict",
    "place": "",
    "process": "NoiseProcess",
    "resolution": "int",
    "latent_shape": "tuple",
    "embed": "Condition",
    "predict": "Tensor",
    "encode": "LatentDistribution",
    "decode": "Tensor",
    "sample": "Tensor",
    "save_component": "",
}
FAULTS = ("1 / 0", "sys.exit(0)", "return None")


@hostile("plugins: families")
@pytest.mark.parametrize(
    ("method", "line"),
    # Of some methods nobody asks what they return.
    [(name, line) for name in ASKED for line in FAULTS if ASKED[name] or "return" not in line],
)
def test_a_family_that_fails_ends_a_protection_in_one_sentence(
    method: str, line: str, toy: Path, tmp_path: Path, apdm: Said
) -> None:
    returned = ASKED[method]
    code, said = apdm(*protect(toy, tmp_path / "runs", family(tmp_path, **{method: line})))
    words = said.replace("\n", " ")
    assert code == 1 and "Traceback" not in said
    assert sum(line.startswith("Error:") for line in said.splitlines()) == 1
    assert "the family bad" in words
    if "return" in line:
        assert f"from {method}, not a {returned}" in words
    assert not list((tmp_path / "runs").rglob("model"))  # nothing that looks like a result


@hostile("plugins: families")
@pytest.mark.parametrize("line", ["raise KeyError('x')", "sys.exit(0)", "raise BaseException('x')"])
def test_a_family_that_fails_at_the_question_says_no(
    line: str, toy: Path, tmp_path: Path, apdm: Said
) -> None:
    code, said = apdm(*protect(toy, tmp_path / "runs", family(tmp_path, opens=line)))
    assert code == 1 and "Traceback" not in said and "not supported yet" in said


@pytest.fixture
def attacked(toy: Path, tmp_path: Path, apdm: Said) -> Path:
    """Runs with one that the good family protected and dreambooth attacked."""
    file, out = family(tmp_path), tmp_path / "runs"
    assert apdm(*protect(toy, out, file))[0] == 0
    assert apdm(*attack(out, file))[0] == 0
    return out


def attack(out: Path, file: Path, *more: str) -> list[str]:
    settings = ("steps=1", "prior_pictures=2", "sampler_steps=1")
    return [
        *("attack", "run", "--plugin", "dreambooth", "--out", str(out), "--device", "cpu"),
        *("--plugin-file", str(file), *more),
        *(part for setting in settings for part in ("--set", setting)),
    ]


@hostile("plugins: families")
def test_a_family_that_fails_costs_the_cells_or_the_command_that_ask_it(
    attacked: Path, made: Path, tmp_path: Path, apdm: Said
) -> None:
    for method in ("predict", "encode"):
        for line in FAULTS:
            file = family(tmp_path, **{method: line})
            tried()
            code, said = apdm(*attack(attacked, file, "--rerun", "--json"))
            cells = json.loads(said[said.index("{") : said.rindex("}") + 1])["cells"]
            assert code == 1 and "Traceback" not in said
            assert [cell["status"] for cell in cells] == ["failed", "failed"]
            assert all("the family bad" in cell["error"] for cell in cells)
    scores = attacked / "run" / "evaluation" / "scores.json"
    for method in ("sample", "decode", "embed", "encode"):  # the last is asked when all is drawn
        for line in FAULTS:
            file = family(tmp_path, **{method: line})
            options = ("--sampler", "euler", "--plugin-file", str(file))
            tried()
            code, said = apdm(*evaluate(made, attacked), *options)
            assert code == 1 and "Traceback" not in said, (method, line, said)
            assert "the family bad" in said.replace("\n", " ") and not scores.exists()
