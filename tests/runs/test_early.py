"""Processes that import before they are told what to do."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from multiprocessing.process import active_children
from pathlib import Path

import pytest

from apdm_cli.runs import early
from apdm_cli.runs.early import act_in_process, beginning
from tests.runs.test_workers import until

MODULE = """
import os
from pathlib import Path
(Path({folder!r}) / f'imported-{{os.getpid()}}').touch()
def act(word, end):
    end.send((os.getpid(), word))
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """One that leaves a file when it is imported."""
    name = f"imported_early_{os.getpid()}"
    (tmp_path / f"{name}.py").write_text(MODULE.format(folder=str(tmp_path)))
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


def test_a_process_imports_first_and_then_does_what_it_is_told(module: str, tmp_path: Path) -> None:
    with beginning(2, ("there is no such module", module)):
        until(lambda: len(list(tmp_path.glob("imported-*"))) == 2)
        these = {int(file.name.split("-")[1]) for file in tmp_path.glob("imported-*")}
        assert {process.pid for process in active_children()} == these
        act = __import__(module).act
        process, reports = act_in_process("the first", act, "go")
        assert process.name == "the first" and process.pid in these
        assert reports.recv() == (process.pid, "go")
        process.join()
        assert process.exitcode == 0
    assert not active_children(), "the other one was not needed"
    later, reports = act_in_process("another", act, "come")
    assert reports.recv() == (later.pid, "come") and later.pid not in these
    later.join()


def test_an_order_that_cannot_be_sent_leaves_nobody(module: str) -> None:
    with pytest.raises(Exception, match="pickle"):
        act_in_process("nobody", lambda end: None)
    assert not active_children()


def test_a_process_that_is_never_told_ends_with_the_other(module: str, tmp_path: Path) -> None:
    """It hears that nobody is there to tell it anything."""
    with beginning(1, (module,)):
        until(lambda: list(tmp_path.glob("imported-*")))
        (process,) = active_children()
        early._waiting[0].orders.close()
        process.join(60)
        assert process.exitcode == 0
