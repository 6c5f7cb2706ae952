"""Non-fine-tunable learning (SOPHON, Deng et al. 2024, arXiv 2404.12699), to compare with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, model_validator

from apdm_cli.extension.protection import Kind, Protection, ProtectionBench
from apdm_cli.extension.protection_config import ProtectionConfig
from apdm_cli.pocket.profile import POCKET
from apdm_protections.kinds import simulated_kind

if TYPE_CHECKING:
    from torch import Tensor

    from apdm_cli.extension.attack import Attack


class SophonConfig(ProtectionConfig):
    """The published code's numbers for diffusion models; the rates are those of α and β there."""

    steps: int = Field(1000, ge=1, description="rounds of suppression and reinforcement")
    attack: str = Field("dreambooth", description="the attack that is simulated")
    path: dict[str, Any] = Field({}, description="settings of that attack")
    inner_steps: int = Field(50, ge=1, description="K: attack steps of a round, from θ every time")
    protect_every: int = Field(
        1, ge=1, description="take the suppressing gradient at every k-th attack step (TAR)"
    )
    learning_rate: float = Field(1e-4, gt=0, description="of the suppression's Adam")
    reinforcement_steps: int = Field(1, ge=0, description="steps on class pictures a round")
    reinforcement_rate: float = Field(5e-4, gt=0, description="of the reinforcement's AdamW")
    batch_size: int = Field(
        1, ge=1, description="photos per suppressing gradient, and class pictures"
    )
    max_grad_norm: float = Field(0.5, ge=0, description="clip the suppressing gradient; 0 does not")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.inner_steps < self.protect_every:
            raise ValueError(
                f"protect_every = {self.protect_every} takes no gradient in inner_steps = "
                f"{self.inner_steps} attack steps"
            )
        return self


class Sophon(Protection):
    """Suppresses what an attack learns by a bounded loss along its path, and reinforces the class.

    min_θ  1/K Σ_i ‖ε_θ′ᵢ(x⁻_t, t, c_per)‖²  +  ‖ε_θ(x^pr_t, t, c_pr) − ε‖²

    θ′ᵢ is θ after i attack steps. The first term is the denial-of-service loss: predicting nothing
    is a goal that can be reached, where raising the error is not. The two terms take turns, each
    with an optimizer of its own, and no gradient flows through the attack steps. That a gradient is
    taken at every k-th of them only is TAR's (Tamirisa et al. 2024, arXiv 2408.00761).
    """

    name = "sophon"
    Config = SophonConfig
    presets = ("default", "pocket")
    labels: ClassVar = {"denial": "denial", "path_loss": "path", "class_pictures": "class"}

    def preset(self, name: str) -> dict[str, Any]:
        """The defaults, or what fits the embedded model."""
        super().preset(name)
        if name == "default":
            return {}
        drawn = {key: value for key, value in POCKET.protection.items() if key != "path"}
        return {
            **drawn,
            "steps": 240,
            "path": {**POCKET.protection["path"], "batch_size": 4},
            "inner_steps": 8,
            "protect_every": 2,
            "learning_rate": 1e-4,
            "reinforcement_rate": 1e-4,
            "reinforcement_steps": 2,
            "batch_size": 4,
        }

    def check(self, config: Any, attacks: Mapping[str, Attack]) -> None:
        """The attack is there, and has the settings."""
        simulated(config, attacks)

    def steps(self, bench: ProtectionBench, config: Any) -> Iterator[Mapping[str, float]]:
        """Rounds of fine-tuning suppression and normal training reinforcement."""
        from torch import nn

        from apdm_cli.personalization.loop import NonFiniteLoss, train

        denoiser = bench.model.denoiser
        weights = list(denoiser.network.parameters())
        suppression = bench.optimizer("adamw", (0.9, 0.999), 0.0)(weights, config.learning_rate)
        reinforcement = bench.optimizer("adamw", (0.9, 0.999), 1e-2)(
            weights, config.reinforcement_rate
        )
        attacker = bench.attacker(
            simulated(config, bench.attacks), bench.photos, "path", one_forward=not bench.low_memory
        )
        photos = bench.source(bench.photos, "photos")
        pictures = bench.source(bench.class_pictures, "class")
        count = config.batch_size
        generic = bench.generic.expand(count)
        gradients = config.inner_steps // config.protect_every
        terms: dict[str, float] = {}

        def reinforce() -> Tensor:
            (error,) = denoiser.squared_errors([pictures.draw(count)], [generic])
            terms.update(class_pictures=error.mean().item())
            return error.mean()

        bench.keep("suppression", suppression)
        bench.keep("reinforcement", reinforcement)
        for index in range(bench.begin(config.steps), config.steps):
            terms.update(denial=0.0, class_pictures=math.nan)
            suppression.zero_grad()
            attacker.restart()
            for number, step in enumerate(attacker.steps(config.inner_steps), start=1):
                terms.update(path_loss=step.loss)
                if number % config.protect_every:
                    continue
                attacker.optimizer.zero_grad()
                personal = (attacker.personal or bench.personal).expand(count)
                with attacker.open_to_gradients():
                    (found,) = attacker.denoiser.predict_each([photos.draw(count)], [personal])
                    denial = denial_of_service(found) / gradients
                    denial.backward()
                terms["denial"] += denial.item()
                attacker.accumulate()
            norm = nn.utils.clip_grad_norm_(weights, config.max_grad_norm or math.inf)
            if not math.isfinite(norm.item()):
                raise NonFiniteLoss("suppression loss", index)
            suppression.step()
            taken = range(
                index * config.reinforcement_steps, (index + 1) * config.reinforcement_steps
            )
            for _ in train(
                reinforce, weights, reinforcement, taken, lambda _: config.reinforcement_rate
            ):
                pass
            yield dict(terms)

    def shortened(self, config: Any) -> tuple[Any, float]:
        """Rounds with as many attack steps as there are to one gradient."""
        part = config.protect_every
        return config.model_copy(update={"inner_steps": part}), config.inner_steps / part

    def memory_copies(self, bench: ProtectionBench, config: Any) -> float:
        """θ with two optimizers, and the attacker; no φ."""
        kind = simulated(config, bench.attacks)
        own = bench.optimizer_copies(bench.trained_share(kind), kind.config.optimizer)
        return 2 * bench.optimizer_copies(1.0) - 2 + own

    def result(self, summary: Mapping[str, Any], config: Any) -> str:
        """How much an attacked model still predicts, and what class pictures cost."""
        return (
            f"under attack the prediction on the photos is {summary['denial']:.3g} (mean square; "
            f"1 is noise), and the error on class pictures {summary['class_pictures']:.3g}"
        )


def denial_of_service(prediction: Tensor) -> Tensor:
    """L_DoS = ‖ε_θ‖², the mean over everything of (B, C, H, W): 0 where nothing is predicted."""
    return prediction.square().mean()


def simulated(config: SophonConfig, attacks: Mapping[str, Attack]) -> Kind:
    """The simulated attack with its settings. UsageError where it cannot be simulated so."""
    return simulated_kind("path", config.attack, (config.path,), attacks, named_in="attack")
