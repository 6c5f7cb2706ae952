"""What `apdm attack` shows while it runs."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from apdm_cli.cli import attack_display
from apdm_cli.cli.attack_display import AttackDisplay, LiveDisplay, open_display


def _cell(name: str, arm: str, finished: bool = False) -> Any:
    return SimpleNamespace(title=f"{name}, {arm}, seed 0", finished=finished)


def _outcome(cell: Any, status: str, **fields: Any) -> Any:
    manifest = {"summary": {"final_loss": 0.5}, "duration_seconds": 75.0}
    return SimpleNamespace(
        planned=cell, status=status, manifest=manifest, **{"error": "", "hint": "", **fields}
    )


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch) -> Console:
    recording = Console(record=True, width=100, file=io.StringIO())
    monkeypatch.setattr(attack_display, "stderr", recording)
    return recording


@pytest.mark.parametrize("kind", [AttackDisplay, LiveDisplay])
def test_a_line_per_cell_and_what_is_cached_at_once(console: Console, kind: type) -> None:
    cells = [_cell("lora", "original", finished=True), _cell("lora", "protected"), _cell("x", "y")]
    with kind() as display:
        display.planned(cells)
        assert "3 cells, 1 of them finished before" in console.export_text(clear=False)
        display.end(_outcome(cells[0], "cached"))
        display.begin(cells[1])
        display.stage("attack", 2)
        display.advance(loss=0.5)
        display.end(_outcome(cells[1], "done"))
        display.begin(cells[2])
        display.end(_outcome(cells[2], "failed", error="it broke", hint="mend it"))
    shown = console.export_text()
    assert "before lora, original, seed 0" in shown
    assert "done   lora, protected, seed 0  1 min 15 s" in shown and "loss 0.5000" in shown
    assert "failed x, y, seed 0" in shown and "it broke" in shown and "mend it" in shown


def test_one_cell_is_one_cell(console: Console) -> None:
    with AttackDisplay() as display:
        display.planned([_cell("lora", "original")])
    assert console.export_text().strip() == "1 cell"


def test_pictures_are_counted_as_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    recording = Console(record=True, width=80, force_terminal=True, file=io.StringIO())
    monkeypatch.setattr(attack_display, "stderr", recording)
    display = LiveDisplay()
    cell = _cell("dreambooth (other identifier)", "protected")
    display.planned([cell])
    display.begin(cell)
    display.stage("pictures at 1 × the steps", 30, unit="pictures")
    display.advance(8)
    recording.print(display._bars.get_renderable())
    shown = recording.export_text()
    assert "8/30 pictures" in shown and "0/1 cells" in shown
    assert all(len(line) <= 80 for line in shown.splitlines())


@pytest.mark.parametrize("live", [False, True])
def test_another_worker_is_shown_by_its_name(monkeypatch: pytest.MonkeyPatch, live: bool) -> None:
    recording = Console(record=True, width=80, force_terminal=True, file=io.StringIO())
    monkeypatch.setattr(attack_display, "stderr", recording)
    display = open_display(live=live)
    display.planned([_cell("lora", "original"), _cell("lora", "protected")])
    watcher = display.watch("worker 2 (cpu)")
    watcher.takes("lora, protected, seed 0")
    watcher.stage("attack", 40)
    watcher.advance(10, loss=0.25)
    watcher.said("something is odd")
    if isinstance(display, LiveDisplay):
        recording.print(display._bars.get_renderable())
    shown = recording.export_text()
    assert "worker 2 (cpu): something is odd" in shown
    assert ("lora, protected, seed 0" in shown and "10/40 steps" in shown) == live
    watcher.leaves()
    if isinstance(display, LiveDisplay):
        recording.print(display._bars.get_renderable())
    assert "lora, protected, seed 0" not in recording.export_text()


def test_bars_are_for_terminals_only() -> None:
    assert isinstance(open_display(live=True), LiveDisplay)
    assert not isinstance(open_display(live=False), LiveDisplay)
