"""The naive protection of arXiv 2511.01307: gradient ascent, to compare with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from apdm_cli.extension.protection import Protection, ProtectionBench
from apdm_cli.extension.protection_config import AdaptableConfig
from apdm_cli.pocket.profile import POCKET

if TYPE_CHECKING:
    from torch import Tensor


class NaiveConfig(AdaptableConfig):
    """The paper's numbers, for a plain loop over θ."""

    steps: int = Field(800, ge=1, description="optimizer steps")
    learning_rate: float = Field(5e-6, gt=0, description="of AdamW")
    batch_size: int = Field(1, ge=1, description="photos a step, and as many class pictures")
    prior_weight: float = Field(1.0, ge=0, description="λ of L_adv")
    max_grad_norm: float = Field(1.0, ge=0, description="clip the gradient; 0 does not")


class Naive(Protection):
    """Raises the error on the photos and keeps that of class pictures: L_adv, which collapses.

    L_adv = −‖ε_θ(x⁻_t, t, c_per) − ε‖² + λ ‖ε_θ(x^pr_t, t, c_pr) − ε‖². The first term has no lower
    bound, and the paper shows that every λ ends in a model that draws nothing well.
    """

    name = "naive"
    Config = NaiveConfig
    presets = ("default", "pocket")
    labels: ClassVar = {"photos": "photos", "class_pictures": "class"}

    def preset(self, name: str) -> dict[str, Any]:
        """The defaults, or what fits the embedded model."""
        super().preset(name)
        if name == "default":
            return {}
        drawn = {key: value for key, value in POCKET.protection.items() if key != "path"}
        return {**drawn, "steps": 100, "learning_rate": 1e-4, "batch_size": 4}

    def steps(self, bench: ProtectionBench, config: Any) -> Iterator[Mapping[str, float]]:
        """Plain steps of AdamW on θ."""
        from apdm_cli.personalization.loop import train
        from apdm_cli.protection.dpo import naive_protection_loss

        denoiser, weights = bench.model.denoiser, bench.weights
        optimizer = bench.optimizer("adamw", (0.9, 0.999), 1e-2)(weights, config.learning_rate)
        photos = bench.source(bench.photos, "photos")
        pictures = bench.source(bench.class_pictures, "class")
        count = config.batch_size
        conditions = [bench.personal.expand(count), bench.generic.expand(count)]
        terms: dict[str, float] = {}

        def loss() -> Tensor:
            draws = [photos.draw(count), pictures.draw(count)]
            one_forward = not bench.low_memory
            mine, prior = denoiser.squared_errors(draws, conditions, one_forward=one_forward)
            terms.update(photos=mine.mean().item(), class_pictures=prior.mean().item())
            return naive_protection_loss(mine) + config.prior_weight * prior.mean()

        bench.keep("optimizer", optimizer)
        steps = range(bench.begin(config.steps), config.steps)
        rate = config.learning_rate
        for _ in train(
            loss, weights, optimizer, steps, lambda _: rate, max_grad_norm=config.max_grad_norm
        ):
            yield dict(terms)

    def result(self, summary: Mapping[str, Any], config: Any) -> str:
        """What became of both errors."""
        return (
            f"the error is {summary['photos']:.3g} on the photos and "
            f"{summary['class_pictures']:.3g} on class pictures"
        )
