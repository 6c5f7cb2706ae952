"""Contract tests for the authors of plugins. Four lines make a test module:

    from apdm_cli.testing import AttackContract

    class TestMine(AttackContract):
        attack = MyAttack()

Attacks, metrics and protections run on the embedded pocket model; override the fixture `model` for
another one. A family brings a small model of its own, in the fixture `folder`.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import tomli_w
import torch
from safetensors.torch import load_file
from torch import Tensor

from apdm_cli.config import resolve
from apdm_cli.diffusion.denoiser import NoisyDraw
from apdm_cli.diffusion.family import Family
from apdm_cli.diffusion.low_rank import merge
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.photos import Photos
from apdm_cli.diffusion.sampling import SamplerSettings, sample, sample_latents
from apdm_cli.diffusion.saving import save_pipeline
from apdm_cli.extension.attack import Artifact, Attack, AttackConfig
from apdm_cli.extension.checks import (
    attack_problem,
    family_problem,
    metric_problem,
    protection_problem,
)
from apdm_cli.extension.family import load_model
from apdm_cli.extension.image_protection import ImageProtection, bound
from apdm_cli.extension.manager import attacks, build_plugin_manager
from apdm_cli.extension.metric import Metric, MetricUnavailable, Pictures, Score
from apdm_cli.extension.protection import Protection, low_rank
from apdm_cli.harness.artifacts import load_attacked
from apdm_cli.harness.stops import Drawing, read_stop, stop_folder
from apdm_cli.harness.work import run_attack
from apdm_cli.harness.workbench import Workbench
from apdm_cli.protection.bench import Bench as ProtectionBench
from apdm_cli.protection.ingredients import drawing, prepare
from apdm_cli.protection.prompts import training_subject
from apdm_cli.randomness import Streams
from apdm_cli.subject import Subject

# What makes any attack quick; keys that an attack's Config does not have are left out.
QUICK = {
    "steps": 2,
    "batch_size": 1,
    "prior_pictures": 2,
    "sampler_steps": 2,
}

SAMPLER = SamplerSettings(sampler="ddim", steps=4, guidance=3.0)


class AttackContract:
    """What every attack must keep to. Subclass it, set `attack`.

    Attributes:
        attack: the instance that the plugin registers.
        settings: configuration over `QUICK` and the pocket profile.
        class_noun, identifier: words that the model's tokenizer knows.
    """

    attack: ClassVar[Attack]
    settings: ClassVar[dict[str, Any]] = {}
    class_noun: ClassVar[str] = "person"
    identifier: ClassVar[str] = "sks"

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls) -> DiffusionModel:
        """The model that is attacked."""
        return load_model("pocket", torch.device("cpu"))

    @pytest.fixture
    def config(self) -> AttackConfig:
        """A quick configuration."""
        known = self.attack.Config.model_fields
        quick = {key: value for key, value in QUICK.items() if key in known}
        return self.attack.configure("pocket", (quick, self.settings), self.attacks())

    def attacks(self) -> dict[str, Attack]:
        """Every installed attack by its name, and the tested one."""
        return {**attacks(build_plugin_manager()), self.attack.name: self.attack}

    def test_is_usable(self) -> None:
        """Name, Config and profiles are in order, and there is a line for the lists."""
        assert attack_problem(self.attack) is None
        assert self.attack.summary, "give the class a docstring"

    def test_config_round_trips_through_toml(self, config: AttackConfig) -> None:
        """What a manifest stores can be given back with --config."""
        text = tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))
        again = self.attack.configure("", (tomllib.loads(text),), self.attacks())
        assert again.model_dump() == config.model_dump()

    def test_changes_only_what_it_declares(
        self, model: DiffusionModel, config: AttackConfig, tmp_path: Path
    ) -> None:
        """Training moves the declared parameters and nothing else."""
        bench = self.bench(model, tmp_path)
        try:
            personalization = bench.personalization(self.attack, config)
        except NotImplementedError:
            pytest.skip("trains through another attack, which has a contract of its own")
        trainable = personalization.trainable
        declared = {id(parameter) for parameter in trainable.parameters()}
        before = {id(t): (n, t, t.detach().clone()) for n, t in _tensors(bench.model)}
        start = [parameter.detach().clone() for parameter in trainable.parameters()]
        bench.train(personalization)
        changed = [
            name
            for key, (name, tensor, copy) in before.items()
            if key not in declared and not torch.equal(tensor, copy)
        ]
        assert not changed, f"changed without being declared: {changed[:5]}"
        pairs = zip(trainable.parameters(), start, strict=True)
        assert any(not torch.equal(now, then) for now, then in pairs), "nothing was trained"

    def test_runs(self, model: DiffusionModel, config: AttackConfig, tmp_path: Path) -> None:
        """Steps, base model, artifact: everything about one whole run."""
        digest = _digest(model)
        bench = self.bench(model, tmp_path)
        artifact = run_attack(self.attack, bench, config)
        allowed = self.attack.total_steps(config)
        assert 0 < bench.steps_taken <= allowed, "more steps than `total_steps` says"
        assert _digest(model) == digest, "the attacked model itself was changed"
        assert tmp_path in artifact.path.parents, "the artifact is outside the cell"
        trained = self.draw(bench.model, bench.prompt_word)
        attacked = load_attacked(model, artifact, self.attacks())
        difference = (trained.int() - self.draw(attacked, bench.prompt_word).int()).abs().max()
        assert difference <= 1, f"the artifact draws another picture ({difference} of 255)"

    def test_a_longer_budget_passes_through_a_shorter_one(
        self, model: DiffusionModel, config: AttackConfig, tmp_path: Path
    ) -> None:
        """Looked at on the way, it shows bit for bit what an attack shows that ends there."""
        if not self.attack.continues(config):
            pytest.skip("every budget is a training of its own")
        short = self.bench(model, tmp_path / "short")
        artifact = run_attack(self.attack, short, config)
        drawing = Drawing(("a photo of {}",) * 2, (0, 1), lambda model: SAMPLER)
        long = self.bench(model, tmp_path / "long", budgets=(1.0, 2.0), drawing=drawing)
        run_attack(self.attack, long, config)
        assert long.stopped[1.0] == short.steps_taken < long.steps_taken, "never came past 1"
        order = drawing.order(model, long.prompt_word, self.class_noun)
        on_the_way = read_stop(stop_folder(tmp_path / "long", 1.0), order)
        attacked = load_attacked(model, artifact, self.attacks())
        at_the_end = torch.cat(list(sample(attacked, order.prompts, order.seeds, order.sampler)))
        assert torch.equal(on_the_way, at_the_end), "the longer training is another one"

    def test_is_deterministic_per_seed(
        self, model: DiffusionModel, config: AttackConfig, tmp_path: Path
    ) -> None:
        """The same seed writes the same weights, another seed others."""
        first, again, other = (
            _weights(run_attack(self.attack, self.bench(model, tmp_path / name, seed), config))
            for name, seed in (("first", 0), ("again", 0), ("other", 1))
        )
        differing = [name for name in first if first[name] != again.get(name)]
        assert not differing, f"the same seed gave other weights: {differing[:5]}"
        assert first != other, "the seed changes nothing"

    def bench(
        self, model: DiffusionModel, folder: Path, seed: int = 0, **options: Any
    ) -> Workbench:
        """A workbench with three synthetic photos."""
        folder.mkdir(parents=True, exist_ok=True)
        photos = synthetic_photos(model.resolution)
        subject = Subject("subject", self.class_noun, self.identifier, photos)
        options = {"load_original": lambda: model, "attacks": self.attacks(), **options}
        return Workbench(model, subject, seed, folder, folder / "cache", **options)

    def draw(self, model: DiffusionModel, word: str) -> Tensor:
        """Two pictures uint8 (2, R, R, 3) of the personal prompt."""
        prompt = " ".join(f"a photo of {word} {self.class_noun}".split())
        return torch.cat(list(sample(model, [prompt] * 2, [0, 1], SAMPLER)))


class MetricContract:
    """What every metric must keep to. Subclass it, set `metric`.

    A metric whose weights are not here is skipped, not failed.
    """

    metric: ClassVar[Metric]

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls) -> DiffusionModel:
        """The model whose pictures are scored."""
        return load_model("pocket", torch.device("cpu"))

    @pytest.fixture(scope="class")
    @classmethod
    def ready(cls, model: DiffusionModel) -> Metric:
        """The metric, prepared."""
        try:
            cls.metric.prepare(model, torch.device("cpu"))
        except MetricUnavailable as reason:
            pytest.skip(str(reason))
        return cls.metric

    @pytest.fixture
    def pictures(self, model: DiffusionModel) -> Pictures:
        """Six smooth random pictures with prompts, photos and a reference."""
        images = _as_pictures(synthetic_photos(model.resolution, 6).pixels)
        return Pictures(
            images,
            prompts=["a photo of person"] * len(images),
            photos=_as_pictures(synthetic_photos(model.resolution, 3, seed=1).pixels),
            reference=_as_pictures(synthetic_photos(model.resolution, 6, seed=2).pixels),
            pairs=_as_pictures(synthetic_photos(model.resolution, 6, seed=3).pixels),
        )

    def test_is_usable(self) -> None:
        """Name and direction are in order, and there is a line for the lists."""
        assert metric_problem(self.metric) is None
        assert self.metric.summary, "give the class a docstring"
        assert self.metric.needs <= {"photos", "prompts", "reference", "pairs"}

    def test_counts_and_names_its_backend(self, ready: Metric, pictures: Pictures) -> None:
        """Every picture is scored or skipped, and the extractor is named."""
        score = ready.score(pictures)
        assert isinstance(score, Score)
        assert score.metric == ready.name
        assert score.n + score.skipped == len(pictures.images)
        assert score.backend.name and score.backend.digest

    def test_order_does_not_matter(self, ready: Metric, pictures: Pictures) -> None:
        """The pictures in another order have the same score."""
        order = torch.arange(len(pictures.images)).flip(0)
        assert pictures.pairs is not None
        turned = replace(pictures, images=pictures.images[order], pairs=pictures.pairs[order])
        assert ready.score(turned).value == pytest.approx(
            ready.score(pictures).value, rel=1e-4, abs=1e-4
        )


class FamilyContract:
    """What every family must keep to. Subclass it, set `family`, write the fixture `folder`.

    Attributes:
        family: the instance that the plugin registers.
        prompts: two prompts that the model tells apart.
    """

    family: ClassVar[Family]
    prompts: ClassVar[tuple[str, str]] = ("a photo of sks person", "a photo of dog")

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A diffusers folder with a small model of the family."""
        raise NotImplementedError("write the fixture `folder`")

    @pytest.fixture
    def model(self, folder: Path) -> DiffusionModel:
        """The model, loaded anew for every test."""
        return self.load(folder)

    def load(self, folder: Path) -> DiffusionModel:
        """The model in `folder`, with this family alone."""
        return load_model(str(folder), torch.device("cpu"), known={self.family.name: self.family})

    def test_is_usable(self) -> None:
        """Name, samplers and defaults are in order, and there is a line for the lists."""
        assert family_problem(self.family) is None
        assert self.family.summary, "give the class a docstring"

    def test_opens_its_own_folders_only(self, folder: Path) -> None:
        """Whatever a folder's index says."""
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        assert self.family.opens(index)
        assert not self.family.opens({"_class_name": "SomebodyElsesPipeline"})

    def test_pictures_become_latents_and_back(self, model: DiffusionModel) -> None:
        """Shapes, ranges and precision are those that everything else counts on."""
        pixels = synthetic_photos(model.resolution).pixels
        latents = model.encode_pixels(pixels)
        assert latents.mean.shape == (len(pixels), *model.latent_shape)
        assert latents.mean.dtype == latents.std.dtype == torch.float32
        assert (latents.std >= 0).all()
        pictures = model.decode(latents.mean)
        assert pictures.shape == pixels.shape and pictures.dtype == torch.float32

    def test_prompts_are_rows(self, model: DiffusionModel) -> None:
        """A prompt's condition does not depend on the prompts beside it, and prompts differ."""
        both, first = model.encode_text(self.prompts), model.encode_text(self.prompts[:1])
        assert len(both) == 2
        for name, tensor in first.tensors.items():
            assert tensor.dtype == torch.float32 or not tensor.is_floating_point()
            assert torch.allclose(both[name][:1], tensor, atol=1e-5), name
        assert any(not torch.equal(*rows.split(1)) for rows in both.tensors.values())

    def test_one_forward_is_several(self, model: DiffusionModel) -> None:
        """Rows do not see each other, timesteps and conditions stay with their rows."""
        draws = [self.draw(model, 1, seed) for seed in (0, 1)]
        conditions = model.encode_text(self.prompts).split(1)
        with torch.no_grad():
            together = model.denoiser.squared_errors(draws, conditions)
            apart = model.denoiser.squared_errors(draws, conditions, one_forward=False)
        for one, other in zip(together, apart, strict=True):
            assert one.shape == (1, *model.latent_shape) and one.dtype == torch.float32
            assert torch.allclose(one, other, rtol=1e-3, atol=1e-5)

    def test_gradients_reach_what_is_trained(self, model: DiffusionModel) -> None:
        """The training error moves the trained network, and nothing that is frozen."""
        model.trained.requires_grad_(True)
        condition = model.encode_text(self.prompts)
        (error,) = model.denoiser.squared_errors([self.draw(model, 2)], [condition])
        error.mean().backward()
        found = [weight.grad for weight in model.trained.parameters()]
        assert any(grad is not None and grad.abs().max() > 0 for grad in found)
        assert {weight.dtype for weight in model.trained.parameters()} == {torch.float32}
        for name, network in model.networks().items():
            frozen = name != self.family.trained
            assert not (frozen and any(w.requires_grad for w in network.parameters())), name

    def test_a_private_copy_is_private(self, model: DiffusionModel) -> None:
        """What an attack trains is its own; what it never trains is shared."""
        before, private = _digest(model), model.private_copy()
        with torch.no_grad():
            for name in (self.family.trained, *self.family.text_encoders):
                for weight in private.component(name).parameters():
                    weight.add_(1.0)
        assert _digest(model) == before
        assert _digest(private) != before

    def test_saved_it_is_the_same_and_keeps_the_rest(
        self, folder: Path, model: DiffusionModel, tmp_path: Path
    ) -> None:
        """The trained network comes back as it was; every other file is the original's."""
        with torch.no_grad():
            for weight in model.trained.parameters():
                weight.add_(0.5)
        save_pipeline(model, tmp_path / "saved")
        assert _digest(self.load(tmp_path / "saved")) == _digest(model)
        for file in folder.rglob("*"):
            place = file.relative_to(folder)
            if file.is_file() and place.parts[0] != self.family.trained:
                assert (tmp_path / "saved" / place).read_bytes() == file.read_bytes(), place
        save_pipeline(model, tmp_path / "alone", trained_only=True)
        assert _digest(self.load(tmp_path / "alone")) == _digest(model)

    def test_a_picture_depends_on_its_own_seed_only(self, model: DiffusionModel) -> None:
        """Whatever the batch, with every sampler of the family."""
        for sampler in self.family.samplers:
            settings = SamplerSettings(sampler=sampler, steps=3, guidance=2.0)
            alone = settings.model_copy(update={"batch_size": 1})
            prompts = [self.prompts[0]] * 2
            one, other = (
                torch.cat(list(sample_latents(model, prompts, [0, 1], each)))
                for each in (settings, alone)
            )
            assert one.shape == (2, *model.latent_shape)
            assert torch.allclose(one, other, rtol=1e-3, atol=1e-4), sampler
            assert not torch.equal(*one.split(1)), "the starting noise changes nothing"

    def test_lora_comes_back_as_it_was(self, model: DiffusionModel, tmp_path: Path) -> None:
        """Saved and loaded, alpha included, the adapted model answers the same."""
        from peft import LoraConfig, inject_adapter_in_model

        adapted, again = model.private_copy(), model.private_copy()
        targets = list(self.family.adapter_targets.attention)
        config = LoraConfig(r=2, lora_alpha=3, target_modules=targets, init_lora_weights=False)
        with torch.random.fork_rng(devices=[]):
            inject_adapter_in_model(config, adapted.trained)
        self.family.save_lora(adapted.components, [self.family.trained], tmp_path, "diffusers")
        self.family.load_lora(again.components, tmp_path)
        draw, condition = self.draw(model, 2), model.encode_text(self.prompts)
        with torch.no_grad():
            plain, first, second = (
                each.denoiser.predict_each([draw], [condition])[0]
                for each in (model, adapted, again)
            )
        assert torch.allclose(first, second, atol=1e-5)
        assert not torch.allclose(plain, first, atol=1e-4), "the adapter changes nothing"

    def draw(self, model: DiffusionModel, count: int, seed: int = 0) -> NoisyDraw:
        """Latents, noise and timesteps of `count` rows."""
        generator = Streams(seed).generator("testing/draw")
        latents, noise = torch.randn(2, count, *model.latent_shape, generator=generator)
        return NoisyDraw(latents, noise, model.process.draw_timesteps(count, (0.0, 1.0), generator))


@dataclass
class Trial:
    """What came of some steps.

    Attributes:
        weights: of the trained network, by name, or the perturbed photos.
        terms: of every step.
        state: what a checkpoint after the last step holds.
        total: how many steps the protection said it takes.
    """

    weights: dict[str, Tensor]
    terms: list[dict[str, float]]
    state: dict[str, Any]
    total: int


class ProtectionContract:
    """What every protection must keep to. Subclass it, set `protection`.

    Attributes:
        protection: the instance that the plugin registers.
        settings: over `quick()` and the preset for the pocket model; keep it to three or more steps
            that take a second.
        class_noun, identifier: words that the model's tokenizer knows.
    """

    protection: ClassVar[Protection]
    settings: ClassVar[dict[str, Any]] = {}
    class_noun: ClassVar[str] = "person"
    identifier: ClassVar[str] = "sks"

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls) -> DiffusionModel:
        """The model that is protected."""
        return load_model("pocket", torch.device("cpu"))

    @pytest.fixture(scope="class")
    @classmethod
    def cache(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A folder for what the model draws."""
        return tmp_path_factory.mktemp("cache")

    @pytest.fixture(scope="class")
    @classmethod
    def config(cls) -> Any:
        """A quick configuration."""
        preset = cls.protection.preset(cls.protection.preset_for("pocket"))
        return resolve(cls.protection.Config, preset, cls.quick(), cls.settings)

    @classmethod
    def quick(cls) -> dict[str, Any]:
        """What makes any protection quick."""
        return {"prior_pictures": 2, "sampler_steps": 2}

    @classmethod
    def trial(
        cls,
        model: DiffusionModel,
        config: Any,
        cache: Path,
        *,
        seed: int = 0,
        stop: int | None = None,
        start: Trial | None = None,
    ) -> Trial:
        """Take steps on a copy of `model`: all of them, or up to `stop`, or on from `start`."""
        mine = model.private_copy()
        photos = synthetic_photos(model.resolution)
        subject = Subject("someone", cls.class_noun, cls.identifier, photos)
        inputs = cls.protection.inputs(subject, config)
        ingredients = prepare(mine, subject, inputs, drawing(mine, config), cache)
        named = training_subject(subject, config.prompt_style)
        known = attacks(build_plugin_manager())
        adapter = low_rank(config)
        bench = ProtectionBench(
            mine,
            named,
            inputs,
            ingredients,
            Streams(seed),
            known,
            adapter=adapter,
            eta=bound(config),
        )

        def begin(total: int) -> int:
            if start is None:
                return 0
            bench.load_state_dict(start.state["weights"])
            for name, kept in bench.kept.items():
                kept.load_state_dict(copy.deepcopy(start.state["kept"][name]))
            bench.streams.load_state_dict(start.state["streams"])
            return len(start.terms)

        bench.on_begin = begin
        terms = [] if start is None else list(start.terms)
        for step in cls.protection.steps(bench, config):
            terms.append(dict(step))
            if len(terms) == stop:
                break
        state = {
            "weights": bench.state_dict(),
            "kept": {name: kept.state_dict() for name, kept in bench.kept.items()},
            "streams": bench.streams.state_dict(),
        }
        state = copy.deepcopy(state)
        return Trial(cls.outcome(bench), terms, state, bench.total)

    @classmethod
    def outcome(cls, bench: ProtectionBench) -> dict[str, Tensor]:
        """What a run would save: the weights of the trained network."""
        network = bench.model.trained
        if bench.difference is not None:
            merge(network, bench.difference, torch.float32)
        return {name: tensor.clone() for name, tensor in network.state_dict().items()}

    @pytest.fixture(scope="class")
    @classmethod
    def whole(cls, model: DiffusionModel, config: Any, cache: Path) -> Trial:
        """A protection from start to end."""
        return cls.trial(model, config, cache)

    def test_is_usable(self) -> None:
        """Name, Config and presets are in order, and there is a line for the lists."""
        assert protection_problem(self.protection) is None
        assert self.protection.summary, "give the class a docstring"

    def test_every_preset_round_trips_through_toml(self) -> None:
        """What a manifest stores can be given back with --config."""
        for name in self.protection.presets:
            config = resolve(self.protection.Config, self.protection.preset(name))
            text = tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))
            assert resolve(self.protection.Config, tomllib.loads(text)) == config

    def test_the_trained_network_moves_and_nothing_else(
        self, model: DiffusionModel, whole: Trial, config: Any
    ) -> None:
        """θ moves; autoencoder, text encoders and the model it was given stay."""
        before = model.trained.state_dict()
        assert whole.weights.keys() == before.keys()
        assert any(not torch.equal(whole.weights[name], before[name]) for name in before)
        assert all(tensor.isfinite().all() for tensor in whole.weights.values())

    def test_other_networks_stay(self, model: DiffusionModel, config: Any, cache: Path) -> None:
        """Only the trained network is saved anew, so only that may change."""
        networks = model.networks()
        before = {
            name: [tensor.detach().clone() for tensor in network.state_dict().values()]
            for name, network in networks.items()
        }
        self.trial(model, config, cache, stop=1)
        for name, network in networks.items():
            pairs = zip(network.state_dict().values(), before[name], strict=True)
            assert all(torch.equal(now, then) for now, then in pairs), name

    def test_every_step_reports_the_same_terms(self, whole: Trial) -> None:
        """As many steps as were announced, each with the same names; NaN is for 'not this time'."""
        assert len(whole.terms) == whole.total > 0
        names = set(whole.terms[0])
        assert names
        for terms in whole.terms:
            assert set(terms) == names
            assert all(isinstance(value, float) for value in terms.values())
            assert not any(math.isinf(value) for value in terms.values())

    def test_a_seed_decides_the_result(
        self, model: DiffusionModel, config: Any, cache: Path, whole: Trial
    ) -> None:
        """The same seed gives the same weights, bit for bit; another one others."""
        again, other = (self.trial(model, config, cache, seed=seed) for seed in (0, 1))
        assert _same(again.weights, whole.weights)
        assert not _same(other.weights, whole.weights)

    def test_the_global_generator_decides_nothing(
        self, model: DiffusionModel, config: Any, cache: Path, whole: Trial
    ) -> None:
        """Randomness comes from the bench's streams; torch's own generator stays where it was."""
        with torch.random.fork_rng(devices=[]):
            torch.rand(7)
            before = torch.get_rng_state()
            again = self.trial(model, config, cache)
            assert torch.equal(torch.get_rng_state(), before)
        assert _same(again.weights, whole.weights)

    def test_a_stopped_run_ends_like_an_uninterrupted_one(
        self, model: DiffusionModel, config: Any, cache: Path, whole: Trial
    ) -> None:
        """Everything that changes is kept: `bench.keep` has it, or θ, or the streams."""
        for stop in range(1, whole.total):
            half = self.trial(model, config, cache, stop=stop)
            rest = self.trial(model, config, cache, start=half)
            assert _same(rest.weights, whole.weights), f"stopped after step {stop}"
            assert str(rest.terms) == str(whole.terms)


class ImageProtectionContract(ProtectionContract):
    """What every protection of photos must keep to. Subclass it, set `protection`."""

    protection: ClassVar[ImageProtection]

    @classmethod
    def outcome(cls, bench: ProtectionBench) -> dict[str, Tensor]:
        """What a run would save: the perturbed photos."""
        return {"photos": bench.perturbation.pixels}

    def test_the_trained_network_moves_and_nothing_else(
        self, model: DiffusionModel, whole: Trial, config: Any
    ) -> None:
        """Here the photos move: every one of them, within the bound, and they stay pictures."""
        photos, clean = whole.weights["photos"], synthetic_photos(model.resolution).pixels
        moved = (photos - clean).abs().flatten(1)
        eta = config.eta
        assert (moved.mean(dim=1) > eta / 100).all()
        assert moved.max() <= eta + 1e-6
        assert photos.abs().max() <= 1 and photos.isfinite().all()


def _same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def synthetic_photos(resolution: int, count: int = 3, seed: int = 0) -> Photos:
    """Smooth random pictures that stand for photos; no file is behind them."""
    generator = Streams(seed).generator("testing/photos")
    coarse = torch.rand(count, 3, 4, 4, generator=generator) * 2 - 1
    pixels = torch.nn.functional.interpolate(coarse, size=(resolution, resolution), mode="bicubic")
    names = tuple(f"{index}.png" for index in range(count))
    return Photos(names, tuple(f"{index:064x}" for index in range(count)), pixels.clamp(-1, 1))


def _as_pictures(pixels: Tensor) -> Tensor:
    return ((pixels + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _tensors(model: DiffusionModel) -> Iterator[tuple[str, Tensor]]:
    for part, module in model.networks().items():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            yield f"{part}.{name}", tensor


def _digest(model: DiffusionModel) -> str:
    whole = hashlib.sha256()
    for name, tensor in _tensors(model):
        whole.update(name.encode())
        whole.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return whole.hexdigest()


def _weights(artifact: Artifact) -> dict[str, str]:
    """Digest of every tensor in the artifact's files. Their headers come in random order."""
    digests = {}
    for file in sorted(artifact.path.rglob("*.safetensors")):
        for name, tensor in load_file(file).items():
            content = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
            digests[f"{file.relative_to(artifact.path)}:{name}"] = hashlib.sha256(
                content
            ).hexdigest()
    return digests
