"""Attacks at their worst, through the front door.

Many bad ones are run by one command, and a good one after them: each costs its own cell, and the
good one ends as it does without them, bit for bit.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from apdm_cli.cli.main import main
from apdm_cli.runs.cells import finished_cells
from tests.hostile.commands import Said, attack, state
from tests.hostile.counting import hostile, tried
from tests.processes import PATIENCE, Apdm

HEAD = """
import os, shutil, sys, time
from pathlib import Path
import torch
from safetensors.torch import save_file
from apdm_attacks.dreambooth import DreamBooth
from apdm_cli.extension.attack import Artifact, Attack, AttackConfig
from apdm_cli.extension.hooks import hookimpl
"""
ATTACK = '''
class {cls}(DreamBooth):
    """Does what no attack should."""
    name = "{name}"
    {declared}
    def run(self, bench, config):
{body}
'''
ATTACKS = """
@hookimpl
def apdm_attacks():
    return [{items}]
"""
GOOD = "return super().run(bench, config)"


def plugin(
    folder: Path, bodies: Mapping[str, str], declared: Mapping[str, str] | None = None
) -> Path:
    """A plugin file with an attack for every entry of `bodies`, by name."""
    file = folder / "bad_plugin.py"
    text = HEAD
    for number, (name, body) in enumerate(bodies.items()):
        indented = textwrap.indent(textwrap.dedent(body).strip(), "        ")
        text += ATTACK.format(
            cls=f"Bad{number}", name=name, body=indented, declared=(declared or {}).get(name, "")
        )
    items = ", ".join(f"Bad{number}()" for number in range(len(bodies)))
    file.write_text(text + ATTACKS.format(items=items))
    return file


def rows(
    capfd: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code of `apdm attack --json`, and the cell of every attack on the protected model.

    All of stdout has to be the JSON.
    """
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--json"])
    printed = capfd.readouterr()
    assert "Traceback" not in printed.out + printed.err
    cells = json.loads(printed.out)["cells"]
    code = ended.value.code
    return (
        code if isinstance(code, int) else 0,
        {cell["attack"]: cell for cell in cells if cell["arm"] == "protected"},
    )


def weights(root: Path, seed: int = 0) -> dict[str, torch.Tensor]:
    """What dreambooth left of the protected model."""
    for file in (root / "run" / "attacks").glob("dreambooth-*/manifest.json"):
        if json.loads(file.read_text())["seed"] == seed:
            (unet,) = file.parent.glob("artifact/unet/*.safetensors")
            return load_file(unet)
    raise AssertionError("dreambooth left nothing")


def equal(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(tensor, second[name]) for name, tensor in first.items()
    )


# What an attack may do, and a word of what is then said of its cell

CHANGES = """
    with torch.no_grad():
        for weight in bench.base.components['{part}'].parameters():
            weight.add_(1.0)
    return super().run(bench, config)
"""
BAD = {
    # First, while nothing is drawn yet: what they drew would be kept for the others.
    "changes-unet": (CHANGES.format(part="unet"), "changed the protected model"),
    "changes-vae": (CHANGES.format(part="vae"), "changed the protected model"),
    "changes-text": (CHANGES.format(part="text_encoder"), "changed the protected model"),
    "changes-late": (
        """
        artifact = super().run(bench, config)
        bench.base.trained.conv_in.bias.data.add_(1.0)
        return artifact
        """,
        "changed the protected model",
    ),
    "exits": ("sys.exit(0)", "SystemExit"),
    "generator-exit": ("raise GeneratorExit", "GeneratorExit"),
    "base-exception": ("raise BaseException('x')", "BaseException: x"),
    "key-error": ("raise KeyError('artifact')", "KeyError"),
    "memory-error": ("raise MemoryError", "MemoryError"),
    "recursion": ("raise RecursionError", "RecursionError"),
    "stop-iteration": ("raise StopIteration", "StopIteration"),
    "speechless": (
        """
        class Speechless(Exception):
            def __str__(self):
                raise ValueError("nothing to say")
        raise Speechless
        """,
        "Speechless",
    ),
    "nothing": ("return None", "NoneType"),
    "last-step": (
        """
        type(self).learning_rate = lambda self, step, config: 1e38 if step == 1 else 1e-6
        return super().run(bench, config)
        """,
        "not finite",
    ),
    "etc": ("return Artifact('pipeline', Path('/etc'))", "not in its own folder"),
    "elsewhere": (
        "return Artifact('pipeline', bench.folder / '..' / '..')",
        "not in its own folder",
    ),
    "whole-cell": ("return Artifact('pipeline', bench.folder)", "not in its own folder"),
    "no-weights": (
        """
        (bench.artifact_folder / "readme.txt").write_text("nothing")
        return Artifact("pipeline", bench.artifact_folder)
        """,
        "no artifact",
    ),
    "no-tensors": (
        """
        (bench.artifact_folder / "unet.safetensors").write_text("nothing")
        return Artifact("pipeline", bench.artifact_folder)
        """,
        "cannot be read",
    ),
    "deletes-its-cell": (
        """
        def rate(self, step, config):
            if step == 1:
                shutil.rmtree(bench.folder)
            return 1e-6
        type(self).learning_rate = rate
        return super().run(bench, config)
        """,
        "",
    ),
    "dtype": ("torch.set_default_dtype(torch.float64)\nraise ValueError('x')", "ValueError: x"),
    "grad": ("torch.set_grad_enabled(False)\nraise ValueError('x')", "ValueError: x"),
    "deterministic": (
        "torch.use_deterministic_algorithms(True)\nraise ValueError('x')",
        "ValueError: x",
    ),
    "threads": ("torch.set_num_threads(3)\nraise ValueError('x')", "ValueError: x"),
    "seed": ("torch.manual_seed(5)\nraise ValueError('x')", "ValueError: x"),
    "folder": ("os.chdir('/')\nraise ValueError('x')", "ValueError: x"),
    "prints": (
        """
        print("HELLO")
        os.write(1, b"HELLO")
        sys.__stdout__.write("HELLO")
        raise ValueError('x')
        """,
        "ValueError: x",
    ),
}


@hostile("plugins: attacks")
def test_bad_attacks_cost_their_own_cells_only(
    root: Path, clean: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tried(len(BAD))
    file = plugin(tmp_path, {name: body for name, (body, _) in BAD.items()})
    before = state()
    code, cells = rows(capfd, *attack(root, file, *BAD, "dreambooth"), "--no-control")
    assert state() == before
    assert code == 1 and cells.keys() == {*BAD, "dreambooth"}
    for name, (_, words) in BAD.items():
        assert cells[name]["status"] == "failed", name
        assert words in cells[name]["error"], name
    (finished,) = finished_cells(root / "run" / "attacks")
    assert finished.name.startswith("dreambooth-")
    assert cells["dreambooth"]["status"] == "done"
    assert equal(weights(root), weights(clean))
    assert _drawn(root) and _drawn(root).items() <= _drawn(clean).items()


def _drawn(root: Path) -> dict[str, bytes]:
    cache = root / "_cache"
    return {str(file.relative_to(cache)): file.read_bytes() for file in cache.rglob("*.png")}


@hostile("plugins: attacks")
def test_what_goes_well_prints_beside_the_json(
    root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    body = f"print('HELLO')\nos.write(1, b'HELLO')\n{GOOD}"
    file = plugin(
        tmp_path,
        {"bad": body},
        {"bad": "summary = property(lambda self: print('SUMMARY') or 'A summary.')"},
    )
    file.write_text("print('AT FIRST')\n" + file.read_text())
    code, cells = rows(capfd, *attack(root, file), "--no-control")
    assert code == 0 and cells["bad"]["status"] == "done"
    with pytest.raises(SystemExit):
        main(["plugins", "--json", "--plugin-file", str(file)])
    printed = capfd.readouterr()
    assert json.loads(printed.out)["plugins"]
    assert "AT FIRST" in printed.err and "SUMMARY" in printed.err


# Declarations

DECLARED = {
    "no-profiles": "profiles = None",
    "profiles-of-numbers": "profiles = {'pocket': 3}",
    "raising-profiles": "profiles = property(lambda self: 1 / 0)",
    "raising-summary": "summary = property(lambda self: 1 / 0)",
    "leaving-summary": "summary = property(lambda self: sys.exit(0))",
    "no-config": "Config = None",
    "raising-name": "name = property(lambda self: 1 / 0)",
    "raising-text": "__str__ = __repr__ = lambda self: 1 / 0",
    "escape": "name = 'bad' + chr(27) + '[2J'",
    "long": "name = 'x' * 5000",
    "unwritable-config": (
        "Config = type('Config', (AttackConfig,), {'__annotations__': {'x': object},"
        " 'x': __import__('pydantic').Field(object(), description='x'),"
        " 'model_config': {'arbitrary_types_allowed': True}})"
    ),
}
USABLE = {"raising-text"}  # nobody has to ask an attack for its text


@hostile("plugins: declarations")
def test_declarations_take_nothing_along(root: Path, tmp_path: Path, apdm: Said) -> None:
    tried(len(DECLARED))
    file = plugin(tmp_path, dict.fromkeys(DECLARED, GOOD), DECLARED)
    code, said = apdm(*attack(root, file, "dreambooth"), "--no-control")
    assert code == 0 and "\x1b" not in said and "Traceback" not in said, said
    assert said.count("is broken and was left out") == len(DECLARED) - len(USABLE)
    for command in (["plugins"], ["plugins", "--json"], ["attack", "--list"]):
        code, said = apdm(*command, "--plugin-file", file)
        assert code == 0 and "Traceback" not in said and "\x1b" not in said


@hostile("plugins: attacks")
@pytest.mark.parametrize("method", ["configure", "continues"])
@pytest.mark.parametrize("line", ["1 / 0", "sys.exit(0)", "raise BaseException('x')"])
def test_questions_before_the_first_step(
    method: str, line: str, root: Path, tmp_path: Path, apdm: Said
) -> None:
    declared = f"def {method}(self, *anything):\n        {line}"
    file = plugin(tmp_path, {"bad": GOOD}, {"bad": declared})
    code, said = apdm(*attack(root, file, "bad", "dreambooth"))
    assert code == 1 and "the attack bad" in said and "Traceback" not in said
    assert not (root / "run" / "attacks").exists()  # refused before anything ran


# Bounds

LOOP = """
(bench.folder / "looping").touch()
while True:
    try:
        time.sleep(0.01)
    except {caught}:
        pass
"""
TINY = """
save_file({"a": torch.zeros(1)}, bench.artifact_folder / "a.safetensors")
return Artifact("pipeline", bench.artifact_folder)
"""


@hostile("plugins: attacks")
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(
    ("number", "code", "caught"),
    [
        (signal.SIGTERM, 143, "ZeroDivisionError"),
        (signal.SIGHUP, 129, "Exception"),
        (signal.SIGTERM, 143, "BaseException"),
    ],
)
def test_a_plugin_that_loops_is_ended_by_signals(
    number: signal.Signals, code: int, caught: str, root: Path, tmp_path: Path
) -> None:
    file = plugin(tmp_path, {"bad": LOOP.format(caught=caught)})
    process = Apdm([*attack(root, file), "--no-control"], tmp_path / "said")
    try:
        process.wait_until(lambda: list((root / "run").rglob("looping")))
        deadline = time.monotonic() + PATIENCE
        while process.code is None:  # a third one ends even what swallows the second
            process.signal(number)
            with contextlib.suppress(TimeoutError):
                process.wait(0.3)
            assert time.monotonic() < deadline
        assert process.code == code
    finally:
        process.kill()


@hostile("plugins: attacks")
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_cell_has_its_time(root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    once = LOOP.replace("pass", "caught = True").format(caught="Exception")
    file = plugin(tmp_path, {"bad": once, "quick": TINY})
    code, cells = rows(
        capfd, *attack(root, file, "bad", "quick"), "--cell-timeout", "1", "--no-control"
    )
    assert code == 1 and "more than 1 seconds" in cells["bad"]["error"]
    assert cells["quick"]["status"] == "done"
