"""What every family of models must keep to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from apdm_cli.diffusion.denoiser import NoisyDraw
from apdm_cli.diffusion.family import Family
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.sampling import SamplerSettings, sample_latents
from apdm_cli.diffusion.saving import save_pipeline
from apdm_cli.extension.checks import family_problem
from apdm_cli.extension.family import load_model
from apdm_cli.randomness import Streams
from apdm_cli.testing.material import model_digest, synthetic_photos


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
        before, private = model_digest(model), model.private_copy()
        with torch.no_grad():
            for name in (self.family.trained, *self.family.text_encoders):
                for weight in private.component(name).parameters():
                    weight.add_(1.0)
        assert model_digest(model) == before
        assert model_digest(private) != before

    def test_saved_it_is_the_same_and_keeps_the_rest(
        self, folder: Path, model: DiffusionModel, tmp_path: Path
    ) -> None:
        """The trained network comes back as it was; every other file is the original's."""
        with torch.no_grad():
            for weight in model.trained.parameters():
                weight.add_(0.5)
        save_pipeline(model, tmp_path / "saved")
        assert model_digest(self.load(tmp_path / "saved")) == model_digest(model)
        for file in folder.rglob("*"):
            place = file.relative_to(folder)
            if file.is_file() and place.parts[0] != self.family.trained:
                assert (tmp_path / "saved" / place).read_bytes() == file.read_bytes(), place
        save_pipeline(model, tmp_path / "alone", trained_only=True)
        assert model_digest(self.load(tmp_path / "alone")) == model_digest(model)

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
