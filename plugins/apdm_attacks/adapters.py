"""Adapters around a frozen model, and the file formats in which others open them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel, get_peft_model
from torch import nn

from apdm_attacks.lora_files import check_rank, save_kohya, save_lora
from apdm_cli.errors import ApdmError
from apdm_cli.extension.attack import Artifact, Trainable


@dataclass
class Adapter(Trainable):
    """The trained part: adapters on the U-Net and, for lora and dora, on the text encoder.

    Attributes:
        kind: lora and dora are opened by `load_lora_weights`; loha and lokr, which diffusers does
            not take for Stable Diffusion, by `PeftModel.from_pretrained(unet, ...)`.
        unet, text_adapter: peft configurations.
        export: "kohya" writes the keys that other tools read.
    """

    kind: str
    unet: Any
    text_adapter: Any = None
    export: str = "diffusers"

    def __post_init__(self) -> None:
        self.trains_text = self.text_adapter is not None
        self.by_diffusers = self.kind in ("lora", "dora")
        check_rank(self.model.unet, self.unet)
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
            save_kohya(parts, self.unet.lora_alpha, folder)
        else:
            save_lora(parts, folder)
        return Artifact("lora", folder)
