"""What the shell offers after TAB: which words each option takes, in one table.

Everything here answers without torch. Typer completes the names of commands and options itself
(`apdm --install-completion`); a word that is offered nowhere below is completed as a file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, get_type_hints

import typer
from typer.models import ArgumentInfo, OptionInfo

Words = Iterable[tuple[str, str]]  # what may be typed, and what it means
Completer = Callable[[typer.Context, str], Words]
# What stands before the part of the last word that the shell replaces.
_BEFORE: ContextVar[str] = ContextVar("before", default="")


def words_on_the_line() -> list[str]:
    """What is typed already, the program's own name included; see typer's shell scripts."""
    line = os.environ.get("_TYPER_COMPLETE_ARGS") or os.environ.get("COMP_WORDS", "")
    return line.split()


def rejoin_bash_words() -> None:
    """Put together what bash takes apart at every `=`, and leave it in the environment for typer.

    `--set lora.rank=4` comes as the words `--set`, `lora.rank`, `=` and `4`, of which bash replaces
    the last alone. So the last word stays what it is, and `_BEFORE` holds `lora.rank=`.
    `--device=cpu` is read as `--device cpu`.
    """
    words = os.environ.get("COMP_WORDS", "").split("\n")
    at = int(os.environ.get("COMP_CWORD") or len(words) - 1)
    joined: list[str] = []
    glued = apart = False
    for word in [*words[: at + 1], *[""] * (at + 1 - len(words))]:
        if word == "=" and joined and not (glued or apart):
            apart = joined[-1].startswith("--")
            glued = not apart
            joined[-1] += "=" if glued else ""
        elif glued:
            joined[-1] += word
            glued = False
        else:
            joined.append(word)
            apart = False
    if apart:
        joined.append("")
    before, equals, last = joined[-1].rpartition("=") if _was_split(words, at) else ("", "", "")
    if equals:
        joined[-1] = last
        _BEFORE.set(f"{before}=")
    os.environ["COMP_WORDS"] = "\n".join(joined)
    os.environ["COMP_CWORD"] = str(len(joined) - 1)


def _was_split(words: list[str], at: int) -> bool:
    """Whether bash took the word at the cursor apart: an `=` stands there, or just before it."""
    return "=" in words[max(at - 1, 0) : at + 1]


def attach(command: str, function: Callable[..., Any]) -> None:
    """Tell typer how to complete the parameters of `function`, which `command` runs."""
    for parameter, hint in get_type_hints(function, include_extras=True).items():
        completer = COMPLETERS.get((command, parameter)) or COMPLETERS.get(("", parameter))
        for info in getattr(hint, "__metadata__", ()):
            if completer is not None and isinstance(info, OptionInfo | ArgumentInfo):
                info.autocompletion = _safely(completer)
                # Annotations are strings until now: typer would evaluate them to other objects.
                function.__annotations__[parameter] = hint


def _safely(completer: Completer) -> Callable[[typer.Context, str], list[Any]]:
    """Typing must never be disturbed: a completer that fails offers nothing.

    It is asked for the whole word, and what stands before the part that bash replaces is cut off.
    """

    def complete(ctx: typer.Context, incomplete: str) -> list[Any]:
        before = _BEFORE.get()
        try:
            offered = completer(ctx, before + incomplete)
            words = [
                (word.removeprefix(before), help)
                for word, help in offered
                if word.startswith(before)
            ]
            return [(word, help) if help else word for word, help in words]
        except (Exception, SystemExit):
            return []

    return complete


def _fixed(**words: str) -> Completer:
    return lambda ctx, incomplete: words.items()


def _runs(ctx: typer.Context, incomplete: str) -> Words:
    from apdm_cli.runs.listing import run_folders
    from apdm_cli.runs.manifest import read_manifest

    for folder in run_folders(_root(ctx)):
        manifest = read_manifest(folder)
        nouns = [
            str((subject or {}).get("class_noun", ""))
            for subject in manifest.get("subjects") or [manifest.get("subject")]
        ]
        yield folder.name, ", ".join(dict.fromkeys(nouns))


def _root(ctx: typer.Context) -> Path:
    return Path(ctx.params.get("out") or "runs").expanduser()


def _installed(kind: str) -> Completer:
    def complete(ctx: typer.Context, incomplete: str) -> Words:
        from apdm_cli.extension.names import known_names

        return [(name, entry["summary"]) for name, entry in known_names()[kind].items()]

    return complete


def _metrics(ctx: typer.Context, incomplete: str) -> Words:
    """The last of several names joined by commas."""
    before, comma, _ = incomplete.rpartition(",")
    names = [*_installed("metric")(ctx, incomplete), *([] if comma else [("auto", "all of them")])]
    return [(f"{before}{comma}{name}", summary) for name, summary in names]


def _required(ctx: typer.Context, incomplete: str) -> Words:
    return [(f"worst.{name}<=", summary) for name, summary in _installed("metric")(ctx, "")]


def _attack_settings(ctx: typer.Context, incomplete: str) -> Words:
    """`ATTACK.KEY=DEFAULT`, of the attacks that --plugin names, or of all.

    Once the `=` is typed, every choice is offered.
    """
    from apdm_cli.extension.names import known_names

    attacks = known_names()["attack"]
    chosen = [name for name in ctx.params.get("plugin") or () if name in attacks] or list(attacks)
    for name in chosen:
        for key, values in attacks[name]["settings"].items():
            for value in values if "=" in incomplete else values[:1]:
                yield f"{name}.{key}={value}", ""


def _method(ctx: typer.Context) -> dict[str, Any]:
    """What is known of the method that --method names, or of the usual one."""
    from apdm_cli.extension.names import known_names

    methods = known_names()["protection"]
    return methods.get(str(ctx.params.get("method") or "apdm"), {})


def _protect_settings(ctx: typer.Context, incomplete: str) -> Words:
    for key, values in _method(ctx).get("settings", {}).items():
        for value in values if "=" in incomplete else values[:1]:
            yield f"{key}={value}", ""


def _presets(ctx: typer.Context, incomplete: str) -> Words:
    return [(name, "") for name in _method(ctx).get("presets", ())]


def _suites(ctx: typer.Context, incomplete: str) -> Words:
    from apdm_cli.harness.suites import load_suite, suite_names

    yield from ((name, load_suite(name).description) for name in suite_names())
    yield from _files(incomplete, ".toml")


def _prompt_sets(ctx: typer.Context, incomplete: str) -> Words:
    yield from (("identity", ""), ("object", ""), ("diverse", ""))
    yield from _files(incomplete, ".txt")


def _topics(ctx: typer.Context, incomplete: str) -> Words:
    yield "protect", "how a model is protected"
    yield "evaluate", "how pictures are drawn and scored"
    yield from _installed("attack")(ctx, incomplete)


def _class_words(ctx: typer.Context, incomplete: str) -> Words:
    from apdm_cli.pocket.vocabulary import class_nouns

    return [(noun, "") for noun in class_nouns()]


def _samples(ctx: typer.Context, incomplete: str) -> Words:
    from apdm_cli.pocket.samples import samples

    return [(name, sample.class_noun) for name, sample in samples().items()]


def _files(incomplete: str, ending: str) -> Iterator[tuple[str, str]]:
    """Folders and files of that ending, where a path has been begun: a name alone is a word."""
    if "/" not in incomplete and not any(Path().glob(f"*{ending}")):
        return
    folder = Path(incomplete).parent if not incomplete.endswith("/") else Path(incomplete)
    start = "" if str(folder) == "." and not incomplete.startswith(".") else f"{folder}/"
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_dir() and "/" in incomplete:
            yield f"{start}{path.name}/", ""
        elif path.name.endswith(ending):
            yield f"{start}{path.name}", ""


_DEVICES = _fixed(
    auto="the fastest that is there", cpu="the processor", cuda="an NVIDIA card", mps="Apple's"
)
_DTYPES = _fixed(auto="by the device", fp32="32 bits", bf16="bfloat16", fp16="16 bits")
_TRANSFORMS = _fixed(
    flip="left to right", blur="a Gaussian", crop="80 %", jpeg="quality 50", noise="Gaussian noise"
)

# (command, parameter) → completer; "" stands for every command.
COMPLETERS: dict[tuple[str, str], Completer] = {
    ("", "device"): _DEVICES,
    ("", "dtype"): _DTYPES,
    ("", "prompts"): _prompt_sets,
    ("", "sampler"): _fixed(ddim="", pndm="", **{"dpmsolver++": ""}, euler=""),
    ("protect", "class_noun"): _class_words,
    ("protect", "method"): _installed("protection"),
    ("protect", "preset"): _presets,
    ("protect", "assignments"): _protect_settings,
    ("attack", "run"): _runs,
    ("attack", "plugin"): _installed("attack"),
    ("attack", "suite"): _suites,
    ("attack", "assignments"): _attack_settings,
    ("attack", "subject_class"): _class_words,
    ("attack", "transform"): _TRANSFORMS,
    ("evaluate", "run"): _runs,
    ("evaluate", "metrics"): _metrics,
    ("compare", "runs"): _runs,
    ("compare", "require"): _required,
    ("settings", "topic"): _topics,
    ("clean", "runs"): _runs,
    ("demo", "subject"): _samples,
    ("demo", "neighbour"): _samples,
}
