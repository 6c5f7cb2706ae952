"""Contract tests for the authors of protections. Four lines make a test module:

    from apdm_cli.testing_protection import ProtectionContract

    class TestMine(ProtectionContract):
        protection = MyProtection()
        settings = {"steps": 3}

They run on the embedded pocket model; override the fixture `model` for another one.
"""

from __future__ import annotations

import copy
import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import tomli_w
import torch
from torch import Tensor

from apdm_cli.config import resolve
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.photos import Photos
from apdm_cli.extension.checks import protection_problem
from apdm_cli.extension.family import load_model
from apdm_cli.extension.manager import attacks, build_plugin_manager
from apdm_cli.extension.protection import Protection
from apdm_cli.protection.bench import Bench, drawing, prepare
from apdm_cli.protection.prompts import training_subject
from apdm_cli.randomness import Streams
from apdm_cli.subject import Subject

QUICK = {"prior_pictures": 2, "sampler_steps": 2}


@dataclass
class Trial:
    """What came of some steps.

    Attributes:
        weights: of the trained network, by name.
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
        settings: over `QUICK` and the preset for the pocket model; keep it to three or more steps
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
        return resolve(cls.protection.Config, preset, QUICK, cls.settings)

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
        photos = _photos(model.resolution)
        subject = Subject("someone", cls.class_noun, cls.identifier, photos)
        inputs = cls.protection.inputs(subject, config)
        ingredients = prepare(mine, subject, inputs, drawing(mine, config), cache)
        named = training_subject(subject, config.prompt_style)
        known = attacks(build_plugin_manager())
        bench = Bench(mine, named, inputs, ingredients, Streams(seed), known)

        def begin(total: int) -> int:
            if start is None:
                return 0
            mine.trained.load_state_dict(start.weights)
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
            "kept": {name: kept.state_dict() for name, kept in bench.kept.items()},
            "streams": bench.streams.state_dict(),
        }
        weights = {name: tensor.clone() for name, tensor in mine.trained.state_dict().items()}
        return Trial(weights, terms, copy.deepcopy(state), bench.total)

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
        self, model: DiffusionModel, whole: Trial
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


def _photos(resolution: int) -> Photos:
    """Smooth random pictures that stand for photos; no file is behind them."""
    generator = Streams(0).generator("testing/photos")
    coarse = torch.rand(3, 3, 4, 4, generator=generator) * 2 - 1
    pixels = torch.nn.functional.interpolate(coarse, size=(resolution, resolution), mode="bicubic")
    names = tuple(f"{index}.png" for index in range(3))
    return Photos(names, tuple(f"{index:064x}" for index in range(3)), pixels.clamp(-1, 1))


def _same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in second)
