"""Immunizing a model against adaptation (IMMA, Zheng & Yeh, arXiv 2311.18815), to compare with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from apdm_cli.extension.protection import Protection, ProtectionBench
from apdm_cli.extension.protection_config import ProtectionConfig
from apdm_cli.pocket.profile import POCKET
from apdm_protections.layers import Layers, named

if TYPE_CHECKING:
    from torch import Tensor


class ImmaConfig(ProtectionConfig):
    """The published code's alternation and rates, for DreamBooth."""

    steps: int = Field(500, ge=1, description="rounds of adapting and immunizing")
    inner_steps: int = Field(1, ge=0, description="adaptation steps a round, on every weight")
    outer_steps: int = Field(1, ge=1, description="immunization steps a round, on `layers`")
    adaptation_rate: float = Field(5e-6, gt=0, description="of the adaptation's AdamW, α")
    learning_rate: float = Field(2e-5, gt=0, description="of the immunization's AdamW, β")
    layers: Layers = Field("attention", description="S: what is immunized")
    batch_size: int = Field(1, ge=1, description="photos a step, and as many class pictures")
    prior_weight: float = Field(
        0.0, ge=0, description="of class pictures in the adaptation, prior preservation"
    )
    keep_weight: float = Field(
        0.0,
        ge=0,
        description="of class pictures in the immunization; the paper has no such term",
    )
    max_grad_norm: float = Field(1.0, ge=0, description="clip both gradients; 0 does not")


class Imma(Protection):
    """Adapts to the photos and climbs their error with the attention layers, in turns: IMMA.

    max_{θ ∈ S} L(x⁻; θ, φ*)  where  φ* = argmin_φ L(x⁻; θ, φ)

    Algorithm 1, in which DreamBooth's φ are all the weights, those of S too: a round takes one
    step down L on everything, then one up L on S. When it is done S is kept, and everything else is
    put back to what it was. L is unbounded above.
    """

    name = "imma"
    Config = ImmaConfig
    presets = ("default", "pocket")
    labels: ClassVar = {"adapted": "adapted", "immunized": "immunized", "class_pictures": "class"}

    def preset(self, name: str) -> dict[str, Any]:
        """The defaults, or what fits the embedded model."""
        super().preset(name)
        if name == "default":
            return {}
        drawn = {key: value for key, value in POCKET.protection.items() if key != "path"}
        path = POCKET.protection["path"]
        rate = path["learning_rate"]
        return {
            **drawn,
            "steps": 1650,
            "batch_size": 4,
            "adaptation_rate": rate,
            "prior_weight": path["prior_weight"],
            "learning_rate": 4 * rate,  # as in the published code
            "keep_weight": 1.0,
        }

    def steps(self, bench: ProtectionBench, config: Any) -> Iterator[Mapping[str, float]]:
        """Rounds of adapting and immunizing."""
        import torch

        from apdm_cli.personalization.loop import train

        denoiser, untouched = bench.model.denoiser, bench.original
        weights = list(denoiser.network.parameters())
        immune = named(denoiser.network, config.layers)
        make = bench.optimizer("adamw", (0.9, 0.999), 1e-2)
        adaptation = make(weights, config.adaptation_rate)
        immunization = make(immune, config.learning_rate)
        photos = bench.source(bench.photos, "photos")
        pictures = bench.source(bench.class_pictures, "class")
        count = config.batch_size
        conditions = [bench.personal.expand(count), bench.generic.expand(count)]
        terms: dict[str, float] = {}

        def errors() -> tuple[Tensor, Tensor]:
            draws = [photos.draw(count), pictures.draw(count)]
            mine, prior = denoiser.squared_errors(
                draws, conditions, one_forward=not bench.low_memory
            )
            return mine.mean(), prior.mean()

        def adapt() -> Tensor:
            mine, prior = errors()
            terms.update(adapted=mine.item())
            return mine + config.prior_weight * prior

        def immunize() -> Tensor:
            mine, prior = errors()
            terms.update(immunized=mine.item(), class_pictures=prior.item())
            return -mine + config.keep_weight * prior

        bench.keep("adaptation", adaptation)
        bench.keep("immunization", immunization)
        limit = config.max_grad_norm
        for index in range(bench.begin(config.steps), config.steps):
            inner = range(index * config.inner_steps, (index + 1) * config.inner_steps)
            for _ in train(
                adapt, weights, adaptation, inner, lambda _: config.adaptation_rate,
                max_grad_norm=limit,
            ):  # fmt: skip
                pass
            outer = range(index * config.outer_steps, (index + 1) * config.outer_steps)
            for _ in train(
                immunize, immune, immunization, outer, lambda _: config.learning_rate,
                max_grad_norm=limit,
            ):  # fmt: skip
                pass
            yield dict(terms)
        kept = {id(weight) for weight in immune}
        with torch.no_grad():
            for weight, original in zip(weights, untouched.parameters(), strict=True):
                if id(weight) not in kept:
                    weight.copy_(original)

    def memory_copies(self, bench: ProtectionBench, config: Any) -> float:
        """θ with two optimizers, at most, and φ."""
        return super().memory_copies(bench, config) + bench.optimizer_copies(1.0) - 2

    def result(self, summary: Mapping[str, Any], config: Any) -> str:
        """What became of the errors."""
        return (
            f"the error on the photos is {summary['immunized']:.3g} after a step up and "
            f"{summary.get('adapted', float('nan')):.3g} before it, and that on class pictures "
            f"{summary['class_pictures']:.3g}"
        )
