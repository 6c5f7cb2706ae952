"""`apdm demo` says its answer once, and shows who is protected."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from apdm_cli.cli.guide import guided, say_answer, say_next
from apdm_cli.cli.main import main
from apdm_cli.cli.meanwhile import meanwhile
from apdm_cli.pocket.samples import sample
from apdm_cli.runs.lock import FolderLock
from apdm_cli.runs.run import Run
from tests.made_runs import add_attack
from tests.report.synthetic import full_rows, make_run


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the demo asks of `attack` and `evaluate`, which do nothing here but talk."""
    calls: list[tuple[Any, ...]] = []

    def command(name: str) -> Any:
        def run(*_: Any, **options: Any) -> None:
            calls.append((name, options))
            say_answer("An answer of a step on the way.")
            say_next("apdm what-the-demo-does-itself", Path("runs"))

        return run

    monkeypatch.setattr("apdm_cli.cli.attack.attack", command("attack"))
    monkeypatch.setattr("apdm_cli.cli.evaluate.evaluate", command("evaluate"))
    return calls


def test_the_answer_comes_once_and_nothing_is_left_to_type(
    tmp_path: Path, asked: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    photos = sorted(sample("person-9").seen.iterdir())
    make_run(tmp_path, "demo", full_rows(), subject="person-9", pictures=2, photos=photos)
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--out", str(tmp_path)])
    assert not ended.value.code
    captured = capsys.readouterr()
    shown = " ".join(captured.out.split())
    assert shown.count("The protection takes away about 53 %") == 1
    assert "on the way" not in shown and "Next:" not in shown
    assert "contain photos" not in captured.err  # packaged people are invented
    assert "This file contains photos" in (tmp_path / "demo" / "report.html").read_text()
    attacks = [options for name, options in asked if name == "attack"]
    assert [one["plugin"] for one in attacks] == [["dreambooth", "lora"], ["dreambooth"]]
    assert attacks[1]["photos"] == [sample("person-9").unseen]
    assert all({"1", "3"} <= set(one["budgets"].split(",")) for one in attacks)


def test_photos_of_real_people_are_warned_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    photo = tmp_path / "me.png"
    Image.new("RGB", (64, 64), "red").save(photo)
    make_run(tmp_path / "runs", photos=[photo], pictures=2)
    with pytest.raises(SystemExit):
        main(["compare", "--include-photos", "--out", str(tmp_path / "runs")])
    assert "contain photos of the subject" in capsys.readouterr().err


def test_a_command_of_its_own_says_what_to_type_with_its_folder(
    capsys: pytest.CaptureFixture[str],
) -> None:
    say_next("apdm compare me", Path("my runs"))
    assert capsys.readouterr().out == "Next: apdm compare me --out 'my runs'\n"
    with guided():
        say_next("apdm compare me", Path("runs"))
    say_answer("An answer.")
    assert capsys.readouterr().out == "An answer.\n"


@pytest.fixture
def protected(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the demo asks of `protect`, which makes a finished run of no weights here."""
    calls: list[dict[str, Any]] = []

    def protect(photos: list[Path], class_noun: str, *, name: str, out: Path, resume: bool) -> None:
        calls.append({"photos": photos, "class_noun": class_noun, "name": name, "resume": resume})
        if not resume:
            make_run(out, name, pictures=1)

    monkeypatch.setattr("apdm_cli.cli.protect.protect", protect)
    return calls


def test_a_subject_of_ones_own_is_a_run_of_its_own_and_fresh_starts_again(
    tmp_path: Path,
    asked: list[tuple[Any, ...]],
    protected: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("apdm_cli.cli.compare.compare", lambda runs, **_: None)
    monkeypatch.chdir(tmp_path)
    dog = {"photos": [sample("dog-1").seen], "class_noun": "dog", "name": "demo-dog-1"}
    for arguments, again in (((), False), ((), True), (("--fresh",), False)):
        with pytest.raises(SystemExit) as ended:
            main(["demo", "--subject", "dog-1", *arguments, "--out", str(tmp_path)])
        assert not ended.value.code
        shown = capsys.readouterr().out
        assert ("already done" in shown) == again
        assert f"apdm protect {sample('dog-1').seen} --class dog --name demo-dog-1" in shown
        if not again and not arguments:
            add_attack(Run.open(tmp_path, "demo-dog-1"), "lora-1", control="lora-0")
    assert (tmp_path / "_control" / "lora-0").is_dir(), "the attack on the original stays"
    assert not (tmp_path / "demo-dog-1" / "attacks" / "lora-1").exists()
    assert protected == [{**dog, "resume": False}] * 2
    taught = [options["neighbours"] for name, options in asked if name == "evaluate"]
    assert taught == [[sample("dog-2").seen]] * 3


@pytest.mark.parametrize(("subject", "other"), [("person-2", "person-1"), ("person-9", "person-2")])
def test_the_neighbour_is_never_the_one_who_is_protected(
    subject: str,
    other: str,
    tmp_path: Path,
    asked: list[tuple[Any, ...]],
    protected: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("apdm_cli.cli.compare.compare", lambda runs, **_: None)
    words = ["demo", "--subject", subject, "--out", str(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--neighbour", subject])
    assert ended.value.code == 2 and not protected
    said = capsys.readouterr().err
    assert f"{subject} is the identity that is protected" in said and f"such as {other}." in said
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert not ended.value.code and len(protected) == 1
    assert asked[-1][1]["neighbours"] == [sample(other).seen]


def test_the_original_is_attacked_while_the_run_is_made(
    tmp_path: Path, asked: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the very options of the attacks that come after it, so that nothing is done twice."""
    monkeypatch.setattr("apdm_cli.cli.demo.WORKERS", 2)
    monkeypatch.setattr("apdm_cli.cli.compare.compare", lambda runs, **_: None)
    ahead: list[list[str]] = []
    begun: list[bool] = []

    @contextmanager
    def meanwhile(commands: list[list[str]], ready: Callable[[], bool]) -> Iterator[None]:
        ahead.extend(commands)
        begun.append(ready())
        yield
        begun.append(ready())

    def protect(*_: Any, name: str, out: Path, **__: Any) -> None:
        make_run(out, name, pictures=1)

    monkeypatch.setattr("apdm_cli.cli.demo.meanwhile", meanwhile)
    monkeypatch.setattr("apdm_cli.cli.protect.protect", protect)
    with pytest.raises(SystemExit):
        main(["demo", "--images", "4", "--out", str(tmp_path)])
    assert begun == [False, True]
    later = [options for name, options in asked if name == "attack"]
    assert len(ahead) == len(later) == 2
    for command, options in zip(ahead, later, strict=True):
        assert command[:3] == ["attack", "demo", "--control-only"]
        words = command[3:]
        given = list(zip(words[::2], words[1::2], strict=True))
        assert [value for key, value in given if key == "--plugin"] == options["plugin"]
        photos = [Path(value) for key, value in given if key == "--photos"]
        assert photos == (options["photos"] or [])
        others = {key: value for key, value in given if key not in ("--plugin", "--photos")}
        assert others == {
            "--budgets": options["budgets"],
            "--images": str(options["images"]),
            "--out": str(options["out"]),
        }


def test_meanwhile_begins_when_it_may_and_ends_with_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[list[str]] = []

    class Process:
        """As `subprocess.Popen`: the first ends by itself, the second when it is told to."""

        def __init__(self, command: list[str], **_: Any) -> None:
            made.append(command[3:])
            self._ended = threading.Event()
            if command[-1] == "first":
                self._ended.set()
            else:
                second.set()

        def wait(self) -> None:
            self._ended.wait()

        def terminate(self) -> None:
            self._ended.set()

    allowed, second = threading.Event(), threading.Event()
    monkeypatch.setattr("apdm_cli.cli.meanwhile.subprocess.Popen", Process)
    monkeypatch.setattr("apdm_cli.cli.meanwhile.POLL", 0.01)
    with meanwhile([["first"], ["second"], ["third"]], allowed.is_set):
        assert not made
        allowed.set()
        assert second.wait(10)
    assert made == [["first"], ["second"]]
    second.clear()
    with pytest.raises(SystemExit) as ended, meanwhile([["second"]], lambda: True):
        assert second.wait(10)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
    assert ended.value.code == 143, "the second process would go on without its command"


def test_fresh_leaves_alone_what_another_process_works_on(
    tmp_path: Path, asked: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path, "demo", full_rows(), subject="person-9", pictures=2)
    lock = FolderLock(run)
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--fresh", "--out", str(tmp_path)])
    lock.release()
    assert ended.value.code == 1 and "Another apdm process" in capsys.readouterr().err
    assert (run / "manifest.json").is_file() and not asked
