"""What a family of models is: how one kind is opened, conditioned, asked, sampled and saved.

Everything else (losses, loops, attacks, protections, evaluation) knows this interface only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from apdm_cli.errors import ApdmError, UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from apdm_cli.diffusion.condition import Condition
    from apdm_cli.diffusion.latents import LatentDistribution
    from apdm_cli.diffusion.process import NoiseProcess

Components = dict[str, Any]


@dataclass(frozen=True)
class FamilyDefaults:
    """How models of a family are drawn with, unless somebody says otherwise.

    Attributes:
        sampler, steps, guidance: for evaluation.
        class_sampler: for the class pictures of attacks and protections.
    """

    sampler: str
    steps: int
    guidance: float
    class_sampler: str


@dataclass(frozen=True)
class AdapterTargets:
    """Ends of the names of layers that adapters are put on.

    Attributes:
        attention: projections in the trained component.
        convolutions: convolutions of its residual blocks; empty where there are none.
        feed_forward: linear layers between the attentions.
        projections: into and out of the blocks that hold both.
        time_embedding: of the timestep, and where it enters the residual blocks.
        text, text_feed_forward: projections in the text encoders, and their other linear layers.
    """

    attention: tuple[str, ...]
    convolutions: tuple[str, ...] = ()
    feed_forward: tuple[str, ...] = ()
    projections: tuple[str, ...] = ()
    time_embedding: tuple[str, ...] = ()
    text: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "out_proj")
    text_feed_forward: tuple[str, ...] = ()

    def text_layers(self, *, feed_forward: bool) -> tuple[str, ...]:
        """What the names of layers in the text encoders end with."""
        return self.text + (self.text_feed_forward if feed_forward else ())

    def ends(self, which: str) -> tuple[str, ...]:
        """What the names of "attention", "linear" or "all" layers of a network end with."""
        found = self.attention
        if which != "attention":
            found += self.feed_forward
        if which == "all":
            found += self.convolutions
        return found


@dataclass(frozen=True)
class Drawing:
    """One batch to draw with `Family.sample`.

    Attributes:
        prompts: B of them.
        noise: starting noise (B, C, H, W), on the device.
        sampler: one of the family's.
        steps, guidance: of the sampler; guidance 1 or less is none, but for Z-Image's pipeline,
            whose numbers are smaller by 1.
    """

    prompts: Sequence[str]
    noise: Tensor
    sampler: str
    steps: int
    guidance: float


class Family(ABC):
    """One kind of latent diffusion or flow model. Instances hold no weights.

    A model of the family is a dictionary of named components (networks, tokenizers, a scheduler),
    as its diffusers folder has them; the methods get it back as `components`.

    Attributes:
        name: lower case, words joined by hyphens.
        title: what people call it, for messages.
        trained: the component that personalization and protection train: "unet", "transformer".
        text_encoders, tokenizers: components that make conditions of prompts; attacks may train
            and extend them. The i-th tokenizer is the i-th text encoder's.
        word_keys: text encoder → name of its vectors in a file with a new word (textual
            inversion), for a family with several text encoders that has such files.
        samplers: names of the samplers that `sample` knows.
        defaults: how its models are drawn with.
        adapter_targets: where adapters go.
        lora_layouts: in which `save_lora` writes: "diffusers", and "kohya" where the family has it.
        recordable: whether `predict` may be recorded as a CUDA graph on a card: it then neither
            reads what tensors on the card hold nor brings any there. What cannot be is launched.
        exact: names of float tensors (B, ...) that are numbers, such as sizes and positions, and no
            activations: among the entries of its conditions, and among what the trained component
            is called with. Half precision would round them.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    trained: ClassVar[str]
    text_encoders: ClassVar[tuple[str, ...]] = ("text_encoder",)
    tokenizers: ClassVar[tuple[str, ...]] = ("tokenizer",)
    word_keys: ClassVar[Mapping[str, str]] = {}
    samplers: ClassVar[tuple[str, ...]]
    defaults: ClassVar[FamilyDefaults]
    adapter_targets: ClassVar[AdapterTargets]
    lora_layouts: ClassVar[tuple[str, ...]] = ("diffusers",)
    recordable: ClassVar[bool] = True
    exact: ClassVar[tuple[str, ...]] = ()

    # Opening

    @abstractmethod
    def opens(self, index: Mapping[str, Any]) -> bool:
        """Whether a folder with this model_index.json is one of the family's."""

    @abstractmethod
    def open(self, folder: Path) -> Components:
        """All components of a diffusers folder, networks in float32 on the CPU.

        Raises:
            ApdmError: a part is missing or broken.
        """

    def opens_file(self, tensors: Collection[str]) -> bool:
        """Whether a single .safetensors file with tensors of these names is the family's."""
        return False

    def open_file(self, file: Path) -> Components:
        """`open` for such a file; only called where `opens_file` says yes."""
        raise ApdmError(f"{file}: {self.title} is not opened from single files")

    def beside(self, file: Path) -> Path | None:
        """The diffusers folder that has every part but the trained one of what `open_file` opens.

        None: the file itself has them.
        """
        return None

    def reopen(self, component: Any, folder: Path) -> Any:
        """Another component of the kind of `component`, as `save_component` wrote it."""
        return type(component).from_pretrained(folder, local_files_only=True)

    def place(self, components: Components, device: torch.device, dtype: torch.dtype) -> None:
        """Move all networks to `device`, in place: the trained one in float32, the others, frozen,
        in `dtype`, but for what their classes want in float32 (`lower`)."""
        from torch import float32, nn

        from apdm_cli.diffusion.lowering import lower

        for name, network in components.items():
            if isinstance(network, nn.Module) and name == self.trained:
                network.to(device, float32)
            elif isinstance(network, nn.Module):
                lower(network.requires_grad_(False), device, dtype)

    # Saving

    def save_component(self, component: Any, folder: Path) -> None:
        """Write one component as plain diffusers opens it."""
        component.save_pretrained(folder)

    def save_all(self, components: Components, folder: Path) -> None:
        """Write a whole diffusers folder; only needed for a model that did not come in one."""
        self.pipeline(components).save_pretrained(folder, safe_serialization=True)

    # Training

    @abstractmethod
    def process(self, components: Components) -> NoiseProcess:
        """How the model's latents are noised: `Diffusion` or `FlowMatching`, as a rule.

        Raises:
            ApdmError: the model was trained in a way that is not supported.
        """

    @abstractmethod
    def embed(
        self, components: Components, prompts: Sequence[str], device: torch.device
    ) -> Condition:
        """What `prompts` become, one row each: float32, with gradients where they are on."""

    @abstractmethod
    def predict(
        self, network: nn.Module, noisy: Tensor, timesteps: Tensor, condition: Condition
    ) -> Tensor:
        """The trained component's answer (B, C, H, W) at noised latents and timesteps (B,)."""

    def skip_text_layers(self, components: Components, count: int) -> None:
        """Leave out the last `count` layers of the text encoder, in place; its weights stay.

        Trainers call what is read then "clip-skip" `count` + 1.

        Raises:
            ApdmError: models of the family are not read at the last layer, or have too few.
        """
        raise ApdmError(
            f"clip_skip: {self.title} does not read the last layer of one text encoder",
            "Leave it out: it is for Stable Diffusion 1.x and 2.x.",
        )

    def longest_prompt(self, components: Components) -> int | None:
        """Tokens of a prompt that the model reads, counted by its first tokenizer; None: all."""
        first = next(iter(self.tokenizers), None)
        return None if first is None else getattr(components[first], "model_max_length", None)

    def shape_step(self, components: Components) -> int | None:
        """Pixels that both sides of pictures of other shapes are multiples of, in training.

        None: the trained component takes squares of one size only.
        """
        return None

    def told_sizes(self, condition: Condition, sizes: Tensor) -> Condition:
        """`condition`, of B rows, for photos that were cut; only models that are told so differ.

        Args:
            sizes: (B, 6), in pixels: height and width of the photo; top and left of what is shown
                of it, after it was rescaled; height and width of that.
        """
        return condition

    # Pictures

    @abstractmethod
    def resolution(self, components: Components) -> int:
        """Side of the square pictures that the model was made for, in pixels."""

    @abstractmethod
    def latent_shape(self, components: Components) -> tuple[int, int, int]:
        """(C, H, W) of one picture's latents."""

    @abstractmethod
    def encode(self, components: Components, pixels: Tensor) -> LatentDistribution:
        """Latents of pictures (N, 3, R, R) in [-1, 1], scaled as the denoiser sees them."""

    @abstractmethod
    def decode(self, components: Components, latents: Tensor) -> Tensor:
        """Pictures (N, 3, R, R), float32, about [0, 1], of latents (N, C, H, W)."""

    @abstractmethod
    def sample(self, components: Components, drawing: Drawing) -> Tensor:
        """Latents (B, C, H, W) of new pictures; row i depends on prompt i and noise i only."""

    # Adapters and loaders

    def save_lora(
        self, components: Components, names: Sequence[str], folder: Path, layout: str
    ) -> None:
        """Write the LoRA adapters on the components `names`.

        Args:
            layout: one of `lora_layouts`.
        """
        from peft import get_peft_model_state_dict
        from safetensors.torch import save_file

        for name in names:
            (folder / name).mkdir(parents=True, exist_ok=True)
            components[name].peft_config["default"].save_pretrained(folder / name)
            state = get_peft_model_state_dict(components[name])
            tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
            save_file(tensors, folder / name / "adapter_model.safetensors")

    def load_lora(self, components: Components, folder: Path) -> None:
        """Put the adapters that `save_lora` wrote onto `components`, in place."""
        from peft import PeftConfig, inject_adapter_in_model, set_peft_model_state_dict
        from safetensors.torch import load_file

        for part in sorted(path for path in folder.iterdir() if path.is_dir()):
            inject_adapter_in_model(PeftConfig.from_pretrained(str(part)), components[part.name])
            tensors = load_file(part / "adapter_model.safetensors")
            set_peft_model_state_dict(components[part.name], tensors)

    def pipeline(self, components: Components) -> Any:
        """diffusers' own pipeline around `components`, for its loaders of adapters and tokens."""
        raise ApdmError(f"{self.title} has no pipeline in diffusers")

    def save_memory(self, components: Components) -> None:
        """Trade time for memory in training and drawing, in place."""
        if hasattr(components[self.trained], "enable_gradient_checkpointing"):
            components[self.trained].enable_gradient_checkpointing()

    @property
    def summary(self) -> str:
        """One line of what it opens: the first line of the class's docstring."""
        return (type(self).__doc__ or "").strip().partition("\n")[0]


def check_sampler(family: Family, name: str) -> str:
    """`name`; UsageError where models of the family cannot be drawn with it."""
    if name not in family.samplers:
        raise UsageError(
            f"{family.title} has no sampler {name!r}", f"It has {', '.join(family.samplers)}."
        )
    return name


def check_sampler_of_some(known: Mapping[str, Family], name: str) -> None:
    """UsageError for a sampler that no family has, whichever the model is of: it is not loaded."""
    samplers = {sampler for family in known.values() for sampler in family.samplers}
    if name not in samplers:
        raise UsageError(
            f"--sampler {name}: no family of models has it",
            f"Known are: {', '.join(sorted(samplers))}.",
        )
