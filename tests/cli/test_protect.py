"""`apdm protect` as it is typed: help, plans, output, and input that cannot work."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from apdm_cli.protection.settings import ProtectionSettings
from apdm_cli.subject import SubjectRecord
from tests.diffusion.photo_samples import close
from tests.protection.commands import Desk, forget_pipelines, run
from tests.tiny import make_photos


@pytest.fixture(scope="module", autouse=True)
def _pipelines() -> Iterator[None]:
    yield
    forget_pipelines()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(tmp_path_factory.mktemp("desk"))


Captured = pytest.CaptureFixture[str]


def test_help_fits_a_screen_in_groups(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    assert run(["protect", "--help"]) == 0
    text = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    lines = text.splitlines()
    assert len(lines) <= 56 and max(map(len, lines)) <= 80
    for group in ("Subject and model", "Method", "Computing", "Output"):
        assert text.count(group) == 1
    for option in ("--class", "--identifier", "--preset", "--set", "--memory", "--resume"):
        assert option in text


@pytest.mark.parametrize(
    "preset", ["paper", "published-code", "pocket", "pocket-long", "pocket-dreambooth"]
)
def test_a_preset_is_printed_without_photos_or_model(preset: str, capsys: Captured) -> None:
    assert run(["protect", "--preset", preset, "--dry-run", "--json", "--set", "beta=7"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["preset"] == preset
    assert ProtectionSettings.model_validate(printed["configuration"]).beta == 7
    assert run(["protect", "--preset", preset, "--dry-run"]) == 0
    assert re.search(r"preservation\.kind +(class-pictures|distill)", capsys.readouterr().out)


def test_dry_run_shows_the_plan_and_writes_nothing(desk: Desk, capsys: Captured) -> None:
    assert desk.protect("plan", "--dry-run", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["configuration"]["steps_outer"] == plan["outer_steps"] == 4
    assert len(plan["measured_seconds"]) == 3
    assert plan["estimated_seconds"] > 0 and plan["estimated_memory_bytes"] > 0
    assert plan["pictures_to_draw"] == 4
    assert desk.protect("plan", "--dry-run") == 0
    text = capsys.readouterr().out
    assert "nothing is written" in text
    assert "steps_inner" in text and "Time: about" in text and "Memory:" in text
    assert not desk.runs.exists()


def test_dry_run_counts_inner_steps_per_protective_gradient(desk: Desk, capsys: Captured) -> None:
    options = ("--set", "steps_inner=8", "--set", "protect_every=4", "--dry-run", "--json")
    assert desk.protect("plan", *options) == 0
    plan = json.loads(capsys.readouterr().out)
    per_part = sorted(plan["measured_seconds"])[1]
    assert plan["estimated_seconds_training"] == pytest.approx(per_part * 2 * 4)


def test_low_memory_needs_less_memory(desk: Desk, capsys: Captured) -> None:
    needed = []
    for memory in ("normal", "low"):
        assert desk.protect("plan", "--memory", memory, "--dry-run", "--json") == 0
        needed.append(json.loads(capsys.readouterr().out)["estimated_memory_bytes"])
    assert needed[1] / needed[0] == pytest.approx(4 / 9)


def test_dry_run_says_what_a_card_would_need(
    desk: Desk, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert desk.protect("plan", "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["card_bytes"] == {}  # of so small a model
    monkeypatch.setattr("apdm_cli.protection.plan.LARGE", 0)
    assert desk.protect("plan", "--memory", "low", "--dry-run", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert list(plan["card_bytes"]) == ["", "--set train=adapter"]
    # θ′, a gradient, half of φ, and θ or the other gradient; activations are a part of these.
    copies = plan["card_bytes"][""] / (plan["estimated_memory_bytes"] / 4)
    assert 3.5 < copies < 8
    assert plan["lines"][-2].startswith("On a CUDA card, in bfloat16: about 0.0 GiB (a card of 8")


def test_both_peaks_of_a_card_are_said_and_recorded(
    desk: Desk, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    gib = 2**30
    assert desk.protect("plan", "--dry-run") == 0
    assert "GiB was the peak just now, all in all" in " ".join(capsys.readouterr().out.split())
    both = {"peak_memory_bytes": 3 * gib, "peak_reserved_bytes": 4 * gib}
    for module in ("plan", "run"):
        monkeypatch.setattr(f"apdm_cli.protection.{module}.peaks", lambda device: both)
    assert desk.protect("plan", "--dry-run") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "tensors held 3.00 GiB of the card at the peak" in said
    assert "the allocator had reserved 4.00 GiB; nvidia-smi shows the latter" in said
    assert desk.protect("plan", "--dry-run", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert desk.protect("peaks", "--json") == 0
    for told in (plan, json.loads(capsys.readouterr().out)):
        assert {key: told[key] for key in both} == both


def test_dry_run_goes_on_where_the_card_is_too_small(
    desk: Desk, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("apdm_cli.protection.l2p.LearningToProtect._summary", too_large)
    monkeypatch.setattr("apdm_cli.protection.plan.LARGE", 0)
    assert desk.protect("plan", "--dry-run") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Time: not known, because the steps did not fit the card" in said
    assert "With --memory low: about 0.0 GiB" in said


def test_the_end_says_what_to_type_next(desk: Desk, capsys: Captured) -> None:
    assert desk.protect("talks") == 0
    captured = capsys.readouterr()
    command = "apdm attack talks --plugin dreambooth --budgets 0.25,0.5,1,3"
    assert f"{command} --out {desk.runs}" in captured.out
    assert str(desk.runs / "talks" / "model") in captured.out
    for value in ("dpo", "preservation", "r+", "r-", "drift"):
        assert value in captured.err


def test_json_is_one_object_alone_on_stdout(desk: Desk, capsys: Captured) -> None:
    assert desk.protect("json", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["name"], printed["status"]) == ("json", "done")
    assert printed["path"] == str(desk.runs / "json")


def test_without_a_name_it_is_made_of_folder_and_class(desk: Desk) -> None:
    arguments = desk.arguments("unused")
    at = arguments.index("--name")
    assert run(arguments[:at] + arguments[at + 2 :]) == 0
    assert (desk.runs / "photos-dog" / "manifest.json").is_file()


def test_toml_lies_over_the_preset_and_assignments_over_both(
    desk: Desk, tmp_path: Path, capsys: Captured
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("beta = 3.0\nsteps_outer = 9\n[path]\nbatch_size = 2\n")
    assert run(["protect", "--config", str(file), "--set", "beta=4", "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["configuration"]
    assert (found["beta"], found["steps_outer"], found["path"]["batch_size"]) == (4, 9, 2)


def save(name: str, size: tuple[int, int] = (40, 40)) -> Callable[[Path], None]:
    return lambda folder: Image.new("RGB", size, "navy").save(folder / name)


def write(name: str, content: bytes) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return fill


def cut_off(folder: Path) -> None:
    Image.effect_noise((300, 300), 90).save(folder / "cut.png")
    content = (folder / "cut.png").read_bytes()
    (folder / "cut.png").write_bytes(content[: len(content) // 2])


def bomb(folder: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(folder / "bomb.png")


@pytest.mark.parametrize(
    ("fill", "words"),
    [
        (lambda folder: None, "No photos in"),
        (write("notes.txt", b"hello"), "1 other files or folders ignored"),
        (write("bad.jpg", b"not a picture"), "bad.jpg"),
        (cut_off, "cut.png"),
        (bomb, "bomb.png"),
        (save("dot.png", (1, 1)), "dot.png"),
        (save("strip.png", (1000, 20)), "strip.png"),
    ],
)
def test_photos_that_cannot_be_used(
    desk: Desk, tmp_path: Path, capsys: Captured, fill: Callable[[Path], None], words: str
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    fill(folder)
    assert desk.protect("bad", photos=folder) == 1
    assert_one_message(capsys, words)
    assert not (desk.runs / "bad").exists()


def test_photos_that_are_not_there(desk: Desk, tmp_path: Path, capsys: Captured) -> None:
    assert desk.protect("bad", photos=tmp_path / "missing") == 1
    assert_one_message(capsys, "missing")


def test_doubtful_photos_are_used_and_said(desk: Desk, tmp_path: Path, capsys: Captured) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    save("one.png")(folder)
    assert desk.protect("one-photo", photos=folder) == 0
    assert "Only one photo" in capsys.readouterr().err
    save("two.png")(folder)
    (folder / "notes.txt").write_text("hello")
    assert desk.protect("twice", photos=folder) == 0
    said = capsys.readouterr().err
    assert "identical content" in said and "1 ignored" in said


def test_damaged_photos_that_are_left_out_are_named_and_stay_out(
    desk: Desk, tmp_path: Path, capsys: Captured
) -> None:
    folder = make_photos(tmp_path / "photos")
    cut_off(folder)
    (folder / "bad.jpg").write_text("no picture")
    (folder / "raw.cr2").write_bytes(b"raw")
    assert desk.protect("partly", "--ignore-unreadable", "--json", photos=folder) == 0
    captured = capsys.readouterr()
    kept = json.loads(captured.out)["subject"]["photos"]["files"]
    assert [file["name"] for file in kept] == ["0.png", "1.png", "2.png"]
    said = " ".join(captured.err.split())
    for name, reason in (
        ("bad.jpg", "not a picture that can be read."),
        ("cut.png", "damaged or incomplete ("),
        ("raw.cr2", "a picture of a kind that is not read (cr2)."),
    ):
        assert f"{name} is left out, and stays unprotected: {reason}" in said

    # Later commands learn the same photos, and the damaged ones have not changed them.
    lora = ("--plugin", "lora", "--set", "steps=1", "--set", "rank=2", "--set", "prior_weight=0")
    attack = ["attack", "partly", *lora, "--no-control", "--out", str(desk.runs), "--device", "cpu"]
    assert run(attack) == 0
    (cell,) = (desk.runs / "partly" / "attacks").glob("lora-*/manifest.json")
    assert json.loads(cell.read_text())["subject"]["photos"]["files"] == kept
    capsys.readouterr()
    assert run([*attack, "--photos", str(folder)]) == 1
    assert_one_message(capsys, "raw.cr2")
    (folder / "raw.cr2").unlink()
    assert run([*attack, "--photos", str(folder)]) == 1
    said = capsys.readouterr().err
    assert "bad.jpg is not a picture that can be read" in said
    assert "--ignore-unreadable" not in said

    # Where leaving them out is possible, and only there, the message says how.
    assert desk.protect("whole", photos=folder) == 1
    assert_one_message(capsys, "--ignore-unreadable")


def test_photos_that_cannot_be_opened_are_left_out_like_damaged_ones(
    desk: Desk, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_photos(tmp_path / "photos")
    write("closed.jpg", (folder / "0.png").read_bytes())(folder)
    write("empty.jpg", b"")(folder)
    (folder / "lost.jpg").symlink_to(tmp_path / "nowhere")
    (folder / "album.jpg").mkdir()
    close(monkeypatch, "closed.jpg")
    reasons = {
        "closed.jpg": "cannot be read (Permission denied).",
        "lost.jpg": "a link that leads nowhere.",
        "empty.jpg": "empty.",
    }
    assert desk.protect("opened", "--ignore-unreadable", "--json", photos=folder) == 0
    captured = capsys.readouterr()
    kept = json.loads(captured.out)["subject"]["photos"]["files"]
    assert [file["name"] for file in kept] == ["0.png", "1.png", "2.png"]
    said = " ".join(captured.err.split())
    for name, reason in reasons.items():
        assert f"{name} is left out, and stays unprotected: {reason}" in said
    assert "album.jpg (a folder, which is not searched)" in said
    # The record finds the same photos, though those that were left out are there still.
    record = SubjectRecord.from_manifest(json.loads(captured.out)["subject"])
    assert record.found().digests == record.digests == frozenset(f["sha256"] for f in kept)

    for name in reasons:
        assert desk.protect("never", photos=folder) == 1
        said = capsys.readouterr().err
        assert name in said and said.count("Error:") == 1 and "Traceback" not in said
        assert "To go on without it: --ignore-unreadable." in " ".join(said.split())
        (folder / name).unlink()


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--class", 'a "dog"'], 2, "--class"),
        (["--class", "dog\ncat"], 2, "--class"),
        (["--class", ""], 2, "--class"),
        (["--identifier", "s\nks"], 2, "--identifier"),
        (["--class", "xylophone"], 1, "xylophone"),
        (["--set", "betta=1"], 2, "beta"),
        (["--set", "beta=-1"], 2, "beta"),
        (["--set", "steps_inner"], 2, "key=value"),
        (["--preset", "papper"], 2, "published-code"),
        (["--config", "/nowhere/mine.toml"], 2, "/nowhere/mine.toml"),
        (["--device", "cuda:99"], 2, "cuda:99"),
        (["--device", "tpu"], 2, "tpu"),
        (["--dtype", "fp8"], 2, "fp8"),
        (["--memory", "none"], 2, "normal"),
        (["--name", "a/b"], 2, "--name"),
        (["--name", "../up"], 2, "--name"),
        (["--model", "/nowhere/model"], 1, "/nowhere/model"),
        (["--revision", "main"], 2, "--revision"),
        (["--set", "optimizer=adamw8bit"], 1, "bitsandbytes"),
        (
            ["--set", "preservation.kind=distill", "--set", "preservation.captions=x.txt"],
            2,
            "x.txt",
        ),
    ],
)
def test_options_that_cannot_be_meant(
    desk: Desk,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
    options: list[str],
    code: int,
    words: str,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    before = set(desk.runs.iterdir()) if desk.runs.exists() else set()
    assert desk.protect("options", *options) == code
    assert_one_message(capsys, words)
    after = set(desk.runs.iterdir()) if desk.runs.exists() else set()
    assert {path.name for path in after - before} <= {"_cache"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [([], "No photos"), (["photos"], "--class"), (["--resume"], "No photos")],
)
def test_missing_arguments(capsys: Captured, arguments: list[str], words: str) -> None:
    assert run(["protect", *arguments]) == 2
    assert_one_message(capsys, words)


def test_an_existing_run_offers_resume_or_another_name(desk: Desk, capsys: Captured) -> None:
    assert desk.protect("taken") == 0
    before = (desk.runs / "taken" / "manifest.json").read_bytes()
    capsys.readouterr()
    assert desk.protect("taken") == 1
    assert_one_message(capsys, "--name taken-2")
    assert (desk.runs / "taken" / "manifest.json").read_bytes() == before


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(desk: Desk, tmp_path: Path, capsys: Captured) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    assert desk.protect("closed", "--out", str(closed)) == 1
    assert_one_message(capsys, "--out")


def test_paths_are_forgotten_where_that_is_asked_for(
    desk: Desk, tmp_path: Path, capsys: Captured
) -> None:
    photos = make_photos(tmp_path / "secret-place")
    assert desk.protect("known", photos=photos) == 0
    assert desk.protect("forgotten", "--forget-paths", photos=photos) == 0
    texts = {
        name: b"".join(f.read_bytes() for f in (desk.runs / name).rglob("*.json*") if f.is_file())
        for name in ("known", "forgotten")
    }
    assert b"secret-place" in texts["known"]
    assert b"secret-place" not in texts["forgotten"] and b"0.png" in texts["forgotten"]
    capsys.readouterr()
    attack = ["attack", "forgotten", "--plugin", "dreambooth", "--out", str(desk.runs)]
    assert run(attack) == 1
    assert "--photos" in capsys.readouterr().err


def test_a_file_in_the_way_of_the_folder(desk: Desk, tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    assert desk.protect("closed", "--out", str(file / "runs")) == 1
    assert_one_message(capsys, str(file))
    assert file.read_text() == "in the way"


def assert_one_message(capsys: Captured, words: str) -> None:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert words in captured.err
    assert "Traceback" not in captured.err
    # An error and its hint; click frames its own messages in a few lines more.
    errors = [line for line in captured.err.splitlines() if line.startswith("Error:")]
    assert len(errors) == 1 or "Usage:" in captured.err
    assert len(captured.err.splitlines()) <= 12
