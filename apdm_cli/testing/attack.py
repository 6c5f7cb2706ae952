"""What every attack must keep to."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import Any, ClassVar

import pytest
import tomli_w
import torch
from safetensors.torch import load_file
from torch import Tensor

from apdm_cli.diffusion.low_rank import adapter_differences
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.sampling import SamplerSettings, sample
from apdm_cli.extension.attack import Artifact, Attack, AttackConfig
from apdm_cli.extension.checks import attack_problem
from apdm_cli.extension.manager import attacks, build_plugin_manager
from apdm_cli.harness.artifacts import load_attacked
from apdm_cli.harness.stops import Drawing, read_stop, stop_folder
from apdm_cli.harness.work import run_attack
from apdm_cli.harness.workbench import Workbench
from apdm_cli.subject import Subject
from apdm_cli.testing.material import OnPocketModel, model_digest, named_tensors, synthetic_photos

# What makes any attack quick; keys that an attack's Config does not have are left out.
QUICK = {
    "steps": 2,
    "batch_size": 1,
    "prior_pictures": 2,
    "sampler_steps": 2,
}

SAMPLER = SamplerSettings(sampler="ddim", steps=4, guidance=3.0)


class AttackContract(OnPocketModel):
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
        before = {id(t): (n, t, t.detach().clone()) for n, t in named_tensors(bench.model)}
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

    def test_says_what_it_leaves(self, model: DiffusionModel, config: AttackConfig) -> None:
        """`leaves_network` and `leaves_displacement` are true of what trains."""
        if not self.attack.trains_once:
            pytest.skip("trains through other attacks, which have contracts of their own")
        mine = model.private_copy()
        weights = {id(weight) for weight in mine.trained.parameters()}
        photos = synthetic_photos(model.resolution)
        subject = Subject("subject", self.class_noun, self.identifier, photos)
        trainable = self.attack.trainable(mine, subject, config)
        moves = any(id(parameter) in weights for parameter in trainable.parameters())
        displaced = moves or bool(adapter_differences(mine.trained))
        assert self.attack.leaves_network == (not moves), "say so with `leaves_network`"
        assert self.attack.leaves_displacement == displaced, "say so with `leaves_displacement`"

    def test_runs(self, model: DiffusionModel, config: AttackConfig, tmp_path: Path) -> None:
        """Steps, base model, artifact: everything about one whole run."""
        digest = model_digest(model)
        bench = self.bench(model, tmp_path)
        artifact = run_attack(self.attack, bench, config)
        allowed = self.attack.total_steps(config)
        assert 0 < bench.steps_taken <= allowed, "more steps than `total_steps` says"
        assert model_digest(model) == digest, "the attacked model itself was changed"
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
