"""`apdm demo` says its answer once, and shows who is protected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from apdm_cli.cli.guide import guided, say_answer, say_next
from apdm_cli.cli.main import main
from apdm_cli.pocket.samples import sample
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
