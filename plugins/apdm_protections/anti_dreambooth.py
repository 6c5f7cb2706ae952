"""Anti-DreamBooth (Van Le et al. 2023, arXiv 2303.15433): photos that mislead their learner."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from apdm_cli.extension.image_protection import ImageProtection, ImageProtectionConfig
from apdm_cli.extension.protection import Inputs, ProtectionBench
from apdm_cli.pocket.profile import POCKET

if TYPE_CHECKING:
    from torch.nn import Parameter
    from torch.optim import Optimizer

    from apdm_cli.diffusion.denoiser import Denoiser
    from apdm_cli.personalization.dreambooth import DreamBoothLoss, PictureSource
    from apdm_cli.subject import Subject

ADAMW = ("adamw", (0.9, 0.999), 1e-2)  # of DreamBooth


class AntiDreamBoothConfig(ImageProtectionConfig):
    """The paper's numbers, with the rates of its published code for Stable Diffusion 2.1.

    η = 0.05 and α = 0.005 of [-1, 1]; 50 iterations, each of 3 steps of the surrogate and 6 of
    projected gradient ascent. The preset "fsmg" has the code's numbers for a fixed surrogate.
    """

    surrogate: Literal["alternating", "fixed"] = Field(
        "alternating",
        description="alternating: it learns and is misled in turns (ASPL); fixed: it learns the "
        "photos first, in all iterations, and is misled in as many then (FSMG)",
    )

    steps: int = Field(50, ge=1, description="N: iterations of learning and perturbing")
    surrogate_steps: int = Field(
        3,
        ge=1,
        description="steps of DreamBooth in each: of θ′ on the photos, and of θ on the perturbed "
        "ones; a fixed surrogate is θ, which learns the photos",
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

    def description(self) -> dict[str, Any]:
        """Without what changes nothing, so that runs from before there was a choice go on."""
        plain = self.surrogate == "alternating"
        return self.model_dump(mode="json", exclude={"surrogate"} if plain else None)


class AntiDreamBooth(ImageProtection):
    """Perturbs the photos against a model that learns them: Anti-DreamBooth, ASPL or FSMG.

    δ* = argmax_{‖δ‖∞ ≤ η} L_cond(θ*, x + δ)

    Alternating surrogate and perturbation learning (ASPL): θ* = argmin_θ L_db(θ, x + δ), in turns
    with δ. Fully-trained surrogate model guidance (FSMG): θ* = argmin_θ L_db(θ, x), once. L_cond =
    ‖ε_θ(x_t, t, c_per) − ε‖² and L_db is DreamBooth's loss. What is learnt, and not the model, is
    what changes.
    """

    name = "anti-dreambooth"
    Config = AntiDreamBoothConfig
    presets = ("paper", "pocket", "fsmg")
    recordable = False
    labels: ClassVar = {"ascent": "L_cond", "clean": "clean", "perturbed": "perturbed"}

    def titles(self, config: Any) -> Mapping[str, str]:
        """What is climbed, and what the surrogates' own losses are meanwhile."""
        found = {
            "ascent": "error on the perturbed photos (L_cond) that is climbed",
            "clean": "loss of the surrogate that learns the photos",
        }
        if config.surrogate == "alternating":
            found["perturbed"] = "loss of the surrogate that learns the perturbed photos"
        return found

    def preset(self, name: str) -> dict[str, Any]:
        """The paper's numbers, for one surrogate or the other, or what fits the embedded model."""
        super().preset(name)
        if name == "paper":
            return {}
        if name == "fsmg":  # 1000 steps of DreamBooth in batches of 2, and 100 of the perturbation
            own = {"steps": 100, "surrogate_steps": 10, "ascent_steps": 1, "batch_size": 2}
            return {"surrogate": "fixed", **own}
        drawn = {key: value for key, value in POCKET.protection.items() if key != "path"}
        path = POCKET.protection["path"]
        return {**drawn, **path, "batch_size": 4, "steps": 250}

    def inputs(self, subject: Subject, config: Any) -> Inputs:
        """Class pictures, where the surrogates have prior preservation."""
        return Inputs(config.prior_pictures if config.prior_weight > 0 else 0)

    def steps(self, bench: ProtectionBench, config: Any) -> Iterator[Mapping[str, float]]:
        """The paper's section 4.2, with the surrogate that is chosen."""
        chosen = fixed_surrogate if config.surrogate == "fixed" else alternating
        return chosen(bench, config)

    def shortened(self, config: Any) -> tuple[Any, float]:
        """Of a fixed surrogate: learning, with as many passes as a step has on the average."""
        if config.surrogate == "alternating":
            return config, 1.0
        passes = (config.surrogate_steps + config.ascent_steps) / 2
        short = max(1, round(passes))
        return config.model_copy(update={"surrogate_steps": short}), passes / short

    def memory_copies(self, bench: ProtectionBench, config: Any) -> float:
        """θ, and θ′ beside it in turns, one of which has a gradient and moments. There is no φ."""
        return bench.trained_copies() + float(config.surrogate == "alternating")

    def losses(self, config: Any) -> Mapping[str, Sequence[int]]:
        """DreamBooth on both, and the ascent through θ′, or through θ where it is fixed."""
        learning = config.batch_size * (2 if config.prior_weight > 0 else 1)
        if config.surrogate == "fixed":
            return {"θ": (learning, config.ascent_batch)}
        return {"θ": (learning,), "θ′": (learning, config.ascent_batch)}

    def result(self, summary: Mapping[str, Any], config: Any) -> str:
        """What became of the errors, and the bound."""
        return (
            f"with no value changed by more than {config.eta:g} of [-1, 1], the error of a model "
            f"that learns the photos is {summary['ascent']:.3g} on the perturbed ones"
        )


def alternating(bench: ProtectionBench, config: Any) -> Iterator[Mapping[str, float]]:
    """ASPL: θ′ ← θ learns the photos, δ misleads it, and θ learns what it has been made of them."""
    import copy

    import torch

    # Not recorded: the ascent needs the gradient of pixels, and not that of weights.
    model = bench.model.launched()
    theta = model.denoiser
    surrogate = theta.with_network(copy.deepcopy(theta.network))
    images, ascent = bench.perturbation, Ascent(bench, config)
    clean = bench.source(bench.photos, "clean")
    perturbed = bench.source(bench.photos, "perturbed")

    def learn(denoiser: Denoiser, photos: PictureSource) -> float:
        """argmin_θ L_db, a few steps of it; returns the mean loss."""
        weights, rate = list(denoiser.network.parameters()), config.learning_rate
        optimizer = bench.optimizer(*ADAMW)(weights, rate)
        steps = range(config.surrogate_steps)
        return learnt(
            dreambooth(bench, config, denoiser, photos), weights, optimizer, steps, config
        )

    for _ in range(bench.begin(config.steps), config.steps):
        terms = {}
        with torch.no_grad():  # θ′ ← θ
            for mine, now in zip(
                surrogate.network.parameters(), theta.network.parameters(), strict=True
            ):
                mine.copy_(now)
        terms["clean"] = learn(surrogate, clean)
        terms["ascent"] = ascent.steps(surrogate)
        perturbed.pictures = model.encode_pixels(images.pixels)
        terms["perturbed"] = learn(theta, perturbed)
        yield terms


def fixed_surrogate(bench: ProtectionBench, config: Any) -> Iterator[Mapping[str, float]]:
    """FSMG: θ learns the photos, in one training, and stays as it then is while δ misleads it."""
    theta = bench.model.launched().denoiser  # not recorded, as above
    weights = list(theta.network.parameters())
    optimizer = bench.optimizer(*ADAMW)(weights, config.learning_rate)
    loss = dreambooth(bench, config, theta, bench.source(bench.photos, "clean"))
    ascent, each = Ascent(bench, config), config.surrogate_steps
    bench.keep("optimizer", optimizer)
    for index in range(bench.begin(2 * config.steps), 2 * config.steps):
        if index < config.steps:
            taken = range(index * each, (index + 1) * each)
            terms = {"clean": learnt(loss, weights, optimizer, taken, config), "ascent": math.nan}
        else:
            terms = {"clean": math.nan, "ascent": ascent.steps(theta)}
        yield terms


def dreambooth(
    bench: ProtectionBench, config: Any, denoiser: Denoiser, photos: PictureSource
) -> DreamBoothLoss:
    """L_db of `denoiser` on `photos`, beside class pictures where there is a prior."""
    from apdm_cli.personalization.dreambooth import DreamBoothLoss

    return DreamBoothLoss(
        denoiser,
        photos,
        bench.source(bench.class_pictures, "class") if config.prior_weight > 0 else None,
        lambda: bench.personal,
        lambda: bench.generic,
        config.batch_size,
        config.prior_weight,
        one_forward=not bench.low_memory,
    )


def learnt(
    loss: DreamBoothLoss,
    weights: list[Parameter],
    optimizer: Optimizer,
    steps: range,
    config: Any,
) -> float:
    """Take `steps` of a training; returns their mean loss, and leaves no gradient."""
    from apdm_cli.personalization.loop import train

    losses = [
        step.loss
        for step in train(
            loss, weights, optimizer, steps, lambda _: config.learning_rate,
            max_grad_norm=config.max_grad_norm,
        )
    ]  # fmt: skip
    for weight in weights:
        weight.grad = None
    return sum(losses) / len(losses)


class Ascent:
    """δ ← Π_η (δ + α sign ∇_δ L_cond(θ, x + δ)), through the autoencoder.

    Args:
        config: an `AntiDreamBoothConfig`.
    """

    def __init__(self, bench: ProtectionBench, config: Any) -> None:
        self.bench, self.alpha, self.count = bench, config.alpha, config.ascent_steps
        self.together = 1 if bench.low_memory else config.ascent_batch
        self._streams = [
            bench.streams.generator(f"protect/perturbation/{name}")
            for name in ("posterior", "noise", "timesteps")
        ]

    def steps(self, denoiser: Denoiser) -> float:
        """`ascent_steps` of them; returns the mean of L_cond."""
        climbed = [self.step(denoiser) for _ in range(self.count)]
        return sum(climbed) / len(climbed)

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
