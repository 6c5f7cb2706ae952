"""What the variants of `adaptive-objective` change."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from apdm_cli.errors import ApdmError

if TYPE_CHECKING:
    from apdm_cli.plugin import Bench

# What a variant changes of the configuration. Factors: Lion moves every weight by the whole rate;
# Adafactor multiplies by the weights' own size, about .05. Without an identifier nothing tells
# class pictures from the photos, so class-prompt leaves them out.
CHANGES: dict[str, dict[str, Any]] = {
    "no-prior": {"prior_weight": 0.0},
    "large-batch": {"batch_size": 4},
    "min-snr": {"min_snr_gamma": 5.0},
    "low-noise": {"timestep_range": (0.0, 0.5)},
    "high-noise": {"timestep_range": (0.5, 1.0)},
    "sgd": {"optimizer": "sgd", "weight_decay": 0.0},  # its decay grows with its large rate
    "adafactor": {"optimizer": "adafactor", "learning_rate": 20.0},
    "lion": {"optimizer": "lion", "learning_rate": 0.4},
    "ema": {"ema": 0.98},
    "class-prompt": {"prior_weight": 0.0},
}
FACTORS = ("batch_size", "learning_rate")
Variant = Literal[
    "no-prior", "large-batch", "min-snr", "low-noise", "high-noise", "sgd", "adafactor", "lion",
    "ema", "class-prompt", "description", "weight-noise", "interpolate", "rebalance", "warm-up",
]  # fmt: skip


def changed_settings(bench: Bench, config: Any) -> dict[str, Any]:
    """Entries of the configuration that the variant replaces."""
    changes = {
        key: getattr(config, key) * value if key in FACTORS else value
        for key, value in CHANGES.get(config.variant, {}).items()
    }
    if config.variant == "sgd":
        # About as long a step as AdamW's: rate × √N, against momentum 10 × a gradient of norm .3,
        # and twice that, which learns more on the pocket model (.68 against .60).
        count = sum(weight.numel() for weight in bench.model.trained.parameters())
        changes["learning_rate"] = config.learning_rate * math.sqrt(count) / 1.5
    return changes


def move_start(bench: Bench, variant: str, amount: float) -> None:
    """Move the weights of `bench.model` before training, where the variant does.

    weight-noise adds noise of 0.1 · `amount` of every tensor's own size; interpolate goes the
    share `amount` of the way back to the original model, which the attacker then has; rebalance
    rescales layers so that no defender's rescaling is left.
    """
    import torch

    with torch.no_grad():
        weights = list(bench.model.trained.parameters())
        if variant == "rebalance":
            from apdm_attacks.rebalancing import rebalance

            rebalance(bench.model.trained)
        if variant == "weight-noise":
            generator = bench.streams.generator("attack/weight-noise")
            for weight in weights:
                noise = torch.randn(weight.shape, generator=generator).to(weight.device)
                size = 0.1 * amount * weight.norm() / math.sqrt(weight.numel())
                weight.add_(size * noise)
        if variant == "interpolate":
            original = bench.load_original()
            if original is None:
                raise ApdmError("interpolate needs the original model", "Name it with --original.")
            for weight, other in zip(weights, original.trained.parameters(), strict=True):
                weight.lerp_(other.to(weight.device), amount)
