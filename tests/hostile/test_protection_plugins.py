"""Protections at their worst, through the front door: one sentence, and nothing like a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hostile.commands import Said, protect, scored, state
from tests.hostile.counting import hostile

PROTECTION = '''
import os, sys
import torch
from apdm_cli.extension.hooks import hookimpl
from apdm_cli.extension.protection import Inputs, Protection

class Bad(Protection):
    """Does what no protection should."""
    name = "bad"
    {declared}
    def steps(self, bench, config):
        for index in range(bench.begin(2), 2):
            {line}
            yield {{"loss": 1.0}}

@hookimpl
def apdm_protections():
    return [Bad()]
'''
NAN = "[weight.data.fill_(torch.nan) for weight in bench.model.trained.parameters()]"


@hostile("plugins: protections")
@pytest.mark.parametrize(
    ("line", "declared", "words"),
    [
        ("sys.exit(0)", "", "the protection bad left with SystemExit"),
        ("raise GeneratorExit", "", "the protection bad left with GeneratorExit"),
        ("1 / 0", "", "the protection bad failed with ZeroDivisionError"),
        ("yield 3", "", "the protection bad failed with TypeError"),
        ("torch.set_grad_enabled(False); os.chdir('/'); 1 / 0", "", "ZeroDivisionError"),
        (NAN, "", "not finite"),
        ("pass", "inputs = lambda self, subject, config: 1 / 0", "ZeroDivisionError"),
        ("pass", "inputs = lambda self, subject, config: sys.exit(0)", "SystemExit"),
        ("pass", "check = lambda self, config, attacks: sys.exit(0)", "SystemExit"),
        ("pass", "preset_for = lambda self, profile: 1 / 0", "ZeroDivisionError"),
        ("pass", "titles = lambda self, config: 1 / 0", "ZeroDivisionError"),
    ],
)
def test_bad_protections_end_in_one_sentence(
    line: str, declared: str, words: str, made: Path, tmp_path: Path, apdm: Said
) -> None:
    file = tmp_path / "bad_protection.py"
    file.write_text(PROTECTION.format(line=line, declared=declared))
    before = state()
    code, said = apdm(*protect(made, tmp_path, method=file))
    assert state() == before
    assert code == 1 and "Traceback" not in said
    assert words in said.replace("\n", " ")
    assert not list(tmp_path.rglob("manifest.json"))  # nothing that looks like a run


@hostile("plugins: protections")
def test_a_protection_prints_beside_the_json(
    made: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad_protection.py"
    line = "print('HELLO'); os.write(1, b'HELLO')"
    file.write_text(PROTECTION.format(line=line, declared=""))
    code, manifest, said = scored(capfd, *protect(made, tmp_path, method=file))
    assert code == 0 and manifest["status"] == "done" and "HELLO" in said
