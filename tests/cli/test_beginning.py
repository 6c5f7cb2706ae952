"""Ctrl-C in a process that has just begun, or is about to end: one line, 130, no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Python imports a `sitecustomize` by itself, before anything of the program.
AT_AN_IMPORT = """
import _signal as signal, sys  # `signal` itself is for the program to import

class Interrupting:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == {module!r}:
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupting)
"""
AT_THE_END = "import atexit, signal\natexit.register(signal.raise_signal, signal.SIGINT)\n"
IGNORED = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"


def _heed() -> None:
    """Tests that were begun in the background ignore Ctrl-C, and so would what they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _begin(folder: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m apdm_cli`, which is what the console script calls, after `code`."""
    (folder / "sitecustomize.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    return subprocess.run(
        [sys.executable, "-m", "apdm_cli", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=_heed,
    )


@pytest.mark.parametrize(
    "module",
    [
        "signal",  # the first of all
        "apdm_cli.cli.main",
        "typer",
        "apdm_cli.runs.interrupts",
        "apdm_cli.user_config",  # within `main`, while the command is looked for
        "apdm_cli.cli.plugins",
        "apdm_cli.extension.manager",  # within the command
    ],
)
def test_ctrl_c_while_something_is_imported_is_one_line(tmp_path: Path, module: str) -> None:
    ended = _begin(tmp_path, AT_AN_IMPORT.format(module=module), "plugins")
    assert ended.returncode == 130
    assert ended.stderr.strip() == "Interrupted."
    assert ended.stdout == ""


def test_ctrl_c_while_python_ends_is_no_traceback(tmp_path: Path) -> None:
    ended = _begin(tmp_path, AT_THE_END, "--version")
    assert ended.returncode == 130 and ended.stdout.startswith("apdm ")
    assert ended.stderr.strip() == "Interrupted."


def test_ctrl_c_stays_ignored_where_the_caller_ignores_it(tmp_path: Path) -> None:
    code = IGNORED + AT_AN_IMPORT.format(module="typer")
    ended = _begin(tmp_path, code, "--version")
    assert ended.returncode == 0 and ended.stdout.startswith("apdm ") and ended.stderr == ""
