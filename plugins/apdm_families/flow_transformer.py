"""What all transformers of flow matching share, whoever writes their conditions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from apdm_cli.diffusion.family import Components, Drawing
from apdm_cli.errors import ApdmError, UsageError, first_sentence
from apdm_cli.runs.manifest import read_json
from apdm_families.checks import HINT
from apdm_families.diffusers_family import DiffusersFamily

if TYPE_CHECKING:
    from torch import Tensor

    from apdm_cli.diffusion.latents import LatentDistribution
    from apdm_cli.diffusion.process import FlowMatching

FILE_PREFIX = "model.diffusion_model."
# What the names of numbers end with that go with quantized weights.
QUANTIZED = (".scale_weight", ".weight_scale", ".input_scale", "scaled_fp8", ".absmax")
SCHEDULER = "FlowMatchEulerDiscreteScheduler"


class FlowTransformer(DiffusersFamily):
    """A transformer of diffusers that predicts velocities, and an autoencoder (`AutoencoderKL`).

    Its errors are in the velocity, ‖v_θ(x_t, t) − (ε − x)‖² (`FlowMatching.target`), and so are
    the margins of every protection: nothing else knows what is predicted.

    Attributes:
        networks: library and class of every network, by the name of its folder; where several
            classes are named, the folder's index says which of them it is.
        optional: components that a folder may lack.
        file_marks: names of tensors that its transformer has in the original layout, and its
            relatives have not all of.
    """

    trained = "transformer"
    samplers = ("euler",)
    networks: ClassVar[Mapping[str, tuple[str, ...]]]
    optional: ClassVar[tuple[str, ...]] = ()
    file_marks: ClassVar[tuple[str, ...]]

    # Opening and saving

    def opens(self, index: Mapping[str, Any]) -> bool:
        """A folder of this very pipeline: variants for other tasks take other inputs."""
        return index["_class_name"] == self.pipeline_class

    def open(self, folder: Path) -> Components:
        """Part by part, so that an error names the part."""
        return self._open(folder, {})

    def opens_file(self, tensors: Collection[str]) -> bool:
        """Its transformer in the original layout, whatever else is in the file."""
        return set(self.file_marks) <= {name.removeprefix(FILE_PREFIX) for name in tensors}

    def open_file(self, file: Path) -> Components:
        """The transformer of the file, and the rest of the folder of the same name beside it.

        Few of these files hold text encoders, and none a tokenizer.
        """
        beside = self.beside(file)
        if not (beside / self.trained / "config.json").is_file():
            raise ApdmError(
                f"{file} holds the transformer of {self.title} and not all that belongs to it",
                "Put the other parts of its diffusers folder (model_index.json, vae/, scheduler/, "
                f"text encoders, tokenizers and transformer/config.json) into {beside}/ .",
            )
        return self._open(beside, {self.trained: self._transformer_of(file, beside)})

    def beside(self, file: Path) -> Path:
        """The folder of the same name."""
        return file.with_suffix("")

    def _open(self, folder: Path, given: Mapping[str, Any]) -> Components:
        import diffusers

        from apdm_cli.diffusion.saving import INDEX
        from apdm_families.diffusers_folder import Layout, check_weights, open_pipeline

        index = read_json(folder / INDEX, foreign=True)
        layout = Layout(
            getattr(diffusers, self.pipeline_class),
            {name: _class(*place, named=index.get(name)) for name, place in self.networks.items()},
            {name: name.replace("tokenizer", "text_encoder") for name in self.tokenizers},
            optional=self.optional,
        )
        pipeline = open_pipeline(folder, layout, given)
        components = dict(pipeline.components)
        self.check(components, folder)
        check_weights(pipeline, str(folder), layout)
        return components

    @abstractmethod
    def check(self, components: Components, folder: Path) -> None:
        """Refuse parts that do not fit together, with an ApdmError."""

    def _transformer_of(self, file: Path, beside: Path) -> Any:
        import torch
        from safetensors import safe_open

        from apdm_families.diffusers_folder import FOLDER_HINT, LOADING_ERRORS, QuietLibraries

        with safe_open(file, framework="pt") as opened:
            names = list(opened.keys())
        if any(name.endswith(QUANTIZED) for name in names):
            raise ApdmError(
                f"{file} holds quantized weights: not supported", "Take the file in bf16 or fp16."
            )
        with QuietLibraries():
            try:
                transformer = _class(*self.networks[self.trained]).from_single_file(
                    str(file),
                    config=str(beside),
                    subfolder=self.trained,
                    local_files_only=True,
                    dtype=torch.float32,
                )
            except LOADING_ERRORS as error:
                text = first_sentence(error)
                if "meta tensor" in text:  # how PyTorch calls a tensor that got no values
                    text = "it lacks tensors that its transformer/config.json asks for"
                raise ApdmError(f"{file} cannot be loaded: {text}", FOLDER_HINT) from error
        return transformer.eval()

    # Training

    def process(self, components: Components) -> FlowMatching:
        """Logit-normal σ, arXiv 2403.03206, section 3.1, which trainers call "sigmoid".

        Shifted as the scheduler shifts its training timesteps. One with dynamic shifting does so
        while drawing only.
        """
        from apdm_cli.diffusion.process import FlowMatching

        config = components["scheduler"].config
        if type(components["scheduler"]).__name__ != SCHEDULER:
            raise ApdmError(
                f"its scheduler is a {type(components['scheduler']).__name__}, which says nothing "
                "about flow matching",
                f"In scheduler/scheduler_config.json there should be that of a {SCHEDULER}.",
            )
        shift = 1.0 if config.use_dynamic_shifting else float(config.shift)
        if not 0 < shift < 1e6:
            raise ApdmError(
                f"its scheduler has the shift {shift:g}, which should be a number above 0",
                "It stands in scheduler/scheduler_config.json.",
            )
        return FlowMatching(scale=float(config.num_train_timesteps), shift=shift)

    def shape_step(self, components: Components) -> int | None:
        """Of squares of 2 by 2 latents, which all of these transformers take in any number."""
        return 2 * (self.resolution(components) // self.latent_shape(components)[-1])

    # Pictures

    def encode(self, components: Components, pixels: Tensor) -> LatentDistribution:
        """The autoencoder's posterior, shifted, then scaled."""
        from apdm_cli.diffusion.latents import LatentDistribution

        vae = components["vae"]
        posterior = vae.encode(pixels.to(vae.dtype)).latent_dist
        shift, scale = vae.config.shift_factor or 0.0, vae.config.scaling_factor
        return LatentDistribution((posterior.mean.float() - shift) * scale, posterior.std * scale)

    def decode(self, components: Components, latents: Tensor) -> Tensor:
        """The autoencoder's picture."""
        vae = components["vae"]
        plain = latents / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
        picture: Tensor = vae.decode(plain.to(vae.dtype)).sample.float() / 2 + 0.5
        return picture

    def draw(self, pipeline: Any, drawing: Drawing, side: int, **what: Any) -> Any:
        """Like every family's; UsageError where diffusers would divide by zero and draw NaN."""
        if drawing.steps == 1 and pipeline.scheduler.config.get("shift_terminal"):
            raise UsageError(
                f"{self.title} cannot be drawn in one step: its scheduler moves the last of the "
                "steps to an end of its own (shift_terminal), which must not be the first",
                "Use at least 2 steps.",
            )
        return super().draw(pipeline, drawing, side, **what)

    def drawing_pipeline(self, components: Components) -> Any:
        """The pipeline with a sampler of its own: drawing leaves traces in a scheduler."""
        from diffusers import FlowMatchEulerDiscreteScheduler

        pipeline = self.pipeline(components)
        config = components["scheduler"].config
        pipeline.scheduler = FlowMatchEulerDiscreteScheduler.from_config(config)
        return pipeline


def factor_of(vae: Any) -> int:
    """Pixels a side of one latent."""
    factor: int = 2 ** (len(vae.config.block_out_channels) - 1)
    return factor


def check_side(vae: Any, folder: Path) -> None:
    """Refuse an autoencoder whose pictures the transformer cannot cut into squares of 2 by 2."""
    side, step = vae.config.sample_size, 2 * factor_of(vae)
    if not isinstance(side, int) or side <= 0 or side % step:
        raise ApdmError(
            f"{folder / 'vae' / 'config.json'}: sample_size, the side of pictures in pixels, is "
            f"{side}, and should be a multiple of {step}",
            HINT,
        )


def check_same(folder: Path, mine: int, what: str, theirs: int, whose: str) -> None:
    """Refuse parts of which one makes what the other does not take.

    Args:
        mine: how many `what` the transformer takes.
        theirs: how many `whose` have.
    """
    if mine != theirs:
        raise ApdmError(
            f"{folder}: its transformer takes {mine} {what}, and {whose} have {theirs}",
            "The folders come from different models. " + HINT,
        )


def _class(library: str, *names: str, named: Any = None) -> Any:
    """The class of a part: the one that the index names, if it is one of `names`."""
    told = named[1] if isinstance(named, list) and len(named) == 2 else None
    return getattr(import_module(library), told if told in names else names[0])
