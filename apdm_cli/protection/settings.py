"""Every choice of a protection run, named, with its source."""

from __future__ import annotations

from importlib.resources import files
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from apdm_cli.config import Settings, merge
from apdm_cli.errors import UsageError
from apdm_cli.pocket.profile import POCKET

Optimizer = Literal["adamw", "adamw8bit"]
PRESETS = ("pocket", "pocket-long", "paper", "published-code")


def _rising(limits: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= limits[0] < limits[1] <= 1:
        raise ValueError("two rising numbers between 0 and 1 are needed")
    return limits


def _decays(betas: Betas) -> tuple[float, float]:
    if not all(0 <= beta < 1 for beta in betas):
        raise ValueError("two numbers of at least 0 and below 1 are needed")
    return betas


ScheduleRange = Annotated[tuple[float, float], AfterValidator(_rising)]
Betas = Annotated[tuple[float, float], AfterValidator(_decays)]


class PersonalizationPath(Settings):
    """Learning-to-Protect's inner path: the personalization that is simulated on θ′."""

    learning_rate: float = Field(5e-6, gt=0, description="γ_per of the paper")
    batch_size: int = Field(
        1, ge=1, description="photos per inner step, and as many class pictures"
    )
    prior_weight: float = Field(1.0, ge=0, description="λ of prior preservation inside the path")
    max_grad_norm: float = Field(0.0, ge=0, description="clip the path's gradient; 0 does not")
    timestep_range: ScheduleRange = Field(
        (0.0, 1.0), description="part of the noise schedule the path trains on"
    )


class Preservation(Settings):
    """What keeps the rest of the model in place."""

    kind: Literal["class-pictures", "distill"] = Field(
        "class-pictures",
        description="class-pictures: the denoising loss on class pictures, L_ppl of the paper. "
        "distill: |ε_θ − ε_φ|² on latents that φ generated from diverse captions",
    )
    weight: float = Field(1.0, ge=0, description="weight against L_DPO")
    batch_size: int = Field(1, ge=1, description="samples per protective gradient")
    evaluated_at: Literal["path", "start", "both"] = Field(
        "path",
        description="path: at θ′ after every inner step (the paper); start: at θ once an outer "
        "step; both: a path ends far from θ, and only θ draws pictures",
    )
    class_samples: int = Field(64, ge=1, description="distill: latents of the class prompt")
    caption_samples: int = Field(168, ge=0, description="distill: latents of diverse captions")
    captions: str = Field(
        "general", description="distill: general, pocket, or a text file, one caption a line"
    )
    identifier_share: float = Field(
        0.25,
        ge=0,
        le=1,
        description="distill: share of samples whose caption is the subject's, so that the "
        "identifier keeps its meaning on other pictures",
    )
    empty_share: float = Field(
        0.25,
        ge=0,
        le=1,
        description="distill: share with the empty caption, which guidance uses",
    )


class ProtectionSettings(Settings):
    """A protection run. Defaults are the paper's; `published-code` and `pocket` are presets."""

    objective: Literal["dpo", "naive"] = Field(
        "dpo", description="dpo: eq. 14; naive: the paper's L_adv, for the ablation"
    )
    beta: float = Field(1.0, gt=0, description="β of eq. 14")
    dpo_reduction: Literal["element", "sample", "sum"] = Field(
        "element", description="where log σ is applied (difference 1 of the published code)"
    )
    max_negative_margin: float = Field(
        0.0, ge=0, description="bound on r⁻; 0 is unbounded as in the paper"
    )
    pairing: Literal["paired", "random"] = Field(
        "paired", description="paired: photo i always with class picture i; random: a new one"
    )
    batch_size: int = Field(1, ge=1, description="pairs per protective gradient")
    timestep_range: ScheduleRange = Field(
        (0.0, 1.0), description="part of the noise schedule the pairs are compared on"
    )
    steps_outer: int = Field(800, ge=1, description="N_protect")
    steps_inner: int = Field(
        20, ge=0, description="N_per; 0 takes the gradient at θ itself (the paper's without L2P)"
    )
    protect_every: int = Field(
        1, ge=1, description="take the protective gradient at every k-th inner step (TAR)"
    )
    include_personalization_gradient: bool = Field(
        False, description="add ∇L_per to the outer gradient (difference 2 of the published code)"
    )
    prompt_style: Literal["clean", "published"] = Field(
        "clean",
        description='published: the literal training prompt "a_photo_of_sks_person" with quotes '
        "(difference 3 of the published code)",
    )
    learning_rate: float = Field(5e-6, gt=0, description="γ_protect")
    learning_rate_schedule: Literal["constant", "cosine"] = Field(
        "constant", description="cosine decays γ_protect to zero over the outer steps"
    )
    max_grad_norm: float = Field(0.0, ge=0, description="clip the outer gradient; 0 does not")
    optimizer: Optimizer = Field("adamw", description="adamw8bit needs bitsandbytes")
    betas: Betas = Field((0.9, 0.999), description="of both AdamW optimizers")
    weight_decay: float = Field(1e-2, ge=0, description="of both AdamW optimizers")
    prior_pictures: int = Field(200, ge=1, description="class pictures made by the original model")
    batched_forwards: bool = Field(
        True, description="forwards that share weights run as one batch; the result is the same"
    )
    deterministic: bool = Field(
        False,
        description="CUDA: deterministic algorithms, so that a resumed run ends bit for bit like "
        "an uninterrupted one there too (slower)",
    )
    path: PersonalizationPath = PersonalizationPath()
    preservation: Preservation = Preservation()
    sampler_steps: int = Field(50, ge=1, description="DDIM steps for class pictures")
    sampler_guidance: float = Field(7.5, ge=0, le=1e3, description="guidance for class pictures")
    preview_every: int = Field(0, ge=0, description="outer steps between previews; 0 draws none")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if 0 < self.steps_inner < self.protect_every:
            raise ValueError(
                f"protect_every = {self.protect_every} takes no protective gradient in "
                f"steps_inner = {self.steps_inner} inner steps"
            )
        if self.preservation.identifier_share + self.preservation.empty_share > 1:
            raise ValueError(
                "preservation.identifier_share and preservation.empty_share exceed 1 together"
            )
        return self


def preset(name: str) -> dict[str, Any]:
    """The TOML table of a preset, as a nested dict; UsageError names the known ones."""
    import tomllib

    if name not in PRESETS:
        raise UsageError(f"there is no preset {name!r}", f"presets are {', '.join(PRESETS)}")
    table = tomllib.loads((files(__package__) / "presets" / f"{name}.toml").read_text())
    base = POCKET.protection if table.pop("profile", "") == POCKET.name else {}
    return merge(base, table)
