"""Stopped, failed and damaged runs go on to the end that an uninterrupted one has."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import apdm_cli.protection.l2p as l2p
import apdm_cli.protection.result as room
import apdm_cli.runs.checkpoints as checkpoints
from apdm_cli.protection.attackers import Life, Lives
from apdm_cli.protection.objective import ProtectionObjective
from apdm_cli.runs.jsonl import read_rows
from tests.protection.commands import UNET, Desk, forget_pipelines, same, stopped
from tests.tiny import make_photos

pytestmark = pytest.mark.usefixtures("heeded_signals")


@pytest.fixture(scope="module", autouse=True)
def _pipelines() -> Iterator[None]:
    yield
    forget_pipelines()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """One finished run, `first`, that the others are compared with."""
    made = Desk(tmp_path_factory.mktemp("desk"))
    assert made.protect("first") == 0
    return made


def manifest(desk: Desk, name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((desk.runs / name / "manifest.json").read_text())
    return loaded


def test_a_signal_writes_a_checkpoint_and_resume_ends_bit_identically(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    with stopped():
        assert desk.protect("stopped") == 143
    assert "--resume" in capsys.readouterr().err
    assert manifest(desk, "stopped")["status"] == "running"
    assert [path.name for path in (desk.runs / "stopped/checkpoints").iterdir()] == ["step-000002"]
    assert desk.protect("stopped", "--resume") == 0
    assert "Going on after step 2" in capsys.readouterr().err
    assert same(desk.weights("first"), desk.weights("stopped"))
    rows = read_rows(desk.runs / "stopped" / "metrics.jsonl")
    assert rows == read_rows(desk.runs / "first" / "metrics.jsonl")


def test_attackers_that_leave_different_weights_alone_end_bit_identically(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, born = Lives.draw, [0]

    def another_kind(self: Lives) -> Life:
        born[0] += 1
        return replace(draw(self), kind=born[0] % 2)

    monkeypatch.setattr(Lives, "draw", another_kind)
    pool = 'attackers.pool=[{attack="dreambooth"},{attack="custom-diffusion"}]'
    crew = ("kind=persistent", "count=2", "ages=[50,60]", "staggered=false")
    options = [part for one in crew for part in ("--set", f"attackers.{one}")]
    assert desk.protect("pool", "--set", pool, *options) == 0
    with stopped():
        assert desk.protect("pool-stopped", "--set", pool, *options) == 143
    assert desk.protect("pool-stopped", "--resume", "--set", pool, *options) == 0
    assert same(desk.weights("pool"), desk.weights("pool-stopped"))


def test_weights_that_no_attacker_reached_go_on_with_little_memory(desk: Desk) -> None:
    options = ("--set", "path.attack=custom-diffusion")
    assert desk.protect("whole", *options) == 0
    with stopped():
        assert desk.protect("little", *options) == 143
    assert desk.protect("little", "--resume", "--memory", "low", *options) == 0
    whole, little = desk.weights("whole"), desk.weights("little")
    original = load_file(desk.model / UNET)
    assert any(torch.equal(whole[name], original[name]) for name in whole)
    for name in whole:
        assert torch.allclose(whole[name], little[name], atol=1e-3)
        still = torch.equal(whole[name], original[name])
        assert not still or torch.equal(little[name], original[name])


def test_resuming_something_else_names_the_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    desk = Desk(tmp_path)
    with stopped():
        assert desk.protect("run") == 143
    more = make_photos(tmp_path / "more", count=4)
    changed = shutil.copytree(desk.photos, tmp_path / "changed")
    Image.new("RGB", (40, 40), "red").save(changed / "1.png")
    moved = shutil.copytree(desk.photos, tmp_path / "moved")
    capsys.readouterr()
    for options, photos, words in [
        (["--set", "beta=2.0"], None, "configuration.beta was 1.0 and is now 2.0"),
        (["--seed", "5"], None, "seed was 0 and is now 5"),
        (["--class", "cat"], None, "class_noun"),
        (["--dtype", "bf16"], None, "dtype"),
        ([], more, "photo 3.png is new"),
        ([], changed, "photo 1.png has other content"),
    ]:
        assert desk.protect("run", "--resume", *options, photos=photos) == 1
        assert words in capsys.readouterr().err
    weights = desk.model / "unet/diffusion_pytorch_model.safetensors"
    kept = weights.read_bytes()
    tensors = {name: tensor * 1.5 for name, tensor in load_file(weights).items()}
    save_file(tensors, weights, metadata={"format": "pt"})
    assert desk.protect("run", "--resume") == 1
    assert "model was" in capsys.readouterr().err
    weights.write_bytes(kept)
    assert manifest(desk, "run")["status"] == "running"
    # The same photos in another place are the same photos.
    assert desk.protect("run", "--resume", photos=moved) == 0


def test_a_run_out_of_memory_names_the_next_setting_and_goes_on_with_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = l2p.LearningToProtect._summary

    def summary(self: Any, index: int, *rest: Any) -> Any:
        if index == 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return original(self, index, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(l2p.LearningToProtect, "_summary", summary)
        assert desk.protect("short", "--checkpoint-every", "1") == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "Add --memory low. If that is too much still, add --set train=adapter." in said
    assert "What was done is kept: --resume goes on with it." in said
    assert desk.protect("short", "--resume", "--memory", "low") == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "Going on after step 2" in said
    assert "goes on with --memory low, which changes its result by rounding." in said
    assert manifest(desk, "short")["low_memory"] is True
    low, first = desk.weights("short"), desk.weights("first")
    assert all(torch.allclose(low[name], first[name], atol=1e-2) for name in first)
    assert not all(torch.equal(low[name], first[name]) for name in first)


def test_resume_of_nothing_and_of_a_finished_run(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    assert desk.protect("never", "--resume") == 1
    assert "There is no run never" in capsys.readouterr().err
    assert desk.protect("first", "--resume") == 1
    assert "nothing to resume" in capsys.readouterr().err


def test_damaged_checkpoint_gives_way_to_the_one_before(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    with stopped():
        assert desk.protect("torn", "--checkpoint-every", "1") == 143
    tensors = desk.runs / "torn/checkpoints/step-000002/tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-100])
    assert desk.protect("torn", "--resume") == 0
    said = capsys.readouterr().err
    assert "step-000002 is damaged" in said and "Going on after step 1" in said
    assert same(desk.weights("first"), desk.weights("torn"))


def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = ProtectionObjective.evaluate
    calls: list[int] = []

    def evaluate(self: Any, *arguments: Any, **options: Any) -> Any:
        calls.append(1)
        terms = original(self, *arguments, **options)
        if len(calls) != 6:
            return terms
        broken = torch.full_like(terms.values[0], float("nan"))
        return replace(terms, values=(broken, *terms.values[1:]))

    with monkeypatch.context() as patch:
        patch.setattr(ProtectionObjective, "evaluate", evaluate)
        assert desk.protect("nan", "--checkpoint-every", "1") == 1
    said = capsys.readouterr().err
    assert "objective loss is no longer finite at step 2" in said
    assert "Traceback" not in said
    assert manifest(desk, "nan")["status"] == "failed"
    assert sorted(path.name for path in (desk.runs / "nan/checkpoints").iterdir()) == [
        "step-000001",
        "step-000002",
    ]
    assert not (desk.runs / "nan" / "model").exists()
    assert desk.protect("nan", "--resume") == 0
    assert same(desk.weights("first"), desk.weights("nan"))


def test_an_attacker_whose_word_diverges_is_what_is_named(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    diverging = (
        "path.attack=textual-inversion",
        "path.learning_rate=1e38",
        "path.settings={keep_norm=false}",
    )
    assert desk.protect("word", *(part for one in diverging for part in ("--set", one))) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "the prompt of a simulated attacker is no longer finite at step 0" in said
    assert "text encoder" not in said and "Half precision" not in said


def test_a_full_disk_at_the_end_can_be_resumed(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(room, "save_pipeline", full)
        assert desk.protect("full", "--checkpoint-every", "1") == 1
    said = capsys.readouterr().err
    assert "No space left" in said and "--resume" in said
    assert not (desk.runs / "full" / "model").exists()
    assert not list((desk.runs / "full").glob(".tmp-*"))
    assert desk.protect("full", "--resume") == 0
    assert same(desk.weights("first"), desk.weights("full"))


@pytest.mark.parametrize("where", ["the first checkpoint", "the end"])
def test_a_full_disk_without_a_checkpoint_promises_nothing(
    where: str, desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    place = (checkpoints, "_write") if where == "the first checkpoint" else (room, "save_pipeline")
    monkeypatch.setattr(*place, full)
    every = "1" if where == "the first checkpoint" else "1000"
    assert desk.protect("fuller", "--checkpoint-every", every) == 1
    said = capsys.readouterr().err
    assert "No space left" in said and "--resume" not in said
    assert not (desk.runs / "fuller").exists()
