"""Protections of photos: Anti-DreamBooth, and what the commands do with perturbed photos."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from apdm_cli.config import resolve
from apdm_cli.diffusion.denoiser import NoisyDraw
from apdm_cli.diffusion.latents import LatentDistribution
from apdm_cli.diffusion.perturbation import Perturbation
from apdm_cli.diffusion.photos import Photos, load_photos
from apdm_cli.errors import ApdmError, UsageError
from apdm_cli.extension.family import load_model
from apdm_cli.extension.manager import build_plugin_manager, registered_attacks
from apdm_cli.extension.protection import Inputs
from apdm_cli.harness.request import AttackRequest
from apdm_cli.harness.work import run_attack
from apdm_cli.personalization.dreambooth import PictureSource
from apdm_cli.pocket.samples import SUBJECTS
from apdm_cli.protection.activations import encoding_bytes
from apdm_cli.protection.bench import Bench
from apdm_cli.protection.ingredients import Ingredients
from apdm_cli.protection.perturbed import PerturbedPhotos, save_photos
from apdm_cli.randomness import Streams
from apdm_cli.runs.run import Run
from apdm_cli.subject import Subject, SubjectRecord
from apdm_cli.testing import ImageProtectionContract
from apdm_protections.anti_dreambooth import AntiDreamBooth, Ascent
from tests.protection import toys
from tests.protection.commands import Desk, forget_pipelines, run
from tests.protection.test_contract import _OnTinyModel
from tests.tiny import make_photos, make_tiny_run

CPU = torch.device("cpu")
QUICK = ("steps=3", "surrogate_steps=1", "ascent_steps=2", "learning_rate=1e-3")
DRAWN = ("prior_pictures=2", "sampler_steps=2")
ATTACK = ("steps=2", *DRAWN)


def settings(texts: tuple[str, ...]) -> list[str]:
    return [part for text in texts for part in ("--set", text)]


class Studio(Desk):
    """A desk at which photos are protected."""

    def perturb(self, name: str, *more: str) -> int:
        """`apdm protect`; returns the exit code."""
        words = ["protect", str(self.photos), "--class", "dog", "--model", str(self.model)]
        places = ["--out", str(self.runs), "--name", name, "--device", "cpu"]
        method = ["--method", "anti-dreambooth", *settings((*QUICK, *DRAWN))]
        return run([*words, *places, *method, *more])

    def then(self, command: str, *more: str) -> int:
        """Another command; returns the exit code."""
        return run([command, *more, "--out", str(self.runs)])

    def plan(self, name: str = "first", **options: Any) -> list[Any]:
        """What `apdm attack` would run: the original's cell, and the protected one's."""
        options = {"settings": ({"steps": 2},), "plugins": ("dreambooth",), **options}
        request = AttackRequest(self.runs, CPU, torch.float32, name, **options)
        return request.plan(registered_attacks(build_plugin_manager()))[1]

    def manifest(self, name: str) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.runs / name / "manifest.json").read_text())
        return loaded

    def both(self, name: str) -> tuple[Photos, Photos]:
        """The published photos, and those they were made from, at the model's resolution."""
        place = self.runs / name / "photos"
        side = Image.open(place / "0.png").width
        return load_photos([place], side), load_photos([self.photos], side)

    def files(self, name: str) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in (self.runs / name / "photos").iterdir()}


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """One finished run, `first`."""
    made = Studio(tmp_path_factory.mktemp("studio"))
    assert made.perturb("first") == 0
    yield made
    forget_pipelines()


def bench_of(model: Any, photos: Any, config: Any, pictures: Any, words: tuple[str, str]) -> Bench:
    subject = Subject("someone", *words, photos)
    latents = model.encode_pixels(photos.pixels)
    ingredients = Ingredients(latents, pictures or latents, latents)
    return Bench(model, subject, Inputs(), ingredients, Streams(0), {}, eta=config.eta)


@pytest.mark.parametrize("eta", [0.05, 0.06, 2 / 255, 0.5])
def test_the_bound_holds_in_the_files(tmp_path: Path, eta: float) -> None:
    """0.06 is 7.65 levels of 8 bits: rounded to the nearest it would be 8."""
    photos = load_photos([make_photos(tmp_path / "photos", side=32)], 32)
    photos.pixels[0, :, :8], photos.pixels[0, :, 8:16] = -1.0, 1.0
    before = photos.pixels.clone()
    perturbation = Perturbation(photos.pixels, eta)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        noise = torch.randn(photos.pixels.shape, generator=generator)
        perturbation.add(eta * noise.sign() * noise.abs().clamp(max=1))
        assert perturbation.delta.abs().max() <= eta + 1e-6
        assert perturbation.pixels.abs().max() <= 1
    (tmp_path / "written").mkdir()
    save_photos(perturbation, ["b.jpg", "b.png", "c.webp"], tmp_path / "written")
    found = load_photos([tmp_path / "written"], 32)
    assert found.names == ("b.png", "b-2.png", "c.png")
    moved = (found.pixels.double() - before.double()).abs()
    assert moved.max() <= eta + 2e-7  # what float32 makes of a level that is the bound itself
    assert moved.max() > eta - 1 / 127.5  # as far as it goes
    assert (found.pixels - perturbation.pixels).abs().max() <= 1 / 127.5
    assert torch.equal(photos.pixels, before)


def test_it_is_aspl(studio: Studio) -> None:
    """The alternation of the paper's section 4.2, with the autoencoder and the U-Net themselves."""
    rate, alpha = 1e-3, 0.01
    model = load_model(str(studio.model), CPU)
    photos = load_photos([studio.photos], model.resolution)
    config = resolve(
        AntiDreamBooth.Config,
        {
            **{"steps": 2, "surrogate_steps": 2, "ascent_steps": 3, "alpha": alpha, "eta": 0.02},
            **{"learning_rate": rate, "batch_size": 2, "prior_weight": 0.5, "max_grad_norm": 0.1},
            "ascent_batch": 2,
        },
    )
    shape = (2, *model.latent_shape)
    drawn_before = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    pictures = LatentDistribution.exact(drawn_before)
    before = copy.deepcopy(model.trained)
    bench = bench_of(model, photos, config, pictures, ("dog", "sks"))
    terms = [dict(found) for found in AntiDreamBooth().steps(bench, config)]

    streams, vae = Streams(0), model.components["vae"]
    c_per, c_pr = (model.encode_text([f"a photo of {word}"]) for word in ("sks dog", "dog"))
    kept = model.components["scheduler"].alphas_cumprod

    def error(unet: Any, draw: NoisyDraw, condition: Any) -> Tensor:
        latents, noise, times = draw
        share = kept[times].view(-1, 1, 1, 1)
        noisy = share.sqrt() * latents + (1 - share).sqrt() * noise
        text = condition["text"].expand(len(noisy), -1, -1)
        found = unet(noisy, times, encoder_hidden_states=text).sample
        return nn.functional.mse_loss(found, noise)

    def source(name: str, latents: Any) -> PictureSource:
        return PictureSource(latents, streams, f"protect/{name}", model.process)

    def learn(unet: Any, subject: PictureSource) -> float:
        optimizer, losses = torch.optim.AdamW(unet.parameters(), lr=rate, weight_decay=1e-2), []
        for _ in range(2):
            optimizer.zero_grad()
            loss = error(unet, subject.draw(2), c_per) + 0.5 * error(unet, generic.draw(2), c_pr)
            loss.backward()
            nn.utils.clip_grad_norm_(unet.parameters(), 0.1)
            optimizer.step()
            losses.append(loss.item())
        return sum(losses) / 2

    def drawn(name: str, shape: tuple[int, ...]) -> Tensor:
        generator = streams.generator(f"protect/perturbation/{name}")
        return torch.randn(shape, generator=generator)

    x = photos.pixels
    x_adv, plain = x.clone(), copy.deepcopy(before)
    clean, generic = source("clean", model.encode_pixels(x)), source("class", pictures)
    perturbed = source("perturbed", None)
    for found in terms:
        surrogate = copy.deepcopy(plain)
        assert found["clean"] == pytest.approx(learn(surrogate, clean), rel=1e-3)
        climbed = []
        for _ in range(3):
            x_adv = x_adv.detach().requires_grad_()
            posterior = vae.encode(x_adv).latent_dist
            noises = [drawn(name, posterior.mean.shape) for name in ("posterior", "noise")]
            latents = (posterior.mean + posterior.std * noises[0]) * vae.config.scaling_factor
            times = torch.randint(
                1000, (3,), generator=streams.generator("protect/perturbation/timesteps")
            )
            loss = error(surrogate, NoisyDraw(latents, noises[1], times), c_per)
            loss.backward()
            climbed.append(loss.item())
            assert x_adv.grad is not None
            stepped = x_adv.detach() + alpha * x_adv.grad.sign()
            x_adv = (x + (stepped - x).clamp(-0.02, 0.02)).clamp(-1, 1)
        assert found["ascent"] == pytest.approx(sum(climbed) / 3, rel=1e-3)
        perturbed.pictures = model.encode_pixels(x_adv)
        assert found["perturbed"] == pytest.approx(learn(plain, perturbed), rel=1e-3)

    assert (bench.perturbation.pixels - x).abs().max() > 0.015
    same = (bench.perturbation.pixels - x_adv).abs() < 1e-6
    assert same.float().mean() > 0.99  # rounding decides the sign of what is next to nothing
    moved = (toys.weights(plain) - toys.weights(before)).norm()
    assert (toys.weights(model.trained) - toys.weights(plain)).norm() < 1e-2 * moved


def test_a_model_errs_more_on_the_perturbed_photos() -> None:
    """On the embedded model and a person that it can learn, with the same noise for both."""
    model = load_model("pocket", CPU)
    photos = load_photos([SUBJECTS / "person-1" / "seen"], model.resolution).first(1)
    config = resolve(
        AntiDreamBooth.Config,
        AntiDreamBooth().preset("pocket"),
        {"steps": 1, "surrogate_steps": 1, "batch_size": 1, "prior_weight": 0.0, "alpha": 0.02},
    )
    bench = bench_of(model, photos, config, None, ("person", "sks"))
    for _ in AntiDreamBooth().steps(bench, config):
        pass

    def errors(pixels: Tensor) -> Tensor:
        source = PictureSource(model.encode_pixels(pixels), Streams(7), "test", model.process)
        with torch.no_grad():
            (found,) = model.denoiser.squared_errors([source.draw(32)], [bench.personal.expand(32)])
        return found.mean(dim=(1, 2, 3))

    difference = errors(bench.perturbation.pixels) - errors(photos.pixels)
    assert difference.mean() > 3 * difference.std() / 32**0.5
    assert errors(bench.perturbation.pixels).mean() > 1.1 * errors(photos.pixels).mean()


class TestAntiDreamBooth(_OnTinyModel, ImageProtectionContract):
    protection = AntiDreamBooth()
    settings: ClassVar = {
        "steps": 2, "surrogate_steps": 1, "ascent_steps": 1, "batch_size": 1, "learning_rate": 1e-3,
    }  # fmt: skip


def test_a_run_has_the_perturbed_photos_and_no_model(studio: Studio) -> None:
    place = studio.runs / "first"
    assert not (place / "model").exists() and not (place / "checkpoints").exists()
    found, clean = studio.both("first")
    assert found.names == clean.names
    moved = (found.pixels - clean.pixels).abs().flatten(1)
    assert moved.max() <= 0.05 and (moved.max(dim=1).values > 0.01).all()
    recorded = studio.manifest("first")["perturbed"]
    assert recorded["eta"] == 0.05
    assert [photo["sha256"] for photo in recorded["photos"]] == list(found.sha256)
    assert [photo["of"] for photo in recorded["photos"]] == list(clean.sha256)


@pytest.mark.usefixtures("heeded_signals")
def test_stopped_and_resumed_it_publishes_the_same_bytes(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = Ascent.step, []

    def step(self: Any, denoiser: Any) -> float:
        calls.append(denoiser)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, denoiser)

    with monkeypatch.context() as patch:
        patch.setattr(Ascent, "step", step)
        assert studio.perturb("stopped") == 143
    kept = list((studio.runs / "stopped").rglob("*"))
    assert not [file for file in kept if file.suffix == ".png"]
    assert [path.name for path in kept if path.parent.name == "checkpoints"] == ["step-000002"]
    assert studio.perturb("stopped", "--resume") == 0
    assert studio.files("stopped") == studio.files("first")
    assert studio.perturb("other", "--seed", "1", "--set", "steps=1") == 0
    assert studio.files("other") != studio.files("first")


def test_a_dry_run_writes_nothing(
    studio: Studio, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert studio.perturb("dry", "--dry-run", "--json", "--out", str(tmp_path)) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["outer_steps"], plan["photos"], len(plan["measured_seconds"])) == (3, 3, 3)
    assert plan["estimated_memory_bytes"] > 0
    assert not list(tmp_path.iterdir())


def test_the_autoencoder_is_part_of_what_a_card_needs(studio: Studio) -> None:
    """Of a gradient that reaches pixels through it; imagined, so that nothing is computed."""
    model = load_model(str(studio.model), CPU)
    before = [weight.clone() for weight in model.components["vae"].parameters()]
    one, four = (encoding_bytes(model, count) for count in (1, 4))
    assert 3 * one < four < 5 * one and one > 4 * 3 * model.resolution**2
    after = model.components["vae"].parameters()
    assert all(torch.equal(now, old) for now, old in zip(after, before, strict=True))


def test_the_example_of_the_page_is_a_protection(studio: Studio, tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "protections.md"
    (example,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    file = tmp_path / "noise.py"
    file.write_text(example, encoding="utf-8")
    words = ["protect", str(studio.photos), "--class", "dog", "--model", str(studio.model)]
    method = ["--plugin-file", str(file), "--method", "noise", "--set", "eta=0.03"]
    assert run([*words, "--out", str(studio.runs), "--name", "noise", *method]) == 0
    found, clean = studio.both("noise")
    assert 0.01 < (found.pixels - clean.pixels).abs().max() <= 0.03
    assert len(studio.manifest("noise")["summary"]) == 2  # steps and size


def test_the_attacker_has_the_perturbed_photos(studio: Studio, tmp_path: Path) -> None:
    """The original's cell is that of any run on these photos; others' photos are as they are."""
    clean, _ = zip(*SubjectRecord.read("x", "dog", "sks", [studio.photos]).files, strict=True)
    perturbed = {photo["of"]: photo["sha256"] for photo in perturbed_of(studio)}

    def digests(cell: Any) -> list[str]:
        return [digest for _, digest in cell.job.subject.files]

    control, protected = studio.plan()
    assert digests(protected) == [perturbed[digest] for digest in digests(control)]
    assert control.job.subject.sources == (studio.photos.resolve(),)
    assert protected.cell.key != control.cell.key
    subject = studio.manifest("first")["subject"]
    make_tiny_run(tmp_path / "runs", studio.model, studio.photos, subject=subject)
    other = Studio.__new__(Studio)
    other.runs = tmp_path / "runs"
    assert other.plan("run")[0].cell.key == control.cell.key

    one = studio.plan(clean_photos=1)
    assert one[0].cell.key == control.cell.key
    assert digests(one[1]) == [digests(control)[0], *digests(protected)[1:]]
    assert one[1].cell.key not in (control.cell.key, protected.cell.key)
    assert one[1].job.variant.startswith("1 clean photo")

    unseen = make_photos(tmp_path / "unseen", count=2, seed=9)
    assert len({tuple(digests(cell)) for cell in studio.plan(photos=(unseen,))}) == 1
    mixed = studio.plan(photos=(unseen, studio.photos))
    assert set(digests(mixed[1])) - set(digests(mixed[0])) == set(perturbed.values())
    loaded = one[1].job.subject.load(16)
    assert list(loaded.photos.sha256) == digests(one[1]) and len(clean) == 3


def perturbed_of(studio: Studio) -> list[dict[str, str]]:
    found: list[dict[str, str]] = studio.manifest("first")["perturbed"]["photos"]
    return found


def test_attacked_evaluated_and_compared(
    studio: Studio, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two attacks share one control, and stand beside it in one table; the model is unchanged."""
    options = ("first", "--plugin", "dreambooth", *settings(ATTACK), "--device", "cpu")
    assert studio.then("attack", *options) == 0
    assert studio.then("attack", *options, "--clean-photos", "1") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("1 attack ran with the original and with the perturbed photos.")
    assert len(list((studio.runs / "_control").glob("*/manifest.json"))) == 1
    drawn = ("--images", "2", "--class-images", "2", "--steps", "1", "--metrics", "dino,same-seed")
    capsys.readouterr()
    assert studio.then("evaluate", "first", *drawn, "--dry-run", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert studio.then("evaluate", "first", *drawn, "--device", "cpu") == 0
    scores = json.loads((studio.runs / "first/evaluation/scores.json").read_text())
    ordinary = [row for row in scores["rows"] if row["role"] == "utility"][:3]
    assert ordinary[1]["images"] == ordinary[2]["images"] != ordinary[0]["images"]
    (same,) = ordinary[2]["scores"]
    assert (same["metric"], same["value"]) == ("same-seed", pytest.approx(1))
    folders = {
        file.parent
        for row in scores["rows"]
        if row["images"]
        for file in (studio.runs / "first" / row["images"]).glob("*.png")
    }
    assert plan["pictures_to_draw"] == sum(len(list(folder.glob("*.png"))) for folder in folders)
    assert scores["protected_digest"] == scores["model"]["digest"]

    assert studio.then("compare", "first") == 0
    (compared,) = json.loads((studio.runs / "first/comparison.json").read_text())["runs"]
    lines = [line for line in compared["lines"] if line["role"] == "attack"]
    assert len(lines) == 2
    assert all(line["original"] and line["protected"] for line in lines)
    commands = [line for line in compared["provenance"]["commands"] if " attack " in line]
    assert len(commands) == 2 and not any("--photos" in line for line in commands)
    assert sorted(line.count("--clean-photos 1") for line in commands) == [0, 1]
    assert compared["protects"] == "photos"
    assert "protected model" not in compared["answer"] + compared["verdict"]


def test_what_both_arms_share_is_trained_once(
    studio: Studio,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With photos that were not perturbed both arms are one attack."""
    mine = copy.copy(studio)
    mine.runs = tmp_path / "runs"
    shutil.copytree(studio.runs / "first", mine.runs / "first")
    unseen = make_photos(tmp_path / "unseen", count=2, seed=9)
    words = ("first", "--plugin", "dreambooth", *settings(ATTACK), "--device", "cpu")
    options = (*words, "--photos", str(unseen), "--budgets", "0.5,1", "--images", "1")
    capsys.readouterr()
    assert mine.then("attack", *options, "--dry-run", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["to_run"], plan["steps"], plan["class_pictures_to_draw"]) == (2, 2, 2)
    trained: list[str] = []

    def attack(*given: Any) -> Any:
        trained.append(given[0].name)
        return run_attack(*given)

    monkeypatch.setattr("apdm_cli.harness.work.run_attack", attack)
    assert mine.then("attack", *options) == 0
    assert trained == ["dreambooth"]
    folders = sorted(file.parent for file in mine.runs.rglob("manifest.json"))
    key = plan["cells"][0]["cell"]
    control, protected = (folder for folder in folders if folder.name == key)
    contents = [
        {
            file.relative_to(folder).as_posix(): file.read_bytes()
            for file in folder.rglob("*")
            if file.is_file() and file.name != "manifest.json"
        }
        for folder in (control, protected)
    ]
    assert contents[0] == contents[1] and "stops/0.5/0000.png" in contents[0]
    told = [json.loads((place / "manifest.json").read_text()) for place in (control, protected)]
    assert [one["arm"] for one in told] == ["original", "protected"]
    assert [one["control"] for one in told] == [None, key]
    assert told[0]["summary"] == told[1]["summary"] and told[0]["stops"] == told[1]["stops"]

    shutil.rmtree(protected)
    shutil.rmtree(control / "artifact")  # apdm clean --artifacts: there is nothing to copy
    assert mine.then("attack", *options) == 0
    assert len(trained) == 2 and (protected / "artifact").is_dir()


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--save", "trained-only"), "anti-dreambooth protects photos, and there is no model"),
        (("--set", "train=adapter"), "train"),
        (("--set", "preview_every=2"), "preview_every is for protections of models"),
        (("--set", "eta=0.001"), "eta"),
        (("--subject", "a=b:dog"), "PHOTOS and --class do not go with it"),
    ],
)
def test_what_makes_no_sense_when_photos_are_protected(
    studio: Studio, more: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert studio.perturb("never", *more) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert not (studio.runs / "never").exists()


def test_clean_photos_that_cannot_be_meant(studio: Studio, tmp_path: Path) -> None:
    for count in (3, 9):
        with pytest.raises(UsageError, match="protects 3, and no perturbed one would be left"):
            studio.plan(clean_photos=count)
    beside = {"captions": studio.photos / "0.txt", "masks": studio.photos / "0-masklabel.png"}
    for option, file in beside.items():
        file.write_bytes((studio.photos / "0.png").read_bytes() if option == "masks" else b"snow")
        with pytest.raises(UsageError, match=f"dreambooth: {option}=true, and none lie beside"):
            studio.plan(settings=({option: True},))
        file.unlink()
    other = Studio.__new__(Studio)
    other.runs = tmp_path
    make_tiny_run(tmp_path, studio.model, studio.photos)
    with pytest.raises(UsageError, match="run run protects the model, and all photos are clean"):
        other.plan("run", clean_photos=1)
    request = AttackRequest(
        tmp_path, model=str(tmp_path / "run" / "model"), photos=(studio.photos,), class_noun="dog",
        clean_photos=1,
    )  # fmt: skip
    with pytest.raises(UsageError, match="not with --model"):
        request.check(registered_attacks(build_plugin_manager()))


def test_perturbed_photos_that_are_gone_or_changed(studio: Studio, tmp_path: Path) -> None:
    place = tmp_path / "runs"
    shutil.copytree(studio.runs / "first", place / "first")
    mine = Studio.__new__(Studio)
    mine.runs = place
    file = place / "first" / "photos" / "1.png"
    file.write_bytes((studio.photos / "1.png").read_bytes())
    with pytest.raises(ApdmError, match=r"perturbed photo .*1\.png was changed"):
        mine.plan()
    file.unlink()
    with pytest.raises(ApdmError, match=r"perturbed photo .*1\.png is gone"):
        mine.plan()
    manifest = mine.manifest("first")
    manifest["perturbed"]["photos"][0]["name"] = "../manifest.json"
    (place / "first" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ApdmError, match=r"is broken: perturbed\.photos\.0\.name"):
        Run.open(place, "first")
    assert PerturbedPhotos.of(Run(tmp_path, {"name": "x"})) is None
