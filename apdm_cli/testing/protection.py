"""What every protection must keep to, of a model or of photos."""

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
from apdm_cli.diffusion.low_rank import merge
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.extension.checks import protection_problem
from apdm_cli.extension.image_protection import ImageProtection, bound
from apdm_cli.extension.manager import attacks, build_plugin_manager
from apdm_cli.extension.protection import Protection
from apdm_cli.extension.protection_config import low_rank
from apdm_cli.protection.bench import Bench as ProtectionBench
from apdm_cli.protection.ingredients import drawing, prepare
from apdm_cli.protection.prompts import training_subject
from apdm_cli.randomness import Streams
from apdm_cli.subject import Subject
from apdm_cli.testing.material import OnPocketModel, synthetic_photos


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


class ProtectionContract(OnPocketModel):
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
