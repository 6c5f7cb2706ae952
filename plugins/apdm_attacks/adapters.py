"""Adapters around a frozen model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import (
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    PeftModel,
    get_peft_model,
    inject_adapter_in_model,
)
from torch import nn

from apdm_cli.errors import UsageError
from apdm_cli.plugin import Artifact, Trainable


@dataclass
class Adapter(Trainable):
    """Adapters on the trained network and, for lora and dora, on the text encoders.

    Attributes:
        kind: lora and dora are saved and opened as the model's family does it; loha and lokr, which
            diffusers does not take, by `PeftModel.from_pretrained(network, ...)`.
        adapter, text_adapter: peft configurations.
        export: layout of the file; "kohya" writes the keys that other tools read.
        text_rate: how many times the learning rate that of the text encoders' adapters is.
    """

    kind: str
    adapter: Any
    text_adapter: Any = None
    export: str = "diffusers"
    text_rate: float = 1.0

    def __post_init__(self) -> None:
        self.trains_text = self.text_adapter is not None
        network = self.model.trained
        check_rank(network, self.adapter)
        self._wrapped: PeftModel | None = None
        if self.kind not in ("lora", "dora"):
            self._wrapped = get_peft_model(network, self.adapter)
            return
        add_adapter(network, self.adapter)
        if self.text_adapter is None:
            return
        for name in self.model.family.text_encoders:
            # Not by transformers' own method, which takes no peft but the newest.
            inject_adapter_in_model(self.text_adapter, self.model.component(name).float())

    @property
    def names(self) -> tuple[str, ...]:
        """Of the components that have adapters."""
        family = self.model.family
        return (family.trained, *(family.text_encoders if self.text_adapter is not None else ()))

    def parameters(self) -> Sequence[nn.Parameter]:
        """The adapters' weights; everything else is frozen."""
        parts = [self.model.component(name) for name in self.names]
        return [w for part in parts for w in part.parameters() if w.requires_grad]

    def begin_again(self) -> None:
        """DoRA's magnitudes are the norms of the weights below."""
        for name in self.names:
            for layer in self.model.component(name).modules():
                for key, magnitude in getattr(layer, "lora_magnitude_vector", {}).items():
                    mine = magnitude.weight
                    magnitude.update_layer(
                        base_layer=layer.get_base_layer(),
                        lora_A=layer.lora_A[key].weight,
                        lora_B=layer.lora_B[key].weight,
                        scaling=layer.scaling[key],
                    )
                    mine.data.copy_(magnitude.weight)
                    magnitude.weight = mine

    def groups(self) -> list[dict[str, Any]]:
        """The text encoders' adapters apart, where their rate is another."""
        if self.text_adapter is None or self.text_rate == 1:
            return super().groups()
        network, *encoders = (self.model.component(name) for name in self.names)
        text = [w for part in encoders for w in part.parameters() if w.requires_grad]
        others = [w for w in network.parameters() if w.requires_grad]
        return [{"params": others}, {"params": text, "relative_rate": self.text_rate}]

    def save(self, folder: Path) -> Artifact:
        """Write what the family's or peft's loader opens, alpha included."""
        if self._wrapped is not None:
            self._wrapped.peft_config["default"].base_model_name_or_path = None
            self._wrapped.save_pretrained(folder)
            (folder / "README.md").unlink(missing_ok=True)
            return Artifact("peft", folder)
        self.model.family.save_lora(self.model.components, self.names, folder, self.export)
        return Artifact("lora", folder)


def peft_config(
    config: Any, targets: Sequence[str], lower: Sequence[str] = (), lower_rank: int = 0
) -> Any:
    """peft's configuration of adapters on the layers `targets`, of the kind and sizes of `config`.

    Args:
        config: a `LoraAttackConfig`.
        lower: layers whose adapters have rank `lower_rank` at the same alpha / rank.
    """
    chosen, rank = list(targets), config.rank
    if config.variant == "loha":
        return LoHaConfig(r=rank, alpha=config.alpha, target_modules=chosen)
    if config.variant == "lokr":
        return LoKrConfig(
            r=rank, alpha=config.alpha, target_modules=chosen, decompose_factor=config.factor
        )
    return LoraConfig(
        r=rank,
        lora_alpha=config.alpha,
        target_modules=chosen,
        use_dora=config.variant == "dora",
        init_lora_weights="gaussian" if config.init == "gaussian" else True,
        rank_pattern=dict.fromkeys(lower, lower_rank),
        alpha_pattern=dict.fromkeys(lower, config.alpha * lower_rank / rank),
    )


def add_adapter(module: Any, config: Any) -> None:
    """Put an adapter into `module`, in place; diffusers and transformers keep a note of it."""
    if hasattr(module, "add_adapter"):
        module.add_adapter(config)
    else:
        inject_adapter_in_model(config, module)


def check_rank(network: nn.Module, config: Any) -> None:
    """UsageError naming the first layer that is smaller than the rank."""
    if isinstance(config, LoKrConfig):
        return  # its factors are whole matrices then
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear) and name.endswith(tuple(config.target_modules)):
            smallest = min(module.in_features, module.out_features)
            if config.r > smallest:
                raise UsageError(
                    f"lora.rank: {config.r} is larger than the layer {name} ({smallest})",
                    f"Use at most {smallest}.",
                )
