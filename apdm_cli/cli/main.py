"""The `apdm` program: find the command, run it, and turn its errors into one short block.

Nothing here imports torch. A command's module is imported only when that command is asked for, so
that `apdm --help` and `apdm --version` answer at once.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apdm_cli import __version__
from apdm_cli.cli import going_on
from apdm_cli.cli.ctrl_c import whole_imports
from apdm_cli.errors import ApdmError, UsageError
from apdm_cli.paths import require_ordinary
from apdm_cli.runs.interrupts import Stopped
from apdm_cli.visible import visible

if TYPE_CHECKING:
    from apdm_cli.user_config import UserConfig

# name -> the line that `apdm --help` shows; module and function are apdm_cli.cli.<name>.<name>.
COMMANDS = {
    "protect": "Make a model refuse to learn the subject of some photos.",
    "attack": "Personalize the original and the protected model the same way.",
    "evaluate": "Draw pictures with every attacked model and score them.",
    "compare": "Say how well it holds: an answer, a report, an exit code for CI.",
    "plugins": "List the installed protections, attacks, metrics and families.",
    "settings": "List what --set takes: names, defaults, ranges and meaning.",
    "runs": "List the runs with their state, size, age and verdict.",
    "clean": "Free disk space: remove runs, attacked models or pictures.",
    "doctor": "Check this installation and machine, and say what to mend.",
    "demo": "Try the first four on packaged sample photos, in a few minutes.",
}
EPILOGS = {
    "protect": "Example: apdm protect ./photos --class person\n\n"
    "Settings for --set: apdm settings protect",
    "attack": "Example: apdm attack --plugin lora --set lora.rank=8 --budgets 1,3\n\n"
    "Settings for --set: apdm settings ATTACK",
    "evaluate": "Example: apdm evaluate --metrics dino --images 30",
    "compare": "Example: apdm compare --require 'work>=3'",
    "plugins": "Example: apdm plugins --json",
    "settings": "Example: apdm settings lora",
    "runs": "Example: apdm runs --json",
    "clean": "Example: apdm clean demo --artifacts",
    "doctor": "Example: apdm doctor --json",
    "demo": "Example: apdm demo --subject dog-1",
}
# Of anything that is counted; and a seed, from which those of all pictures follow, in 64 bits.
MOST, HIGHEST_SEED = 1_000_000, 2**32 - 1
LONGEST = 4_096  # characters of an argument, as of a path
INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C ended


def build_app(load: Collection[str] | None = None, *, completing: bool = False) -> typer.Typer:
    """The Typer application, with the real commands for the names in `load` (default: all).

    The others are there for the overview only: they have a help line and no options.

    Args:
        completing: also teach the real ones which words their options take, for the shell.
    """
    app = typer.Typer(
        name="apdm",
        help="Make a diffusion model refuse to learn a subject, then try hard to break that.",
        epilog="Start with: apdm demo. Every command explains itself: apdm COMMAND --help",
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_global_options)
    for name, summary in COMMANDS.items():
        if load is None or name in load:
            function = _load(name)
            if completing:
                from apdm_cli.cli.completion import attach

                attach(name, function)
            register = app.command(name, help=_unwrapped(function), epilog=EPILOGS.get(name))
            register(_checked(function))
        else:
            app.command(name, help=summary)(_placeholder)
    return app


def main(argv: Sequence[str] | None = None) -> None:
    """Run `apdm` with `argv` (default: the process's own arguments) and exit.

    Exit codes: 0 done; 1 something outside is wrong (ApdmError, OSError); 2 wrong usage; 130
    interrupted. Anything else is a bug and keeps its traceback.
    """
    arguments, debug = _without_debug(sys.argv[1:] if argv is None else argv)
    going_on.began(arguments)
    _quiet_libraries()
    _plain_types()
    _plain_refusals()
    config: UserConfig | None = None
    try:
        _require_text(arguments)
        _require_words(arguments)
        completing = "_APDM_COMPLETE" in os.environ  # shells ask through the environment
        if os.environ.get("_APDM_COMPLETE") == "complete_bash":
            from apdm_cli.cli.completion import rejoin_bash_words

            rejoin_bash_words()
        wanted = _command_of(_typed_words() if completing else arguments)
        if wanted in COMMANDS:
            config = _user_config(wanted)
        defaults = {wanted: config.defaults()} if config else {}
        command = typer.main.get_command(build_app({wanted}, completing=completing))
        with whole_imports():
            command.main(args=arguments, prog_name="apdm", default_map=defaults)
    except Stopped as stopped:
        _exit_interrupted(stopped.what, stopped.exit_code)
    except ApdmError as error:
        if debug:
            traceback.print_exc()
        _exit_with(error, config)
    except OSError as error:
        if debug:
            traceback.print_exc()
        _exit_with(_from_system(error), config)
    except KeyboardInterrupt:
        _exit_interrupted()
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            _exit_interrupted()
        raise


def _load(name: str) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(importlib.import_module(f"apdm_cli.cli.{name}"), name)
    return function


def _without_debug(given: Sequence[str]) -> tuple[list[str], bool]:
    """The arguments without `--debug`, which may stand anywhere, and whether to debug."""
    end = list(given).index("--") if "--" in given else len(given)
    options = [item for item in given[:end] if item != "--debug"]
    asked = len(options) < end or os.environ.get("APDM_DEBUG", "") not in ("", "0")
    return [*options, *given[end:]], asked


def _command_of(words: Sequence[str]) -> str:
    return next((word for word in words if not word.startswith("-")), "")


def _typed_words() -> list[str]:
    from apdm_cli.cli.completion import words_on_the_line

    return words_on_the_line()[1:]


def _user_config(command: str) -> UserConfig | None:
    """What apdm.toml says; `apdm doctor` tells about a broken one itself, completion nothing."""
    from apdm_cli.user_config import load_config

    try:
        return load_config()
    except ApdmError:
        if command != "doctor" and "_APDM_COMPLETE" not in os.environ:
            raise
        return None


def _exit_with(error: ApdmError, config: UserConfig | None) -> None:
    from apdm_cli.cli.console import print_error

    blame = config.blame(error.what) if config else ""
    print_error(ApdmError(error.what, "\n".join(part for part in (error.hint, blame) if part)))
    sys.exit(error.exit_code)


def _unwrapped(function: Callable[..., Any]) -> str:
    """Its docstring with one line a paragraph: where lines end is for the terminal to say."""
    paragraphs = (inspect.getdoc(function) or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _checked(command: Callable[..., Any]) -> Callable[..., Any]:
    """`command`, refusing a path that leads to a pipe, a device or a name that cannot be, and a
    number that nothing can be counted to.

    Every parameter that is given a `Path` or a whole number is covered, also those written later.
    With `--json` or `--markdown` nothing but the answer reaches stdout.
    """

    @functools.wraps(command)
    def checked(*positional: Any, **named: Any) -> Any:
        for value in (*positional, *named.values()):
            for path in _paths(value):
                require_ordinary(path)
        for name, value in named.items():
            if type(value) is int:
                _require_countable(name, value)
        if not (named.get("json") or named.get("markdown")):
            return command(*positional, **named)
        from apdm_cli.cli.console import answer_alone

        with answer_alone():
            return command(*positional, **named)

    return checked


def _require_countable(name: str, number: int) -> None:
    """Refuse a number of seeds, pictures or workers that would be counted for ever."""
    most = HIGHEST_SEED if name == "seed" else MOST
    if number > most:
        raise UsageError(
            f"--{name.replace('_', '-')} is too large: it has {len(str(number))} digits",
            f"It may be at most {most:,}.",
        )


def _paths(value: Any) -> Iterator[Path]:
    """The paths in the value of one parameter, which may be given several times."""
    if isinstance(value, Path):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _paths(item)


def _require_text(arguments: Sequence[str]) -> None:
    """Refuse what is no text, or no end of it: bytes that are not UTF-8 (lone surrogates here),
    control characters, and more characters than a path may have.

    Neither can be kept in a manifest and found again, and error messages repeat arguments.
    """
    for argument in arguments:
        if any("\ud800" <= character <= "\udfff" for character in argument):
            what = "bytes that are not UTF-8"
        elif visible(argument, lines=True) != argument:
            what = "control characters"
        elif len(argument) > LONGEST:
            what = f"{len(argument):,} characters, and at most {LONGEST:,} can be meant"
        else:
            continue
        shown = argument if len(argument) < 200 else f"{argument[:200]}..."
        raise UsageError(
            f"The argument {shown} holds {what}",
            "Rename the file or the folder, or write the word again.",
        )


def _require_words(arguments: Sequence[str]) -> None:
    """Refuse an empty argument: a variable that is not set must not mean "the newest run"."""
    for before, argument in zip(("", *arguments), arguments, strict=False):
        if argument == "--":
            return
        bare = argument.startswith("--") and argument.find("=") == len(argument) - 1
        option = argument[:-1] if bare else before
        if argument and option == before:
            continue
        whose = f"The value of {option}" if option.startswith("-") else "An argument"
        raise UsageError(
            f"{whose} is empty",
            "Leave it out, or give the variable that stands there a value.",
        )


def _from_system(error: OSError) -> ApdmError:
    """What the system refused, where nobody nearer to it had a better sentence."""
    where = f"{error.filename}: " if error.filename else ""
    return ApdmError(
        f"{where}{error.strerror or error}",
        "Check that it is still there, its permissions, and the free space on its disk.",
    )


def _plain_types() -> None:
    """Show what an option takes as `N` or `PATH`, where typer would show `<list[Path]>`.

    Also for switches and for --help, which take nothing. Versions of typer that show no types of
    Python's have other methods, which this leaves alone.
    """

    def shown(parameter: Any, ctx: Any) -> str | None:
        option = parameter.param_type_name == "option"
        if option and parameter.metavar is not None:
            return str(parameter.metavar)
        described = parameter.type_descriptor
        if described.is_choice:
            return "|".join(str(choice) for choice in described.choices)
        annotation = str(described.annotation)
        words = {"bool": None, "int": "N", "float": "X", "Path": "PATH", "str": "TEXT"}
        word = next((word for kind, word in words.items() if kind in annotation), None)
        return word if option or parameter.metavar is None else None

    for kind in (typer.core.TyperOption, typer.core.TyperArgument):
        setattr(kind, "display_type_rich", shown)  # noqa: B010


_words_of_typer = typer.BadParameter.format_message


def _plain_refusals() -> None:
    """Say of an option's value what is said of a setting's, where typer would quote pydantic."""

    def said(error: typer.BadParameter) -> str:
        details = getattr(error.__cause__, "errors", None)
        if details is not None:
            from apdm_cli.config import what_is_wrong

            error.message = f"{what_is_wrong(details()[0])}."
        return _words_of_typer(error)

    setattr(typer.BadParameter, "format_message", said)  # noqa: B010


def _placeholder() -> None:
    """Stands for a command that this process will not run."""


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"apdm {__version__}")
        raise typer.Exit()


def _global_options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option(
            "--debug",
            help="Show the traceback of any error. May stand anywhere; APDM_DEBUG=1 does the same.",
        ),
    ] = False,
) -> None:
    """Options that stand before the command."""


def _quiet_libraries() -> None:
    """Keep the libraries' own bars and notices off the screen, unless the user asked for them."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def _exit_interrupted(what: str = "", code: int = INTERRUPTED) -> None:
    """Say what is kept, and the whole command that goes on.

    Args:
        what: what was stopped, where that is better known than what is kept in any case.
    """
    print(f"\nInterrupted. {what or going_on.what_is_kept()}".rstrip(), file=sys.stderr)
    if going_on.what_is_kept() and (again := going_on.command()):
        print(f"Go on with: {again}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
