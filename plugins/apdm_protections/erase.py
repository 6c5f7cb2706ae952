"""Erasing a concept (ESD, Gandikota et al. 2023, arXiv 2303.07345), to compare with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from apdm_cli.extension.protection import Kind, Protection, ProtectionBench
from apdm_cli.extension.protection_config import ProtectionConfig
from apdm_cli.pocket.profile import POCKET
from apdm_protections.kinds import simulated_kind
from apdm_protections.layers import Layers, only

if TYPE_CHECKING:
    from torch import Tensor

    from apdm_cli.extension.attack import Attack


class EraseConfig(ProtectionConfig):
    """The paper's numbers, and a teacher who knows the subject."""

    steps: int = Field(1000, ge=1, description="optimizer steps")
    learning_rate: float = Field(1e-5, gt=0, description="of Adam")
    batch_size: int = Field(1, ge=1, description="photos a step, and as many class pictures")
    guidance: float = Field(
        1.0, ge=0, description="η: how far beyond the class, away from the subject"
    )
    layers: Layers = Field("cross-attention", description="what is moved: ESD-x, or other layers")
    taught: int = Field(
        400,
        ge=0,
        description="steps of DreamBooth after which the teacher knows the subject; 0: φ teaches, "
        "as in the paper, whose concepts φ knows",
    )
    teacher: dict[str, Any] = Field({}, description="settings of that DreamBooth")
    prior_weight: float = Field(
        0.0, ge=0, description="weight of the class pictures' error; the paper has no such term"
    )
    max_grad_norm: float = Field(0.0, ge=0, description="clip the gradient; 0 does not")


class Erase(Protection):
    """Draws the subject's caption like the class, and away from the subject: ESD's erasure.

    L = ‖ε_θ(x⁻_t, t, c_per) − (ε_φ(x⁻_t, t, c_pr) − η [ε_s(x⁻_t, t, c_per) − ε_φ(x⁻_t, t, c_pr)])‖²

    Equations 5 and 6 with the class in the place of the empty caption, as the published code has
    it for erasing a concept from another. There the model itself knows the concept, and draws x_t;
    nobody has drawn a protected person yet, so that x_t is a noised photo, and what the subject
    adds to the class is known by s: φ after DreamBooth on the photos.
    """

    name = "erase"
    Config = EraseConfig
    presets = ("default", "pocket")
    labels: ClassVar = {"erasure": "erasure", "class_pictures": "class"}

    def preset(self, name: str) -> dict[str, Any]:
        """The defaults, or what fits the embedded model."""
        super().preset(name)
        if name == "default":
            return {}
        drawn = {key: value for key, value in POCKET.protection.items() if key != "path"}
        return {
            **drawn,
            "steps": 2000,
            "learning_rate": 1e-4,
            "batch_size": 4,
            "layers": "all",
            "taught": POCKET.attack["steps"],
            "teacher": {**POCKET.protection["path"], "batch_size": 4},
            "prior_weight": 1.0,
            "max_grad_norm": 1.0,
        }

    def check(self, config: Any, attacks: Mapping[str, Attack]) -> None:
        """DreamBooth has the settings of the teacher."""
        teacher(config, attacks)

    def steps(self, bench: ProtectionBench, config: Any) -> Iterator[Mapping[str, float]]:
        """The teacher learns, then plain steps of Adam on θ."""
        import torch

        from apdm_cli.personalization.loop import train

        denoiser, reference = bench.model.denoiser, bench.reference
        photos = bench.source(bench.photos, "photos")
        pictures = bench.source(bench.class_pictures, "class")
        count = config.batch_size
        personal, generic = bench.personal.expand(count), bench.generic.expand(count)
        student, knowing = None, reference
        if config.taught:
            student = bench.attacker(teacher(config, bench.attacks), bench.photos, "teacher")
            knowing = student.denoiser
        terms: dict[str, float] = {}

        def loss() -> Tensor:
            drawn, kept = photos.draw(count), pictures.draw(count)
            with torch.no_grad():
                (known,) = knowing.predict_each([drawn], [personal])
                (neutral,) = reference.predict_each([drawn], [generic])
            mine, prior = denoiser.predict_each(
                [drawn, kept], [personal, generic], one_forward=not bench.low_memory
            )
            erasure = (mine - erased(neutral, known, config.guidance)).square().mean()
            class_error = (prior - denoiser.target(kept)).square().mean()
            terms.update(erasure=erasure.item(), class_pictures=class_error.item())
            return erasure + config.prior_weight * class_error

        with only(denoiser.network, config.layers) as weights:
            optimizer = bench.optimizer("adamw", (0.9, 0.999), 0.0)(weights, config.learning_rate)
            bench.keep("optimizer", optimizer)
            if student is not None:
                bench.keep("teacher", student)
            first = bench.begin(config.steps)
            if student is not None and first == 0:
                for _ in student.steps(config.taught):
                    pass
            rate = config.learning_rate
            for _ in train(
                loss, weights, optimizer, range(first, config.steps), lambda _: rate,
                max_grad_norm=config.max_grad_norm,
            ):  # fmt: skip
                yield dict(terms)

    def memory_copies(self, bench: ProtectionBench, config: Any) -> float:
        """θ as usual, and the teacher while it learns."""
        learning = bench.optimizer_copies(1.0) if config.taught else 0.0
        return super().memory_copies(bench, config) + learning

    def result(self, summary: Mapping[str, Any], config: Any) -> str:
        """How near the caption is to what it shall mean."""
        return (
            f"the subject's caption is {summary['erasure']:.3g} from the erased one (per element), "
            f"and the error on class pictures is {summary['class_pictures']:.3g}"
        )


def erased(neutral: Tensor, known: Tensor, guidance: float) -> Tensor:
    """ε − η (ε_s − ε): what the subject's caption shall predict; all (B, C, H, W).

    Args:
        neutral: φ's prediction under the class's caption.
        known: the prediction under the subject's caption of who knows the subject.
        guidance: η.
    """
    return neutral - guidance * (known - neutral)


def teacher(config: EraseConfig, attacks: Mapping[str, Attack]) -> Kind:
    """DreamBooth, which trains every weight: the teacher does not move when θ does."""
    taught = {"steps": config.taught or 1}  # which a falling rate has to know
    return simulated_kind("teacher", "dreambooth", (taught, config.teacher), attacks)
