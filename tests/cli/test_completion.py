"""What the shell offers after TAB, asked as typer's bash script asks.

In a fresh process, which shows that nothing heavy is imported, and in this one for the rest.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from apdm_cli.cli import main as cli
from apdm_cli.cli.completion import COMPLETERS
from apdm_cli.extension import names as plugin_names
from apdm_cli.pocket.vocabulary import NOUNS, class_nouns, words
from tests.made_runs import make_run

VARIANTS = ("lora", "dora", "loha", "lokr")
PROBE = """
import sys
from apdm_cli.cli.main import main
try:
    main([])
finally:
    heavy = {"torch", "diffusers", "transformers", "matplotlib", "peft"} & set(sys.modules)
    print("HEAVY", sorted(heavy), file=sys.stderr)
"""


def asked_by_bash(line: tuple[str, ...]) -> dict[str, str]:
    return {
        "COMP_WORDS": "\n".join(("apdm", *line)),
        "COMP_CWORD": str(len(line)),
        "_APDM_COMPLETE": "complete_bash",
    }


def completed(folder: Path, *line: str, cache: Path | None = None) -> list[str]:
    """The words that bash is offered for the last word of `line`, without torch."""
    own = {"APDM_CACHE_DIR": str(cache)} if cache else {}
    result = subprocess.run(
        [sys.executable, "-c", PROBE],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, **asked_by_bash(line), **own},
        timeout=60,
    )
    assert "HEAVY []" in result.stderr, result.stderr
    return result.stdout.split()


Offered = Callable[..., list[str]]


@pytest.fixture
def offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Offered:
    """As `completed` in the folder `tmp_path`, in this process."""

    def ask(*line: str) -> list[str]:
        for name, value in asked_by_bash(line).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit):
            cli.main([])
        return capsys.readouterr().out.split()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("APDM_CACHE_DIR", str(tmp_path / "cache"))
    return ask


@pytest.mark.parametrize(("command", "parameter"), sorted(COMPLETERS))
def test_every_completer_belongs_to_a_parameter(command: str, parameter: str) -> None:
    commands = [command] if command else list(cli.COMMANDS)
    functions = [getattr(importlib.import_module(f"apdm_cli.cli.{c}"), c) for c in commands]
    assert any(parameter in inspect.signature(function).parameters for function in functions)


def test_commands_and_runs(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", "ann")
    make_run(tmp_path / "elsewhere", "bob")
    assert completed(tmp_path, "se") == ["settings"]
    for command in ("attack", "evaluate", "compare", "clean"):
        assert completed(tmp_path, command, "") == ["ann"]
    assert completed(tmp_path, "compare", "--out", "elsewhere", "") == ["bob"]


def test_runs_of_the_folder_that_apdm_toml_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("APDM_CONFIG")
    make_run(tmp_path / "mine", "ann")
    (tmp_path / "apdm.toml").write_text('out = "mine"')
    assert completed(tmp_path, "evaluate", "") == ["ann"]


def test_words_of_options(tmp_path: Path) -> None:
    assert {"person", "puppy"} <= set(completed(tmp_path, "protect", "--class", "p"))
    assert "pocket" in completed(tmp_path, "protect", "--preset", "")
    assert completed(tmp_path, "protect", "--set", "steps_o") == ["steps_outer=800"]
    assert {"quick", "standard", "full"} <= set(completed(tmp_path, "attack", "--suite", ""))
    assert completed(tmp_path, "attack", "--device", "c") == ["cpu", "cuda"]
    assert "person-1" in completed(tmp_path, "demo", "--subject", "")
    assert "protect" in completed(tmp_path, "settings", "")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["attack", "--device", ""], ["auto", "cpu", "cuda", "mps"]),
        (["evaluate", "--dtype", "f"], ["fp32", "fp16"]),
        (["attack", "--transform", ""], ["flip", "blur", "crop", "jpeg", "noise"]),
        (["evaluate", "--sampler", ""], ["ddim", "pndm", "dpmsolver++", "euler"]),
        (["attack", "--sampler", "e"], ["euler"]),
        (["evaluate", "--prompts", ""], ["identity", "object", "diverse"]),
        (["attack", "--prompts", "div"], ["diverse"]),
        (["evaluate", "--metrics", "a"], ["auto"]),
        (["evaluate", "--metrics", "fid,a"], []),
        (["evaluate", "--metrics", "fid,fi"], ["fid,fid"]),
        (["compare", "--require", "worst.din"], ["worst.dino<="]),
        (["protect", "--method", "nai"], ["naive"]),
        (["protect", "--method", "nonsense", "--preset", ""], []),
        (["protect", "--set", "margin.kind"], ["margin.kind=absolute"]),
        (["attack", "--plugin", "lora", "--set", "rank"], []),
        (["attack", "--plugin", "lora", "--set", "lora.rank"], ["lora.rank=4"]),
        (["attack", "--subject-class", "pupp"], ["puppy"]),
        (["settings", "prot"], ["protect"]),
        (["settings", "adaptive-l"], ["adaptive-lr"]),
        (["demo", "--neighbour", "dog-1"], ["dog-1"]),
    ],
)
def test_every_option_offers_its_own_words(
    offered: Offered, line: list[str], words: list[str]
) -> None:
    assert offered(*line) == words


def test_choices_are_offered_once_the_sign_is_typed(offered: Offered) -> None:
    assert offered("protect", "--set", "margin.kind=") == [
        "margin.kind=absolute", "margin.kind=relative"
    ]  # fmt: skip


def test_presets_and_settings_are_those_of_the_method(offered: Offered) -> None:
    assert {"paper", "pocket", "durable"} <= set(offered("protect", "--preset", ""))
    naive = offered("protect", "--method", "naive", "--set", "")
    assert naive and naive != offered("protect", "--set", "")
    assert not any(word.startswith("attackers.") for word in naive)


def test_files_are_offered_beside_the_names(offered: Offered, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("")
    (tmp_path / "mine.txt").write_text("")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "other.toml").write_text("")
    (tmp_path / "below" / "deeper").mkdir()
    assert {"quick", "standard", "wild", "full", "mine.toml"} == set(
        offered("attack", "--suite", "")
    )
    assert offered("evaluate", "--prompts", "mi") == ["mine.txt"]
    assert offered("attack", "--suite", "below/") == ["below/deeper/", "below/other.toml"]
    assert offered("attack", "--suite", "./mi") == ["./mine.toml"]
    assert offered("attack", "--suite", "nowhere/") == []


def test_runs_with_what_they_protect(
    offered: Offered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "runs", "ann")
    make_run(tmp_path / "elsewhere", "bob")
    assert offered("compare", "") == ["ann"]
    assert offered("clean", "--out", "elsewhere", "") == ["bob"]
    (tmp_path / "apdm.toml").write_text('out = "elsewhere"')
    monkeypatch.delenv("APDM_CONFIG")
    assert offered("evaluate", "") == ["bob"]
    (tmp_path / "apdm.toml").write_text("out = ")
    assert offered("evaluate", "") == ["ann"]  # a broken file disturbs no typing


def test_a_completer_that_fails_offers_nothing(offered: Offered, tmp_path: Path) -> None:
    broken = make_run(tmp_path / "runs", "ann")
    (broken.path / "manifest.json").write_text("{")
    assert offered("evaluate", "") == []


def test_zsh_and_fish_are_told_what_the_words_mean(
    offered: Offered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    make_run(tmp_path / "runs", "ann")
    for shell in ("zsh", "fish"):
        monkeypatch.setenv("_APDM_COMPLETE", f"complete_{shell}")
        monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
        monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "apdm evaluate ")
        with pytest.raises(SystemExit):
            cli.main([])
        out = capsys.readouterr().out
        assert "ann" in out and "person" in out, shell


def test_names_of_plugins_with_and_without_a_cache(tmp_path: Path) -> None:
    for _ in range(2):  # the first reads declarations, whether or not something is kept
        offered = completed(tmp_path, "attack", "--plugin", "", cache=tmp_path / "cache")
        assert {"dreambooth", "lora", "adaptive-lr"} <= set(offered)
    offered = completed(tmp_path, "attack", "--plugin", "lora", "--set", "", cache=tmp_path / "c")
    assert "lora.rank=4" in offered and not any(word.startswith("heal.") for word in offered)
    offered = completed(tmp_path, "evaluate", "--metrics", "dino,fi", cache=tmp_path / "c")
    assert offered == ["dino,fid"]


def test_a_third_party_that_imports_torch_is_known_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APDM_CACHE_DIR", str(tmp_path))
    names: plugin_names.Names = {
        "attack": {"heavy": {"summary": "imports torch", "settings": {"depth": ["3", "4"]}}},
        "metric": {},
        "protection": {},
        "family": {},
    }
    plugin_names.remember(names)
    assert completed(tmp_path, "attack", "--plugin", "") == ["heavy"]
    assert completed(tmp_path, "attack", "--set", "") == ["heavy.depth=3"]
    offered = completed(tmp_path, "attack", "--set", "heavy.depth=")
    assert offered == ["heavy.depth=3", "heavy.depth=4"]


def test_values_after_an_equals_sign_that_bash_takes_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--set heavy.depth=` is five words to bash, which replaces what stands after the `=`."""
    monkeypatch.setenv("APDM_CACHE_DIR", str(tmp_path))
    settings = {"depth": ["3", "4", "30"], "width": ["3"]}
    empty: plugin_names.Names = {kind: {} for kind in plugin_names.KINDS}
    heavy = {"summary": "", "settings": settings}
    plugin_names.remember(
        {**empty, "attack": {"heavy": heavy}, "protection": {"apdm": {**heavy, "presets": []}}}
    )
    for command, key in (("attack", "heavy.depth"), ("protect", "depth")):
        assert completed(tmp_path, command, "--set", key, "=") == ["3", "4", "30"]
        assert completed(tmp_path, command, "--set", key, "=", "3") == ["3", "30"]
        assert completed(tmp_path, command, "--set", "=", key, "=", "4") == ["4"]
    # Words before the last are whole again too.
    before = ("attack", "--set", "heavy.width", "=", "7", "--device", "=", "cpu")
    assert completed(tmp_path, *before, "--set", "heavy.d") == ["heavy.depth=3"]
    assert completed(tmp_path, *before, "--plugin", "=", "h") == ["heavy"]
    assert completed(tmp_path, "attack", "--device", "=") == ["auto", "cpu", "cuda", "mps"]
    make_run(tmp_path / "elsewhere", "bob")
    assert completed(tmp_path, "compare", "--out", "=", "elsewhere", "") == ["bob"]


def test_a_cache_of_other_plugins_or_versions_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APDM_CACHE_DIR", str(tmp_path))
    empty: plugin_names.Names = {kind: {} for kind in plugin_names.KINDS}
    plugin_names.remember({**empty, "attack": {"old": {"summary": "", "settings": {}}}})
    assert "old" in plugin_names.known_names()["attack"]
    monkeypatch.setattr(plugin_names, "fingerprint", lambda: "another")
    assert "old" not in plugin_names.known_names()["attack"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"names": 3}', '{"fingerprint": 1}'])
def test_a_damaged_cache_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setenv("APDM_CACHE_DIR", str(tmp_path))
    (tmp_path / plugin_names.FILE).write_text(content)
    assert "attack" in plugin_names.known_names()


def test_the_fingerprint_follows_what_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    before = plugin_names.fingerprint()
    assert plugin_names.fingerprint() == before
    monkeypatch.setenv("APDM_DISABLE_PLUGINS", "apdm:attacks")
    assert plugin_names.fingerprint() != before


def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("APDM_CACHE_DIR", str(tmp_path / "file" / "cache"))
    plugin_names.remember({"attack": {}, "metric": {}})


def test_class_nouns_are_words_of_the_embedded_tokenizer() -> None:
    assert class_nouns() == list(NOUNS)
    assert class_nouns()[:3] == ["person", "dog", "cat"] and set(NOUNS) < words()


def _ask_shell(shell: str, arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """A real shell in `folder`, for which `apdm` is this checkout's."""
    program = folder / "bin" / "apdm"
    program.parent.mkdir()
    call = "from apdm_cli.cli.main import main; main()"
    program.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{call}' \"$@\"\n")
    program.chmod(0o755)
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [shell, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PATH": path, "SHELL": f"/bin/{shell}"},
        timeout=60,
    )


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("apdm evaluate a", ["ann-person"]),
        ("apdm attack --set lora.variant =", [*VARIANTS]),
        ("apdm attack --set lora.variant = d", ["dora"]),
    ],
)
def test_real_bash_completes(tmp_path: Path, words: str, offered: list[str]) -> None:
    make_run(tmp_path / "runs", "ann-person")
    script = f"""
        set -e
        eval "$(_APDM_COMPLETE=source_bash apdm)"
        COMP_WORDS=({words}); COMP_CWORD={len(words.split()) - 1}
        _apdm_completion apdm
        echo "${{COMPREPLY[@]}}"
    """
    asked = _ask_shell("bash", ["-c", script], tmp_path)
    assert asked.stdout.split() == offered, asked.stderr


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh")
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("apdm evaluate a", ["ann-person"]),
        ("apdm attack --set lora.variant=", [f"lora.variant={v}" for v in VARIANTS]),
        ("apdm attack --set lora.variant=d", ["lora.variant=dora"]),
        ("apdm attack --set lora.ran", ["lora.rank=4"]),
    ],
)
def test_real_zsh_completes(tmp_path: Path, words: str, offered: list[str]) -> None:
    """What typer's script gives to `_arguments`, after zsh has evaluated it."""
    make_run(tmp_path / "runs", "ann-person")
    script = f"""
        compdef() {{ }}
        _arguments() {{ print -r -- "$@" }}
        eval "$(_APDM_COMPLETE=source_zsh apdm)"
        words=({words}); CURRENT={len(words.split())}
        _apdm_completion
    """
    asked = _ask_shell("zsh", ["-f", "-c", script], tmp_path)
    assert asked.stderr == ""
    assert re.findall(r'"([^"]+)"(?::"[^"]*")?(?=[\s)])', asked.stdout) == offered
