"""A model that breaks when it is fine-tuned (SEAM, arXiv 2505.12186), to compare with."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from apdm_cli.extension.protection import Protection, ProtectionBench
from apdm_cli.extension.protection_config import ProtectionConfig
from apdm_cli.pocket.profile import POCKET

if TYPE_CHECKING:
    from torch import Tensor

    Gradient = Sequence[Tensor]


class SelfDestructConfig(ProtectionConfig):
    """Weights of the three terms, and the step of the finite difference."""

    steps: int = Field(500, ge=1, description="optimizer steps")
    learning_rate: float = Field(2e-5, gt=0, description="of AdamW")
    batch_size: int = Field(1, ge=1, description="photos a step, and as many class pictures")
    alpha: float = Field(1.0, ge=0, description="α: weight of what is to be kept, L_up")
    beta: float = Field(1e-2, ge=0, description="β: weight of the coupling, L_sd")
    epsilon: float = Field(1e-3, gt=0, description="ε: distance at which gradients are compared")
    max_grad_norm: float = Field(1.0, ge=0, description="clip the gradient; 0 does not")


class SelfDestruct(Protection):
    """Couples the photos to the class: who learns the photos unlearns the class. SEAM's loss.

    L = L_ul + α L_up + β L_sd,   L_sd = cos(g_a, g_b)

    g_a is the gradient of the error on the photos, which an attack follows; g_b that on class
    pictures. Where they point in opposite directions, every step of the attack costs the class.
    L_ul = −log(1 + e(x⁻, c_per)) makes the way of the attack longer. L_up is the error on class
    pictures under the subject's caption (in the paper, on harmful prompts that are refused) and
    under their own. The paper's L_ul is a mean over the layers of a language model, of which a
    denoiser has no equivalent: the last one is taken.
    """

    name = "self-destruct"
    Config = SelfDestructConfig
    presets = ("default", "pocket")
    recordable = False
    in_float32 = True
    labels: ClassVar = {"photos": "photos", "class_pictures": "class", "cosine": "cos"}

    def preset(self, name: str) -> dict[str, Any]:
        """The defaults, or what fits the embedded model."""
        super().preset(name)
        if name == "default":
            return {}
        drawn = {key: value for key, value in POCKET.protection.items() if key != "path"}
        # β is ten times the default: at 0.01 the cosine hardly moved in the first steps.
        return {**drawn, "steps": 730, "learning_rate": 1e-4, "batch_size": 4, "beta": 0.1}

    def steps(self, bench: ProtectionBench, config: Any) -> Iterator[Mapping[str, float]]:
        """Steps of AdamW on θ, each with five gradients."""
        import torch
        from torch import nn

        from apdm_cli.personalization.loop import NonFiniteLoss

        denoiser = bench.model.denoiser.launched
        exact = replace(denoiser, dtype=torch.float32)
        weights = list(denoiser.network.parameters())
        optimizer = bench.optimizer("adamw", (0.9, 0.999), 1e-2)(weights, config.learning_rate)
        photos = bench.source(bench.photos, "photos")
        pictures = bench.source(bench.class_pictures, "class")
        count = config.batch_size
        personal, generic = bench.personal.expand(count), bench.generic.expand(count)

        bench.keep("optimizer", optimizer)
        for index in range(bench.begin(config.steps), config.steps):
            drawn, kept = photos.draw(count), pictures.draw(count)

            def attack(drawn: Any = drawn) -> Tensor:
                return exact.squared_errors([drawn], [personal])[0].mean()

            def benign(kept: Any = kept) -> Tensor:
                return exact.squared_errors([kept], [generic])[0].mean()

            refused = denoiser.squared_errors([kept], [personal])[0].mean()
            g_r = torch.autograd.grad(refused, weights)
            with _without_rounding():
                both = coupled(attack, benign, weights, config.epsilon)
            ascent = -1 / (1 + both.attack_loss)  # of −log(1 + e), times the gradient of e
            parts = zip(weights, both.g_a, both.g_b, g_r, both.gradient, strict=True)
            for weight, g_a, g_b, g_refused, g_sd in parts:
                kept_gradient = config.alpha * (g_b + g_refused)
                weight.grad = ascent * g_a + kept_gradient + config.beta * g_sd
            norm = nn.utils.clip_grad_norm_(weights, config.max_grad_norm or math.inf)
            if not math.isfinite(norm.item()):
                raise NonFiniteLoss("self-destruction loss", index)
            optimizer.step()
            yield {
                "photos": both.attack_loss,
                "class_pictures": both.benign_loss,
                "refused": refused.item(),
                "cosine": both.cosine,
            }

    def memory_copies(self, bench: ProtectionBench, config: Any) -> float:
        """θ with its optimizer, six gradients more, and a copy of θ to come back to; no φ."""
        return bench.optimizer_copies(1.0) + 7

    def losses(self, config: Any) -> Mapping[str, Sequence[int]]:
        """Photos and class pictures, one after the other."""
        return {"θ": (config.batch_size,)}

    def result(self, summary: Mapping[str, Any], config: Any) -> str:
        """The errors, and how opposite the two gradients are."""
        return (
            f"the gradients on photos and class pictures have a cosine of {summary['cosine']:.2f}; "
            f"the error is {summary['photos']:.3g} on the photos and "
            f"{summary['class_pictures']:.3g} on class pictures"
        )


@dataclass(frozen=True)
class Coupled:
    """Two losses at θ, how their gradients lie to each other, and where that falls.

    Attributes:
        attack_loss, benign_loss: their values.
        g_a, g_b: their gradients.
        cosine: L_sd = cos(g_a, g_b).
        gradient: ∇L_sd.
    """

    attack_loss: float
    benign_loss: float
    g_a: Gradient
    g_b: Gradient
    cosine: float
    gradient: Gradient


def coupled(
    attack: Callable[[], Tensor],
    benign: Callable[[], Tensor],
    weights: Sequence[Tensor],
    epsilon: float,
) -> Coupled:
    """L_sd = cos(g_a, g_b), and its gradient without a Hessian.

    ∇L_sd ≈ 1/ε [ (g_b(θ + ε (ĝ_a − c ĝ_b)) − g_b) / ‖g_b‖
                + (g_a(θ + ε (ĝ_b − c ĝ_a)) − g_a) / ‖g_a‖ ]

    where ĝ = g / ‖g‖ and c = cos(g_a, g_b): the products of the Hessians of both losses with what
    each gradient has across the other, as finite differences.

    Args:
        attack, benign: the two losses on fixed draws, as functions of `weights` as they are. In
            half precision ε is lost in the rounding of the weights: they compute in float32.
        weights: θ; moved and put back.
        epsilon: ε.
    """
    import torch

    def at_present(loss: Callable[[], Tensor]) -> tuple[float, Gradient]:
        value = loss()
        return value.item(), torch.autograd.grad(value, weights)

    attack_loss, g_a = at_present(attack)
    benign_loss, g_b = at_present(benign)
    norm_a, norm_b = _norm(g_a), _norm(g_b)
    cosine = sum(float((a * b).sum()) for a, b in zip(g_a, g_b, strict=True)) / (norm_a * norm_b)
    across_b = [a / norm_a - cosine * b / norm_b for a, b in zip(g_a, g_b, strict=True)]
    across_a = [b / norm_b - cosine * a / norm_a for a, b in zip(g_a, g_b, strict=True)]
    with _moved(weights, across_b, epsilon):
        _, moved_b = at_present(benign)
    with _moved(weights, across_a, epsilon):
        _, moved_a = at_present(attack)
    gradient = [
        (later_b - b) / (epsilon * norm_b) + (later_a - a) / (epsilon * norm_a)
        for later_b, b, later_a, a in zip(moved_b, g_b, moved_a, g_a, strict=True)
    ]
    return Coupled(attack_loss, benign_loss, g_a, g_b, cosine, gradient)


def _without_rounding() -> contextlib.AbstractContextManager[None]:
    """Inside, a card's convolutions in float32 do not round to TF32, which is as coarse as ε."""
    from torch.backends import cudnn

    return cudnn.flags(
        enabled=cudnn.enabled,
        benchmark=cudnn.benchmark,
        deterministic=cudnn.deterministic,
        allow_tf32=False,
    )


@contextlib.contextmanager
def _moved(weights: Sequence[Tensor], direction: Gradient, distance: float) -> Iterator[None]:
    """Inside the block, `weights` are that far in that direction; then exactly what they were."""
    import torch

    before = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for weight, along in zip(weights, direction, strict=True):
            weight.add_(along, alpha=distance)
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, old in zip(weights, before, strict=True):
                weight.copy_(old)


def _norm(gradient: Gradient) -> float:
    """Of all tensors as one vector, never 0."""
    return max(math.sqrt(sum(float(part.square().sum()) for part in gradient)), 1e-12)
