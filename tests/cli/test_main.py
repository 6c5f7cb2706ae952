"""The program around the commands: help, version, errors, exit codes, and what is not imported."""

from __future__ import annotations

import errno
import importlib
import re
import subprocess
import sys
import types
from collections.abc import Callable
from typing import get_type_hints

import pytest
from typer.models import OptionInfo
from typer.testing import CliRunner

from apdm_cli import __version__
from apdm_cli.cli import main as cli
from apdm_cli.errors import ApdmError, UsageError
from apdm_cli.harness.suites import suite_names

# Runs the program in a fresh interpreter, then reports which heavy packages it pulled in.
PROBE = """
import sys
from apdm_cli.cli.main import main
code = 0
try:
    main(sys.argv[1:])
except SystemExit as ended:
    code = ended.code or 0
heavy = {"torch", "diffusers", "transformers", "numpy", "PIL", "matplotlib"} & set(sys.modules)
print("HEAVY", sorted(heavy), file=sys.stderr)
sys.exit(code)
"""


def run_probe(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROBE, *arguments], capture_output=True, text=True, timeout=60
    )


def replace_command(monkeypatch: pytest.MonkeyPatch, function: Callable[..., None]) -> None:
    module = types.ModuleType("apdm_cli.cli.protect")
    setattr(module, "protect", function)  # noqa: B010
    monkeypatch.setitem(sys.modules, "apdm_cli.cli.protect", module)


def run_with_command(
    monkeypatch: pytest.MonkeyPatch, function: Callable[..., None], *arguments: str
) -> int:
    """Run `apdm protect ARGUMENTS` with `function` in the place of the real command."""
    replace_command(monkeypatch, function)
    with pytest.raises(SystemExit) as ended:
        cli.main(["protect", *arguments])
    code = ended.value.code
    assert code is None or isinstance(code, int)
    return code or 0


def test_help_lists_every_command_without_heavy_imports() -> None:
    result = run_probe("--help")
    assert result.returncode == 0
    for name in cli.COMMANDS:
        assert f" {name} " in result.stdout
    assert "HEAVY []" in result.stderr


def test_version_without_heavy_imports() -> None:
    result = run_probe("--version")
    assert result.returncode == 0
    assert result.stdout == f"apdm {__version__}\n"
    assert "HEAVY []" in result.stderr


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_explains_itself_without_torch(name: str) -> None:
    result = run_probe(name, "--help")
    assert result.returncode == 0, result.stderr
    assert f"apdm {name}" in result.stdout
    assert "'torch'" not in result.stderr
    types = re.findall(r"<(?:str|int|float|bool|path|list\b)[^>]*>|list\[", result.stdout)
    assert not types, f"types of Python's: {types}"


def test_help_imports_no_command_module() -> None:
    code = (
        "import sys\nfrom apdm_cli.cli.main import COMMANDS, main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "assert not [n for n in COMMANDS if f'apdm_cli.cli.{n}' in sys.modules]"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_has_its_function_with_a_docstring(name: str) -> None:
    function = getattr(importlib.import_module(f"apdm_cli.cli.{name}"), name)
    assert callable(function)
    assert function.__doc__


@pytest.mark.parametrize(("error", "code"), [(ApdmError, 1), (UsageError, 2)])
def test_error_is_one_short_block_on_stderr(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: type[ApdmError],
    code: int,
) -> None:
    def protect() -> None:
        raise error("photos/[cat].jpg: not a picture.", "Remove it or name other photos.")

    assert run_with_command(monkeypatch, protect) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "Error: photos/[cat].jpg: not a picture.\nRemove it or name other photos.\n"
    )


def test_a_long_path_in_an_error_is_not_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = "/".join(["folder"] * 60)

    def protect() -> None:
        raise ApdmError(f"{path}: no such folder.")

    run_with_command(monkeypatch, protect)
    assert path in capsys.readouterr().err


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def protect() -> None:
        raise ZeroDivisionError("a bug")

    replace_command(monkeypatch, protect)
    with pytest.raises(ZeroDivisionError):
        cli.main(["protect"])


@pytest.mark.parametrize(
    ("arguments", "variable", "shown"),
    [
        (["--debug", "protect"], "", True),
        (["protect", "--debug"], "", True),
        (["protect"], "1", True),
        (["protect"], "0", False),
        (["protect"], "", False),
    ],
)
def test_debug_shows_the_traceback_of_an_error(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    variable: str,
    shown: bool,
) -> None:
    def protect() -> None:
        raise ApdmError("It is closed.", "Open it.") from KeyError("the cause")

    replace_command(monkeypatch, protect)
    monkeypatch.setenv("APDM_DEBUG", variable)
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    err = capsys.readouterr().err
    assert ended.value.code == 1
    assert ("Traceback" in err) == ("KeyError: 'the cause'" in err) == shown
    assert err.endswith("Error: It is closed.\nOpen it.\n")


def help_of(name: str) -> str:
    return CliRunner().invoke(cli.build_app({name}), [name, "--help"]).stdout


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_help_ends_with_an_example(name: str) -> None:
    assert f"Example: apdm {name}" in " ".join(help_of(name).split())


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_paragraphs_of_a_help_are_wrapped_by_the_terminal_alone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 200)
    function = getattr(importlib.import_module(f"apdm_cli.cli.{name}"), name)
    shown = [line.strip() for line in help_of(name).splitlines()]
    for paragraph in (function.__doc__ or "").split("\n\n"):
        text = " ".join(paragraph.split())
        assert len(text) > 190 or text in shown


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_no_option_is_cut_off_on_a_narrow_terminal(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 60)
    shown = help_of(name)
    assert "…" not in shown and max(map(len, shown.splitlines())) <= 60


@pytest.mark.parametrize("name", ["protect", "attack"])
def test_the_help_of_commands_with_set_points_to_the_settings(name: str) -> None:
    assert "apdm settings" in " ".join(help_of(name).split())


def test_the_help_of_attack_names_every_suite() -> None:
    shown = " ".join(help_of("attack").replace("│", " ").split())
    assert f"{', '.join(suite_names())} or a TOML file" in shown.replace(" (the default)", "")


def test_interrupt_is_one_line_and_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def protect() -> None:
        raise KeyboardInterrupt

    assert run_with_command(monkeypatch, protect) == 130
    assert capsys.readouterr().err.strip() == "Interrupted."


@pytest.mark.parametrize("arguments", [["nonsense"], ["--nonsense"]])
def test_wrong_usage_exits_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert "nonsense" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["attack", ""], "An argument"),
        (["protect", "photos", "--class", "dog", "--name", ""], "The value of --name"),
        (["protect", "photos", "--preset=", "--class", "dog"], "The value of --preset"),
    ],
)
def test_an_unset_variable_does_not_mean_the_default(
    arguments: list[str], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"Error: {what} is empty.\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["attack", "--seeds", "many"], "this has to be a whole number, and 'many' is not."),
        (["attack", "--guidance", "x"], "this has to be a number, and 'x' is not."),
        (["attack", "--seeds", "0"], "this has to be greater than or equal to 1, got '0'."),
        (["protect", "--memory", "lo"], "Invalid value for '--memory': 'lo' is not one of"),
    ],
)
def test_a_value_that_an_option_cannot_have_is_said_in_plain_words(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert sentence in said and "Input should" not in said


def test_a_mistyped_command_gets_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["protekt"])
    assert "'protect'" in capsys.readouterr().err


def test_an_exit_code_of_a_command_passes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    import typer

    def protect() -> None:
        raise typer.Exit(3)

    assert run_with_command(monkeypatch, protect) == 3


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_no_option_takes_its_spelling_from_its_metavar(name: str) -> None:
    """typer 0.27 spells an option like its metavar where both are one word: --NAME."""
    function = getattr(importlib.import_module(f"apdm_cli.cli.{name}"), name)
    for parameter, hint in get_type_hints(function, include_extras=True).items():
        for info in getattr(hint, "__metadata__", ()):
            # Inside Annotated, typer keeps the first spelling in `default`.
            if isinstance(info, OptionInfo) and info.metavar and info.default is ...:
                assert info.metavar.replace("_", "-").lower() != parameter.replace("_", "-")


@pytest.mark.parametrize("debug", [False, True])
def test_what_the_system_refuses_is_one_short_block(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], debug: bool
) -> None:
    def protect() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "runs/ann/losses.jsonl")

    assert run_with_command(monkeypatch, protect, *(["--debug"] if debug else [])) == 1
    err = capsys.readouterr().err
    assert ("Traceback" in err) == debug
    assert err.endswith(
        "Error: runs/ann/losses.jsonl: No space left on device.\n"
        "Check that it is still there, its permissions, and the free space on its disk.\n"
    )


def test_an_interrupt_while_a_command_is_loaded_is_130_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_load", interrupted)
    with pytest.raises(SystemExit) as ended:
        cli.main(["protect"])
    assert ended.value.code == 130
    assert capsys.readouterr().err == "\nInterrupted.\n"
