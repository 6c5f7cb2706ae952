"""A protection from the command line to a pipeline, and on from where it stopped."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import apdm_cli.protection.l2p as l2p
from apdm_cli.protection.run import curve_summary
from apdm_cli.runs.jsonl import read_rows
from tests.protection.commands import Desk, forget_pipelines, run, same


@pytest.fixture(scope="module", autouse=True)
def _pipelines() -> Iterator[None]:
    yield
    forget_pipelines()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """One finished run, `first`, that tests only look at."""
    made = Desk(tmp_path_factory.mktemp("desk"))
    assert made.protect("first", "--checkpoint-every", "2", "--set", "preview_every=2") == 0
    return made


def manifest(desk: Desk, name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((desk.runs / name / "manifest.json").read_text())
    return loaded


def test_manifest_tells_what_was_done(desk: Desk) -> None:
    found = manifest(desk, "first")
    assert (found["kind"], found["status"], found["schema"]) == ("protect", "done", 1)
    assert found["model"]["source"] == str(desk.model)
    assert len(found["model"]["digest"]) == 64
    assert found["configuration"]["steps_outer"] == 4
    assert found["subject"]["class_noun"] == "dog"
    assert [row["name"] for row in found["subject"]["photos"]["files"]] == [
        "0.png",
        "1.png",
        "2.png",
    ]
    assert found["versions"]["torch"] and found["peak_memory_bytes"] > 0
    assert found["duration_seconds"] >= 0
    assert found["summary"]["steps"] == 4 and found["summary"]["drift"] > 0


def test_log_has_a_row_per_outer_step(desk: Desk) -> None:
    rows = read_rows(desk.runs / "first" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert {"objective", "preservation", "positive_margin", "negative_margin", "drift"} <= set(
        rows[0]
    )


def test_protected_pipeline_opens_in_plain_diffusers(desk: Desk) -> None:
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(desk.runs / "first" / "model")
    pipe.set_progress_bar_config(disable=True)
    picture = pipe("a photo of dog", num_inference_steps=2, height=32, width=32).images[0]
    assert picture.size == (32, 32)


def test_only_the_unet_changed(desk: Desk) -> None:
    from safetensors.torch import load_file

    for part, file in (("vae", "diffusion_pytorch_model"), ("text_encoder", "model")):
        name = f"{part}/{file}.safetensors"
        assert same(load_file(desk.model / name), load_file(desk.runs / "first/model" / name))
    unet = load_file(desk.model / "unet/diffusion_pytorch_model.safetensors")
    assert not same(unet, desk.weights("first"))


def test_nothing_made_from_the_photos_is_written(desk: Desk) -> None:
    photos = {path.read_bytes() for path in desk.photos.iterdir()}
    pixels = {Image.open(path).resize((32, 32)).tobytes() for path in desk.photos.iterdir()}
    files = [path for path in desk.runs.rglob("*") if path.is_file()]
    for file in files:
        assert file.read_bytes() not in photos
        if file.suffix == ".png":
            assert Image.open(file).convert("RGB").tobytes() not in pixels
    known = {"class-pictures", "previews", "model", "unet", "vae", "text_encoder", "tokenizer"}
    assert {file.parent.name for file in files} <= known | {
        "scheduler",
        "first",
        *(path.name for path in (desk.runs / "_cache" / "class-pictures").iterdir()),
    }


def test_previews_and_no_leftovers(desk: Desk) -> None:
    run = desk.runs / "first"
    assert sorted(path.name for path in (run / "previews").iterdir()) == [
        "step-000002.png",
        "step-000004.png",
    ]
    assert Image.open(run / "previews" / "step-000002.png").size == (4 * 32, 2 * 32)
    assert not (run / "checkpoints").exists()
    assert not list(desk.runs.rglob(".tmp-*"))


def test_same_seed_same_weights_other_seed_others(tmp_path: Path, desk: Desk) -> None:
    # In another folder, so that the class pictures are drawn anew.
    other = Desk(tmp_path)
    assert other.protect("again") == 0
    assert same(desk.weights("first"), other.weights("again"))
    assert other.protect("seeded", "--seed", "1") == 0
    assert not same(desk.weights("first"), other.weights("seeded"))


def test_class_pictures_are_drawn_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    import apdm_cli.diffusion.picture_cache as room

    drawn: list[int] = []
    original = room.sample

    def counting(model: Any, prompts: Any, *rest: Any, **named: Any) -> Any:
        drawn.append(len(prompts))
        return original(model, prompts, *rest, **named)

    monkeypatch.setattr(room, "sample", counting)
    assert desk.protect("cached", "--set", "beta=2.0") == 0
    assert sum(drawn) == 0
    assert desk.protect("more", "--set", "prior_pictures=6") == 0
    assert sum(drawn) == 2


def test_low_memory_gives_nearly_the_same(desk: Desk) -> None:
    assert desk.protect("low", "--memory", "low") == 0
    normal, low = desk.weights("first"), desk.weights("low")
    moved = sum((low[name] - normal[name]).square().sum().item() for name in low) ** 0.5
    size = sum(normal[name].square().sum().item() for name in low) ** 0.5
    assert moved < 1e-3 * size


def test_unet_only_is_small_and_loads_with_its_base(desk: Desk) -> None:
    from apdm_cli.extension.family import load_model

    assert desk.protect("small", "--save", "unet-only") == 0
    folder = desk.runs / "small" / "model"
    assert {path.name for path in folder.iterdir()} == {"unet", "base.json"}
    model = load_model(str(folder), torch.device("cpu"))
    assert same(dict(model.trained.state_dict()), desk.weights("first"))


@pytest.mark.parametrize(
    "settings",
    [
        ("objective=naive", "preservation.evaluated_at=start"),
        ("preservation.kind=distill", "preservation.class_samples=2"),
        ("steps_inner=0", "dpo_reduction=sample", "pairing=random"),
        ("protect_every=2", "dpo_reduction=sum", "include_personalization_gradient=true"),
    ],
)
def test_every_variant_runs(desk: Desk, settings: tuple[str, ...]) -> None:
    changes = [part for setting in settings for part in ("--set", setting)]
    changes += ["--set", "preservation.caption_samples=2"]
    name = f"variant-{abs(hash(settings))}"
    assert desk.protect(name, *changes) == 0
    assert not same(desk.weights("first"), desk.weights(name))


def test_any_registered_attack_can_be_simulated(desk: Desk) -> None:
    pool = """[{attack="lora", settings={learning_rate=1e-2}}, {attack="dreambooth-text"}]"""
    settings = ("attackers.kind=persistent", f"attackers.pool={pool}", "attackers.count=2")
    changes = [part for setting in settings for part in ("--set", setting)]
    assert desk.protect("pool", *changes) == 0
    assert desk.protect("lora-path", "--set", "path.attack=lora") == 0
    assert not same(desk.weights("pool"), desk.weights("first"))
    assert not same(desk.weights("lora-path"), desk.weights("first"))


@pytest.mark.parametrize(
    ("attack", "settings"),
    [
        ("dreambooth", ""),
        ("lora", "rank=2"),
        ("lora", "rank=2, variant='dora', convolutions=true"),
        ("pivotal-tuning", "rank=2, variant='dora'"),
        ("custom-diffusion", ""),
    ],
)
def test_every_path_begins_where_the_model_is(
    attack: str, settings: str, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = l2p.LearningToProtect._protective_gradients
    apart: list[float] = []
    moved: list[float] = []

    @torch.no_grad()
    def distance(loop: l2p.LearningToProtect, other: Any) -> float:
        pairs, personal = loop.objective.sides[0]
        asked = pairs.photos.mean[:1], torch.tensor([300]), personal
        here, there = loop.start.predict(*asked), other.predict(*asked)
        return float((there - here).norm() / here.norm())

    def gradients(self: Any, index: int) -> Any:
        with self.attackers.turn(index) as attacker:
            apart.append(distance(self, attacker.denoiser))
        moved.append(distance(self, self.objective.reference))
        return real(self, index)

    monkeypatch.setattr(l2p.LearningToProtect, "_protective_gradients", gradients)
    sets = (
        f"path.attack={attack}",
        f"path.settings={{{settings}}}",
        "preservation.evaluated_at=both",
    )
    name = f"{attack}-{len(settings)}"
    assert desk.protect(name, *(part for one in sets for part in ("--set", one))) == 0
    assert len(apart) == 4 and moved[-1] > 1e-2
    assert max(apart) < 1e-5


def test_another_method_reports_its_own_terms(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = desk.arguments("naive")
    kept = arguments[: arguments.index("--set")]
    sets = ("prior_pictures=4", "sampler_steps=2", "steps=3", "learning_rate=1e-3")
    more = [part for setting in sets for part in ("--set", setting)]
    assert run([*kept, *more, "--method", "naive", "--verbose"]) == 0
    captured = capsys.readouterr()
    assert "photos" in captured.err and "class" in captured.err
    assert "the error is" in captured.out and "r⁻" not in captured.out
    found = manifest(desk, "naive")
    assert (found["method"], found["preset"]) == ("naive", "default")
    assert found["plugin"]["distribution"] == "apdm"
    assert set(found["summary"]) == {"steps", "photos", "class_pictures"}
    rows = read_rows(desk.runs / "naive" / "metrics.jsonl")
    assert [set(row) for row in rows] == [{"step", "photos", "class_pictures"}] * 3
    assert not same(desk.weights("naive"), desk.weights("first"))


@pytest.mark.extras
def test_event_files_lie_beside_the_log_and_change_nothing(desk: Desk) -> None:
    pytest.importorskip("tensorboard", reason="the extra apdm[tensorboard] is not installed")
    assert desk.protect("watched", "--log", "tensorboard") == 0
    assert len(list((desk.runs / "watched").glob("events.out.tfevents.*"))) == 1
    assert not list((desk.runs / "first").glob("events.out.tfevents.*"))
    assert same(desk.weights("watched"), desk.weights("first"))


def test_without_tensorboard_nothing_begins(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert desk.protect("unwatched", "--log", "tensorboard") == 1
    assert "pip install 'apdm[tensorboard]'" in capsys.readouterr().err
    assert not (desk.runs / "unwatched").exists()


def test_inputs_are_asked_for_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    import apdm_cli.protection.prompts as prompts

    read: list[str] = []
    original = prompts.read_captions

    def counting(name: str, *key: str) -> list[str]:
        read.append(name)
        return original(name, *key)

    monkeypatch.setattr(prompts, "read_captions", counting)
    sets = ("preservation.kind=distill", "preservation.class_samples=2", "others.count=1")
    changes = [part for setting in sets for part in ("--set", setting)]
    few = ("--set", "preservation.caption_samples=2", "--set", "others.subjects=2")
    assert desk.protect("once", *changes, *few) == 0
    assert sorted(read) == ["general", "traits"]


def test_v_prediction_model_stays_one(tmp_path: Path) -> None:
    desk = Desk(tmp_path, "v_prediction")
    assert desk.protect("v") == 0
    scheduler = json.loads((desk.runs / "v/model/scheduler/scheduler_config.json").read_text())
    assert scheduler["prediction_type"] == "v_prediction"


def test_a_failure_before_the_first_checkpoint_leaves_no_folder(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import apdm_cli.protection.run as room

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(room, "Bench", fail)
    assert desk.protect("memory") == 1
    said = capsys.readouterr().err
    assert "not enough memory" in said and "--memory low" in said
    assert not (desk.runs / "memory").exists()


def test_curve_summary_averages_the_last_tenth() -> None:
    rows = [{"step": i, "objective": float(i), "path_loss": None} for i in range(40)]
    found = curve_summary(rows)
    assert (found["steps"], found["objective"]) == (40, (36 + 37 + 38 + 39) / 4)
    assert found["path_loss"] is None
    assert curve_summary([])["steps"] == 0
