"""Anti-DreamBooth (Van Le et al. 2023, arXiv 2303.15433): photos that mislead their learner."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from apdm_cli.extension.image_protection import ImageProtection, ImageProtectionConfig
from apdm_cli.extension.protection import Inputs, ProtectionBench
from apdm_cli.pocket.profile import POCKET

if TYPE_CHECKING:
    from apdm_cli.diffusion.denoiser import Denoiser
    from apdm_cli.personalization.dreambooth import PictureSource
    from apdm_cli.subject import Subject


class AntiDreamBoothConfig(ImageProtectionConfig):
    """The paper's numbers, with the rates of its published code for Stable Diffusion 2.1.

    η = 0.05 and α = 0.005 of [-1, 1]; 50 iterations, each of 3 steps of the surrogate and 6 of
    projected gradient ascent.
    """

    steps: int = Field(50, ge=1, description="N: iterations of learning and perturbing")
    surrogate_steps: int = Field(
        3, ge=1, description="steps of DreamBooth in each: of θ′ on the photos, and of θ on theirs"
    )
    ascent_steps: int = Field(6, ge=1, description="steps of the perturbation in each")
    alpha: float = Field(0.005, gt=0, le=2, description="α: size of a step, of [-1, 1]")
    learning_rate: float = Field(5e-7, gt=0, description="of DreamBooth's AdamW, fresh every time")
    batch_size: int = Field(1, ge=1, description="photos a step of it, and as many class pictures")
    prior_weight: float = Field(1.0, ge=0, description="λ of prior preservation")
    max_grad_norm: float = Field(1.0, ge=0, description="clip DreamBooth's gradient; 0 does not")
    ascent_batch: int = Field(
        4, ge=1, description="photos in memory at once; it changes the result by rounding only"
    )


class AntiDreamBooth(ImageProtection):
    """Perturbs the photos against a model that learns them meanwhile: Anti-DreamBooth, ASPL.

    δ* = argmax_{‖δ‖∞ ≤ η} L_cond(θ*, x + δ)  where  θ* = argmin_θ L_db(θ, x + δ)

    Alternating surrogate and perturbation learning (ASPL). L_cond = ‖ε_θ(x_t, t, c_per) − ε‖² and
    L_db is DreamBooth's loss. What is learnt, and not the model, is what changes.
    """

    name = "anti-dreambooth"
    Config = AntiDreamBoothConfig
    presets = ("paper", "pocket")
    labels: ClassVar = {"ascent": "L_cond", "clean": "clean", "perturbed": "perturbed"}

    def titles(self, config: Any) -> Mapping[str, str]:
        """What is climbed, and what the surrogates' own losses are meanwhile."""
        return {
            "ascent": "error on the perturbed photos (L_cond) that is climbed",
            "clean": "loss of the surrogate that learns the photos",
            "perturbed": "loss of the surrogate that learns the perturbed photos",
        }

    def preset(self, name: str) -> dict[str, Any]:
        """The paper's numbers, or what fits the embedded model."""
        super().preset(name)
        if name == "paper":
            return {}
        drawn = {key: value for key, value in POCKET.protection.items() if key != "path"}
        path = POCKET.protection["path"]
        return {**drawn, **path, "batch_size": 4, "steps": 250}

    def inputs(self, subject: Subject, config: Any) -> Inputs:
        """Class pictures, where the surrogates have prior preservation."""
        return Inputs(config.prior_pictures if config.prior_weight > 0 else 0)

    def steps(self, bench: ProtectionBench, config: Any) -> Iterator[Mapping[str, float]]:
        """The alternation, as the paper's section 4.2 has it."""
        import copy

        import torch

        from apdm_cli.personalization.dreambooth import DreamBoothLoss
        from apdm_cli.personalization.loop import train

        # Not recorded: the ascent needs the gradient of pixels, and not that of weights.
        model = bench.model.launched()
        theta = model.denoiser
        surrogate = theta.with_network(copy.deepcopy(theta.network))
        images, ascent = bench.perturbation, Ascent(bench, config)
        clean = bench.source(bench.photos, "clean")
        perturbed = bench.source(bench.photos, "perturbed")
        generic = bench.source(bench.class_pictures, "class") if config.prior_weight > 0 else None

        def learn(denoiser: Denoiser, photos: PictureSource) -> float:
            """argmin_θ L_db, a few steps of it; returns the mean loss."""
            loss = DreamBoothLoss(
                denoiser,
                photos,
                generic,
                lambda: bench.personal,
                lambda: bench.generic,
                config.batch_size,
                config.prior_weight,
                one_forward=not bench.low_memory,
            )
            weights, rate = list(denoiser.network.parameters()), config.learning_rate
            optimizer = bench.optimizer("adamw", (0.9, 0.999), 1e-2)(weights, rate)
            steps = train(
                loss, weights, optimizer, range(config.surrogate_steps), lambda _: rate,
                max_grad_norm=config.max_grad_norm,
            )  # fmt: skip
            losses = [step.loss for step in steps]
            for weight in weights:
                weight.grad = None
            return sum(losses) / len(losses)

        for _ in range(bench.begin(config.steps), config.steps):
            terms = {}
            with torch.no_grad():  # θ′ ← θ
                for mine, now in zip(
                    surrogate.network.parameters(), theta.network.parameters(), strict=True
                ):
                    mine.copy_(now)
            terms["clean"] = learn(surrogate, clean)
            climbed = [ascent.step(surrogate) for _ in range(config.ascent_steps)]
            terms["ascent"] = sum(climbed) / len(climbed)
            perturbed.pictures = model.encode_pixels(images.pixels)
            terms["perturbed"] = learn(theta, perturbed)
            yield terms

    def memory_copies(self, bench: ProtectionBench, config: Any) -> float:
        """θ and θ′, one of which has a gradient and moments. There is no φ."""
        return bench.trained_copies() + 1.0

    def losses(self, config: Any) -> Mapping[str, Sequence[int]]:
        """DreamBooth on both, and the ascent through θ′."""
        learning = config.batch_size * (2 if config.prior_weight > 0 else 1)
        return {"θ": (learning,), "θ′": (learning, config.ascent_batch)}

    def result(self, summary: Mapping[str, Any], config: Any) -> str:
        """What became of the errors, and the bound."""
        return (
            f"with no value changed by more than {config.eta:g} of [-1, 1], the error of a model "
            f"that learns the photos is {summary['ascent']:.3g} on the perturbed ones"
        )


class Ascent:
    """δ ← Π_η (δ + α sign ∇_δ L_cond(θ, x + δ)), through the autoencoder.

    Args:
        config: an `AntiDreamBoothConfig`.
    """

    def __init__(self, bench: ProtectionBench, config: Any) -> None:
        self.bench, self.alpha = bench, config.alpha
        self.together = 1 if bench.low_memory else config.ascent_batch
        self._streams = [
            bench.streams.generator(f"protect/perturbation/{name}")
            for name in ("posterior", "noise", "timesteps")
        ]

    def step(self, denoiser: Denoiser) -> float:
        """One step with noise and a timestep for every photo; returns L_cond before it.

        Every photo has an error of its own, whose gradient's sign is that of their mean: so it does
        not matter how many are in memory at once.
        """
        import torch

        from apdm_cli.devices import sent
        from apdm_cli.diffusion.denoiser import NoisyDraw
        from apdm_cli.diffusion.process import WHOLE_SCHEDULE

        images, model = self.bench.perturbation, self.bench.model
        posterior, noises, times = self._streams
        shape = (len(images), *model.latent_shape)
        drawn = (
            sent(torch.randn(shape, generator=posterior), model.device),
            sent(torch.randn(shape, generator=noises), model.device),
            sent(model.process.draw_timesteps(len(images), WHOLE_SCHEDULE, times), model.device),
        )
        signs, total = [], 0.0
        for pixels, *draws in zip(
            *(each.split(self.together) for each in (images.pixels, *drawn)), strict=True
        ):
            pixels = pixels.detach().requires_grad_()
            latents = model.posterior(pixels)
            draw = NoisyDraw(latents.mean + latents.std * draws[0], draws[1], draws[2])
            condition = self.bench.personal.expand(len(pixels))
            (error,) = denoiser.squared_errors([draw], [condition])
            (gradient,) = torch.autograd.grad(error.mean(), pixels)
            signs.append(gradient.sign())
            total += error.detach().mean().item() * len(pixels)
        images.add(self.alpha * torch.cat(signs))
        return total / len(images)
