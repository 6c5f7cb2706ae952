"""Small pieces for tests of the method: a real but tiny U-Net, and latents out of a generator."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from apdm_cli.config import resolve
from apdm_cli.diffusion.condition import Condition
from apdm_cli.diffusion.denoiser import Denoiser, NoisyDraw
from apdm_cli.diffusion.latents import LatentDistribution
from apdm_cli.diffusion.process import Diffusion
from apdm_cli.personalization.dreambooth import DreamBoothLoss, PictureSource
from apdm_cli.personalization.optimizers import adamw
from apdm_cli.protection.attackers import (
    Crew,
    Life,
    Lives,
    PersistentAttackers,
    RestartedPath,
    SimulatedAttacker,
)
from apdm_cli.protection.l2p import LearningToProtect
from apdm_cli.protection.objective import PairSource, ProtectionObjective
from apdm_cli.protection.preservation import ClassPictures, Distillation, PreservationTerm
from apdm_cli.protection.settings import ProtectionSettings
from apdm_cli.randomness import Streams
from apdm_families.stable_diffusion import StableDiffusion

SIDE, CHANNELS, WIDTH = 4, 4, 8
FAMILY = StableDiffusion()


def schedule(prediction_type: str = "epsilon") -> DDPMScheduler:
    """diffusers' own schedule: what ours is held against."""
    return DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
    )


def process(prediction_type: str = "epsilon") -> Diffusion:
    return Diffusion(schedule().alphas_cumprod, prediction_type)


def denoiser(prediction_type: str = "epsilon", seed: int = 0) -> Denoiser:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=SIDE,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=WIDTH,
            attention_head_dim=4,
            norm_num_groups=4,
        )
    return Denoiser(unet, process(prediction_type), FAMILY.predict)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=Streams(seed).generator("toys"))


def latents(count: int, seed: int) -> LatentDistribution:
    mean = random(count, CHANNELS, SIDE, SIDE, seed=seed)
    return LatentDistribution(mean, torch.full_like(mean, 0.1))


def draw(count: int, seed: int) -> NoisyDraw:
    pair = random(2, count, CHANNELS, SIDE, SIDE, seed=seed)
    timesteps = torch.randint(0, 1000, (count,), generator=Streams(seed).generator("timesteps"))
    return NoisyDraw(pair[0], pair[1], timesteps)


def condition(seed: int, count: int = 1) -> Condition:
    return Condition({"text": random(count, 3, WIDTH, seed=100 + seed)})


PERSONAL, CLASS, EMPTY = 0, 1, 2


def settings(**changes: Any) -> ProtectionSettings:
    base = {"steps_outer": 2, "steps_inner": 3, "learning_rate": 1e-3}
    return resolve(ProtectionSettings, base, {"path": {"learning_rate": 1e-3}}, changes)


def objective(
    reference: Denoiser,
    chosen: ProtectionSettings,
    seed: int = 0,
    streams: Streams | None = None,
) -> Any:
    """A `ProtectionObjective` on three photos and four class pictures."""
    streams = streams or Streams(seed)
    pairs = PairSource(latents(3, 1), latents(4, 2), chosen, process(), streams)
    return ProtectionObjective(
        reference, pairs, condition(PERSONAL), _preservation(chosen, streams), chosen
    )


def attacker(
    start: Denoiser,
    chosen: ProtectionSettings,
    streams: Streams,
    label: str = "path",
    rate: float = 1.0,
) -> SimulatedAttacker:
    """DreamBooth on three photos, with weights of its own."""
    path = start.with_network(copy.deepcopy(start.network))
    limits = chosen.path.timestep_range
    photos = latents(3, 1)
    loss = DreamBoothLoss(
        path,
        PictureSource(photos, streams, f"{label}/photos", process(), limits),
        PictureSource(latents(4, 2), streams, f"{label}/class", process(), limits),
        lambda: condition(PERSONAL),
        lambda: condition(CLASS),
        chosen.path.batch_size,
        chosen.path.prior_weight,
        one_forward=chosen.batched_forwards,
    )
    weights = list(path.network.parameters())
    rate *= chosen.path.learning_rate
    return SimulatedAttacker(
        start.network,
        path,
        weights,
        loss,
        adamw(chosen.optimizer, chosen.betas, chosen.weight_decay)(weights, rate),
        lambda _: rate,
        max_grad_norm=chosen.path.max_grad_norm,
        pictures=PictureSource(photos, streams, f"{label}/taught", process()),
    )


def persistent(
    start: Denoiser,
    chosen: ProtectionSettings,
    streams: Streams,
    label: str = "attackers",
    *,
    count: int | None = None,
    ages: tuple[int, int] | None = None,
) -> PersistentAttackers:
    """Persistent attackers as the settings have them."""
    wanted = chosen.attackers
    lives = Lives([1.0], ages or wanted.ages, wanted.rates, 3, streams, label)

    def born(slot: int, life: Life) -> SimulatedAttacker:
        return attacker(start, chosen, streams, f"{label}/{slot}", life.rate)

    return PersistentAttackers(count or wanted.count, lives, born, staggered=wanted.staggered)


def bilevel(
    start: Denoiser,
    chosen: ProtectionSettings,
    seed: int = 0,
    streams: Streams | None = None,
) -> LearningToProtect:
    """The whole loop around `start`, which is trained in place."""
    streams = streams or Streams(seed)
    reference = start.with_network(copy.deepcopy(start.network).requires_grad_(False))
    crew: Crew | None = None
    if chosen.attackers.kind == "persistent":
        crew = persistent(start, chosen, streams)
    elif chosen.steps_inner:
        crew = RestartedPath(attacker(start, chosen, streams))
    others = None
    if chosen.others.count:
        wanted = chosen.others
        others = persistent(start, chosen, streams, "others", count=wanted.count, ages=wanted.ages)
    return LearningToProtect(
        start,
        crew,
        reference.network,
        objective(reference, chosen, seed, streams),
        adamw(chosen.optimizer, chosen.betas, chosen.weight_decay),
        chosen,
        others,
    )


def path(loop: LearningToProtect) -> Any:
    """The attacker of the paper's path."""
    assert isinstance(loop.attackers, RestartedPath)
    return loop.attackers.attacker


def record(source: Any, method: str) -> list[Any]:
    """Everything that `source.method` returns from now on, in order."""
    results: list[Any] = []
    original: Callable[..., Any] = getattr(source, method)

    def recording(*arguments: Any) -> Any:
        results.append(original(*arguments))
        return results[-1]

    setattr(source, method, recording)
    return results


def gradients(module: nn.Module) -> Tensor:
    """All gradients in one vector."""
    found = [
        torch.zeros_like(weight) if weight.grad is None else weight.grad
        for weight in module.parameters()
    ]
    return torch.cat([gradient.flatten() for gradient in found])


def weights(module: nn.Module) -> Tensor:
    """A copy of all weights in one vector."""
    return torch.cat([weight.detach().flatten() for weight in module.parameters()]).clone()


def _preservation(chosen: ProtectionSettings, streams: Streams) -> PreservationTerm:
    kept = chosen.preservation
    source = PictureSource(latents(4, 2), streams, "preservation", process())
    if kept.kind == "class-pictures":
        return ClassPictures(source, condition(CLASS), kept.batch_size)
    return Distillation(
        source,
        condition(7, count=4),
        condition(PERSONAL),
        condition(EMPTY),
        identifier_share=kept.identifier_share,
        empty_share=kept.empty_share,
        batch_size=kept.batch_size,
        streams=streams,
    )
