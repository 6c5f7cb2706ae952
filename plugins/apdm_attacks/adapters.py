"""Adapters around a frozen model, and the file formats in which others open them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_kohya
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn

from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.errors import ApdmError, UsageError
from apdm_cli.extension.attack import Artifact
from apdm_cli.subject import Subject

WEIGHTS = "pytorch_lora_weights.safetensors"


@dataclass
class Adapter:
    """The trained part: adapters on the U-Net and, for lora and dora, on the text encoder.

    Attributes:
        kind: lora and dora are opened by `load_lora_weights`; loha and lokr, which diffusers does
            not take for Stable Diffusion, by `PeftModel.from_pretrained(unet, ...)`.
        unet, text_adapter: peft configurations.
        export: "kohya" writes the keys that other tools read.
    """

    model: DiffusionModel
    subject: Subject
    kind: str
    unet: Any
    text_adapter: Any = None
    export: str = "diffusers"

    def __post_init__(self) -> None:
        self.by_diffusers = self.kind in ("lora", "dora")
        if not self.by_diffusers and self.text_adapter is not None:
            raise UsageError(f"lora.text_encoder: not for the variant {self.kind}")
        if self.export == "kohya" and self.kind != "lora":
            raise UsageError("lora.export: kohya is for the variant lora only")
        _check_rank(self.model.unet, self.unet)
        self._wrapped: PeftModel | None = None
        if not self.by_diffusers:
            self._wrapped = get_peft_model(self.model.unet, self.unet)
            return
        self.model.unet.add_adapter(self.unet)  # type: ignore[operator]
        if self.text_adapter is not None:
            try:
                self.model.pipeline.text_encoder.float().add_adapter(self.text_adapter)
            except ValueError as error:  # transformers wants a certain peft, and so does diffusers
                raise ApdmError(f"lora.text_encoder: {error}", "Or use dreambooth-text.") from error

    def parameters(self) -> Sequence[nn.Parameter]:
        """The adapters' weights; everything else is frozen."""
        parts = [self.model.unet, self.model.pipeline.text_encoder]
        return [w for part in parts for w in part.parameters() if w.requires_grad]

    @property
    def trains_text(self) -> bool:
        """Where the text encoder has an adapter."""
        return self.text_adapter is not None

    def text(self, prompt: str) -> Tensor:
        """The embedding under the adapter, (1, L, D)."""
        return self.model.embed([prompt])

    def prompt_word(self) -> str:
        """The subject's identifier."""
        return self.subject.identifier

    def save(self, folder: Path) -> Artifact:
        """Write what diffusers' or peft's loader opens, alpha included."""
        if self._wrapped is not None:
            self._wrapped.peft_config["default"].base_model_name_or_path = None
            self._wrapped.save_pretrained(folder)
            (folder / "README.md").unlink(missing_ok=True)
            return Artifact("peft", folder)
        parts = {"unet": self.model.unet}
        if self.text_adapter is not None:
            parts["text_encoder"] = self.model.pipeline.text_encoder
        if self.export == "kohya":
            save_file(_kohya(parts, self.unet.lora_alpha), folder / WEIGHTS)
        else:
            _save_lora(parts, folder)
        return Artifact("lora", folder)


def _save_lora(parts: dict[str, Any], folder: Path) -> None:
    """`save_lora_weights` with the metadata: without it alpha is lost where it is not the rank."""
    options: dict[str, Any] = {}
    for name, part in parts.items():
        state = convert_state_dict_to_diffusers(get_peft_model_state_dict(part))
        options[f"{name}_lora_layers"] = state
        options[f"{name}_lora_adapter_metadata"] = part.peft_config["default"].to_dict()
    StableDiffusionPipeline.save_lora_weights(folder, **options)


def _kohya(parts: dict[str, Any], alpha: float) -> dict[str, Tensor]:
    """Keys `lora_unet_....lora_down.weight`; diffusers' conversion assumes that alpha = rank."""
    state = {}
    for name, part in parts.items():
        for key, value in get_peft_model_state_dict(part).items():
            state[f"{name}.{key}"] = value
    converted = convert_state_dict_to_kohya(state)
    for key in converted:
        if key.endswith(".alpha"):
            converted[key] = torch.tensor(float(alpha))
    # Stable Diffusion has one text encoder, which these tools call `lora_te`.
    return {key.replace("lora_te1_", "lora_te_"): value for key, value in converted.items()}


def _check_rank(unet: nn.Module, config: Any) -> None:
    for name, module in unet.named_modules():
        if isinstance(module, nn.Linear) and name.endswith(tuple(config.target_modules)):
            smallest = min(module.in_features, module.out_features)
            if config.r > smallest:
                raise UsageError(
                    f"lora.rank: {config.r} is larger than the layer {name} ({smallest})",
                    f"Use at most {smallest}.",
                )
