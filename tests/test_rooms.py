"""The rooms of the house: imports run downwards only, and no two files import each other.

Every import counts: inside functions and for the type checker too, because whoever reads a file
has to know what it speaks of.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    name: folder / name
    for folder in (ROOT, ROOT / "plugins")
    for name in ("apdm_cli", "apdm_attacks", "apdm_metrics", "apdm_protections", "apdm_families")
    if (folder / name).is_dir()
}
# From the top. A room may import itself and those on lower floors.
FLOORS = (
    ("apdm_cli.__main__",),
    ("apdm_cli.cli",),
    ("apdm_cli.testing", "apdm_cli.report", "apdm_cli.doctor"),
    # Plugins are found by entry points, so that nobody imports them: they may use what they need.
    ("apdm_attacks", "apdm_metrics", "apdm_protections", "apdm_families"),
    ("apdm_cli.evaluation",),
    ("apdm_cli.harness",),
    ("apdm_cli.protection",),
    ("apdm_cli.plugin",),
    ("apdm_cli.extension",),
    ("apdm_cli.personalization",),
    ("apdm_cli.subject",),
    ("apdm_cli.diffusion",),
    ("apdm_cli.scores",),
    ("apdm_cli.runs",),
    ("apdm_cli.user_config",),
    ("apdm_cli.progress", "apdm_cli.config", "apdm_cli.randomness", "apdm_cli.devices"),
    ("apdm_cli.pocket",),
    ("apdm_cli.digests", "apdm_cli.folders", "apdm_cli.paths"),
    ("apdm_cli.errors",),
    ("apdm_cli.visible", "apdm_cli"),
)
# Arrows that are still to go: (importing file, imported file). Empty when the house stands.
OWED: frozenset[tuple[str, str]] = frozenset()


def _modules() -> dict[str, Path]:
    found = {}
    for package, folder in PACKAGES.items():
        for file in folder.rglob("*.py"):
            parts = file.relative_to(folder).with_suffix("").parts
            name = ".".join((package, *parts)).removesuffix(".__init__")
            found[name] = file
    return found


MODULES = _modules()


def _imports(name: str) -> set[str]:
    """The modules of ours that `name` imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {each for each in inner if each in MODULES}
            found |= modules
            if len(modules) < len(inner):
                found.add(node.module)
    return {each for each in found if each in MODULES and each != name}


GRAPH = {name: _imports(name) for name in MODULES}


def _floor(name: str) -> int:
    """How far below the roof a module's room is."""
    fits = [
        (len(room), floor)
        for floor, rooms in enumerate(FLOORS)
        for room in rooms
        if name == room or name.startswith(f"{room}.")
    ]
    return max(fits)[1]


def _arrows() -> set[tuple[str, str]]:
    return {(name, other) for name, others in GRAPH.items() for other in others}


def _room(name: str) -> str:
    return max(
        (room for rooms in FLOORS for room in rooms if name == room or name.startswith(f"{room}.")),
        key=len,
    )


def test_every_file_is_in_a_room_of_its_own() -> None:
    """A new file or folder beside the rooms is a room that nobody has drawn."""
    lost = {name for name in MODULES if _room(name) == "apdm_cli" and name not in ("apdm_cli",)}
    assert not lost, f"name their floor in FLOORS: {sorted(lost)}"


def test_no_arrow_runs_upwards() -> None:
    upward = {(a, b) for a, b in _arrows() if _floor(b) < _floor(a)}
    sideways = {(a, b) for a, b in _arrows() if _floor(a) == _floor(b) and _room(a) != _room(b)}
    assert sorted((upward | sideways) - OWED) == []


def test_nobody_imports_the_contract_tests() -> None:
    """They need pytest, which the product does not."""
    room = "apdm_cli.testing"
    assert [a for a, b in sorted(_arrows()) if _room(b) == room != _room(a)] == []


def test_no_circle() -> None:
    """Neither of two files nor of more."""
    state: dict[str, int] = {}
    circles: list[list[str]] = []

    def visit(name: str, path: list[str]) -> None:
        state[name] = 1
        for other in sorted(GRAPH[name]):
            if (name, other) in OWED:
                continue
            if state.get(other) == 1:
                circles.append([*path[path.index(other) :], other])
            elif other not in state:
                visit(other, [*path, other])
        state[name] = 2

    for name in sorted(GRAPH):
        if name not in state:
            visit(name, [name])
    assert circles == []


def test_what_is_owed_is_still_there() -> None:
    """An arrow that is gone is taken off the list."""
    assert _arrows() >= OWED


@pytest.mark.parametrize("command", ["apdm_cli.cli.main", "apdm_cli.plugin"])
def test_no_torch_before_it_is_needed(command: str) -> None:
    """`--help` and the declarations of a plugin are there at once."""
    import subprocess

    code = f"import sys, {command}; print('torch' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "False"
