"""Ctrl-C: what is said to be kept, and the whole command that goes on."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from apdm_cli.cli import going_on
from apdm_cli.cli.ctrl_c import whole_imports
from apdm_cli.cli.guide import guided
from apdm_cli.cli.main import main
from apdm_cli.runs.interrupts import Stopped
from tests.evaluation.material import Bench
from tests.harness.conftest import Place, _template, place
from tests.made_runs import make_run
from tests.protection.commands import Desk, forget_pipelines

__all__ = ["_template", "place"]  # fixtures

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module", autouse=True)
def _pipelines() -> Iterator[None]:
    yield
    forget_pipelines()


def _ended(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, arguments)))
    return int(ended.value.code or 0)


def _again(capsys: Captured) -> list[str]:
    """The arguments of the command that is said to go on, after the interrupt is told."""
    said = capsys.readouterr().err.strip().splitlines()
    assert sum(line.startswith("Interrupted.") for line in said) == 1
    assert said[-1].startswith("Go on with: apdm ")
    return shlex.split(said[-1].removeprefix("Go on with: apdm "))


def _interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def _abort(*_: Any, **__: Any) -> None:
    raise typer.Abort


@pytest.mark.parametrize(
    ("typed", "options", "expected"),
    [
        ("attack --plugin lora", {"run": "ann"}, "apdm attack ann --plugin lora"),
        ("protect 'my photos' --name a", {"add": ["--resume"]}, "'my photos' --name a --resume"),
        ("protect x --resume", {"add": ["--resume"]}, "apdm protect x --resume"),
        ("demo --fresh --images 4", {"drop": ["--fresh"]}, "apdm demo --images 4"),
    ],
)
def test_the_command_is_the_typed_one_and_what_it_takes_to_go_on(
    typed: str, options: dict[str, Any], expected: str
) -> None:
    going_on.began(shlex.split(typed))
    going_on.keeps("Something is kept.", **options)
    assert going_on.command().endswith(expected)


def test_commands_within_another_leave_its_command_alone() -> None:
    going_on.began(["demo", "--fresh"])
    going_on.keeps("What is finished is kept.", drop=["--fresh"])
    with guided():
        going_on.nothing_yet()
        assert going_on.what_is_kept() == "What is finished is kept."
        going_on.keeps("Pictures are kept.", run="demo", add=["--resume"])
    assert going_on.what_is_kept() == "Pictures are kept."
    assert going_on.command() == "apdm demo"


def test_protect_before_and_after_its_first_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    import apdm_cli.protection.checkpointing as checkpointing
    import apdm_cli.protection.run as room

    desk = Desk(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(room, "prepare", _interrupt)  # while class pictures are drawn
        assert desk.protect("one") == 130
    assert _again(capsys) == desk.arguments("one")

    real = checkpointing.save_checkpoint
    saved: list[int] = []

    def save(folder: Path, step: int, state: Any) -> Any:
        if saved:
            raise KeyboardInterrupt
        saved.append(step)
        return real(folder, step, state)

    with monkeypatch.context() as patch:
        patch.setattr(checkpointing, "save_checkpoint", save)
        assert desk.protect("one", "--checkpoint-every", "1") == 130
    again = _again(capsys)
    assert again == [*desk.arguments("one", "--checkpoint-every", "1"), "--resume"]
    assert _ended(*again) == 0


@pytest.mark.usefixtures("heeded_signals")
def test_attack_names_its_run_and_goes_on(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    from apdm_cli.harness import workbench

    typed = ["attack", "--out", str(place.root), "--plugin", "dreambooth", "--device", "cpu"]
    for setting in ("steps=3", "prior_pictures=2", "sampler_steps=1"):
        typed += ["--set", setting]
    real = workbench.train

    def train(*arguments: Any, **options: Any) -> Iterator[Any]:
        for step in real(*arguments, **options):
            os.kill(os.getpid(), signal.SIGINT)
            yield step

    with monkeypatch.context() as patch:
        patch.setattr(workbench, "train", train)
        assert _ended(*typed) == 130
    said = capsys.readouterr().err
    assert "Interrupted. The attack was stopped after step 1; nothing is lost.\n" in said
    again = shlex.split(said.splitlines()[-1].removeprefix("Go on with: apdm "))
    assert again == ["attack", "run", *typed[1:]]
    assert _ended(*again) == 0


@pytest.mark.parametrize("moment", ["Drawing pictures", "metrics"])
def test_evaluate_keeps_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured, moment: str
) -> None:
    from apdm_cli.cli.progress import Display
    from apdm_cli.evaluation import evaluate

    bench = Bench(tmp_path)
    bench.cell("protected", "dreambooth-000000000002")
    if moment == "metrics":
        monkeypatch.setattr(evaluate, "open_panel", _interrupt)
    else:
        monkeypatch.setattr(Display, "advance", _interrupt)
    typed = ["evaluate", "--out", str(bench.root), "--images", "2", "--class-images", "2"]
    typed += ["--steps", "1", "--device", "cpu", "--weights", f"pocket-vit={bench.vit}"]
    assert _ended(*typed) == 130
    assert _again(capsys) == ["evaluate", "run", *typed[1:]]


def test_ctrl_c_at_a_question_removes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    run = make_run(tmp_path, "ann")
    monkeypatch.setattr("apdm_cli.cli.clean._can_ask", lambda: True)
    monkeypatch.setattr("typer.confirm", _abort)
    assert _ended("clean", "ann", "--out", tmp_path) == 130
    assert "Interrupted. Nothing was removed." in capsys.readouterr().err
    assert run.path.exists()


def test_a_signal_is_told_as_such(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    import apdm_cli.cli.main as room

    def compare() -> None:
        going_on.keeps("Much is kept.")
        raise Stopped("It was stopped after step 3.")

    monkeypatch.setattr(room, "_load", lambda name: compare)
    assert _ended("compare") == 130
    err = capsys.readouterr().err
    assert err == "\nInterrupted. It was stopped after step 3.\nGo on with: apdm compare\n"


@pytest.mark.usefixtures("heeded_signals")
def test_an_import_is_not_broken_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow_to_import.py").write_text(
        "import signal\nsignal.raise_signal(signal.SIGINT)\nwhole = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyboardInterrupt), whole_imports():
        import slow_to_import

        assert slow_to_import.whole
        time.sleep(10)
    assert sys.modules.pop("slow_to_import").whole


@pytest.mark.usefixtures("heeded_signals")
def test_a_second_ctrl_c_breaks_an_import_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hangs_on_import.py").write_text(
        "import signal, time\n"
        "signal.raise_signal(signal.SIGINT)\nsignal.raise_signal(signal.SIGINT)\ntime.sleep(10)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyboardInterrupt), whole_imports():
        import hangs_on_import  # noqa: F401
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
