"""The options that every personalization has."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from apdm_cli.config import Settings


def _rising(limits: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= limits[0] < limits[1] <= 1:
        raise ValueError("two rising numbers between 0 and 1 are needed")
    return limits


ScheduleRange = Annotated[tuple[float, float], AfterValidator(_rising)]


class AttackConfig(Settings):
    """Options that every attack has.

    The defaults are those of the published evaluation of arXiv 2511.01307 for Stable Diffusion.

    Attributes:
        later: settings that came after results had been kept, whose defaults change nothing.
    """

    later: ClassVar[frozenset[str]] = frozenset(
        {
            *("timesteps", "timestep_shift", "schedule", "warm_up", "huber", "noise_offset"),
            *("multires_noise", "multires_iterations", "caption_dropout", "captions"),
            *("photo_count", "prodigy_d0", "masks", "unmasked_weight", "clip_skip"),
            "buckets",
        }
    )

    steps: int = Field(800, ge=1, description="optimizer steps")
    learning_rate: float = Field(5e-6, gt=0, description="of the optimizer")
    schedule: Literal["constant", "cosine"] = Field(
        "constant", description="of the learning rate, after warm-up; cosine falls to nothing"
    )
    warm_up: int = Field(0, ge=0, description="steps over which the learning rate rises")
    batch_size: int = Field(1, ge=1, description="photos a step (and as many class pictures)")
    accumulation: int = Field(1, ge=1, description="batches averaged per step")
    prior_weight: float = Field(
        1.0, ge=0, le=1e6, description="weight of prior preservation; 0 is off"
    )
    prior_pictures: int = Field(200, ge=1, description="class pictures, made by the attacked model")
    sampler_steps: int = Field(50, ge=1, description="DDIM steps for the class pictures")
    sampler_guidance: float = Field(
        7.5, ge=0, le=1e3, description="guidance for the class pictures"
    )
    optimizer: Literal["adamw", "adamw8bit", "sgd", "adafactor", "lion", "prodigy"] = Field(
        "adamw",
        description="adamw8bit needs bitsandbytes; prodigy needs prodigyopt, and learning_rate 1",
    )
    prodigy_d0: float = Field(
        1e-6, gt=0, le=1, description="prodigy: its first guess of the size of its steps"
    )
    weight_decay: float = Field(1e-2, ge=0, description="of the optimizer")
    max_grad_norm: float = Field(1.0, ge=0, description="clip the gradient; 0 does not")
    min_snr_gamma: float = Field(0.0, ge=0, description="min-SNR weighting; 0 is off")
    huber: float = Field(
        0.0, ge=0, le=1e3, description="c of the pseudo-Huber loss; 0 is the squared error"
    )
    noise_offset: float = Field(0.0, ge=0, le=1, description="offset noise; 0 is off")
    multires_noise: float = Field(
        0.0, ge=0, lt=1, description="discount of multi-resolution (pyramid) noise; 0 is off"
    )
    multires_iterations: int = Field(6, ge=1, le=16, description="grids of multi-resolution noise")
    photo_count: int = Field(
        0, ge=0, description="train on the first so many photos only; 0 is all of them"
    )
    captions: bool = Field(
        False, description="describe every photo with the .txt beside it, where there is one"
    )
    caption_dropout: float = Field(
        0.0, ge=0, le=1, description="share of the photos that are shown without a caption"
    )
    masks: bool = Field(
        False, description="learn what is white in the -masklabel.png beside each photo"
    )
    unmasked_weight: float = Field(
        0.1, ge=0, le=1, description="masks: weight of the loss outside of them"
    )
    buckets: int = Field(
        0,
        ge=0,
        description="cut photos to shapes whose sides are multiples of so many pixels, and not to "
        "squares; 0 is off",
    )
    clip_skip: int = Field(
        1, ge=1, le=12, description="layer of the text encoder that is read, from its end; 1 is all"
    )
    ema: float = Field(0.0, ge=0, lt=1, description="decay of averaged weights; 0 is off")
    timestep_range: ScheduleRange = Field(
        (0.0, 1.0), description="part of the noise schedule to train on"
    )
    timesteps: Literal["model", "uniform", "logit-normal"] = Field(
        "model", description="how they are drawn; logit-normal is also called sigmoid"
    )
    timestep_shift: float = Field(
        0.0, ge=0, le=1e3, description="shift of a flow's timesteps towards noise; 0 is the model's"
    )

    def description(self) -> dict[str, Any]:
        """What the result depends on; `later` settings only where they are not at their defaults,
        so that what was finished before there were any is found again."""
        fields = type(self).model_fields
        as_before = {name for name in self.later if getattr(self, name) == fields[name].default}
        return self.model_dump(mode="json", exclude=as_before)
