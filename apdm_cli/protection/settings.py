"""Every choice of the protection `apdm`, named, with its source."""

from __future__ import annotations

from importlib.resources import files
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from apdm_cli.config import Settings, merge
from apdm_cli.errors import UsageError
from apdm_cli.extension.protection_config import AdaptableConfig
from apdm_cli.personalization.settings import ScheduleRange
from apdm_cli.pocket.profile import POCKET

Optimizer = Literal["adamw", "adamw8bit"]
PRESETS = (
    "paper",
    "published-code",
    "durable",
    "pocket",
    "pocket-long",
    "pocket-dreambooth",
    "pocket-paper",
    "pocket-plain",
)


def _decays(betas: Betas) -> tuple[float, float]:
    if not all(0 <= beta < 1 for beta in betas):
        raise ValueError("two numbers of at least 0 and below 1 are needed")
    return betas


def _ordered(limits: tuple[float, float]) -> tuple[float, float]:
    if not 0 < limits[0] <= limits[1]:
        raise ValueError("two positive numbers are needed, the smaller first")
    return limits


Ages = Annotated[tuple[int, int], AfterValidator(_ordered)]
Multiples = Annotated[tuple[float, float], AfterValidator(_ordered)]
Betas = Annotated[tuple[float, float], AfterValidator(_decays)]


class PersonalizationPath(Settings):
    """Learning-to-Protect's inner path: the personalization that is simulated on θ′."""

    attack: str = Field(
        "dreambooth", description="what is simulated: any registered attack that is one training"
    )
    settings: dict[str, Any] = Field(
        {}, description="more settings of that attack, over those of this table"
    )
    learning_rate: float = Field(5e-6, gt=0, description="γ_per of the paper")
    batch_size: int = Field(
        1, ge=1, description="photos per inner step, and as many class pictures"
    )
    prior_weight: float = Field(1.0, ge=0, description="λ of prior preservation inside the path")
    max_grad_norm: float = Field(0.0, ge=0, description="clip the path's gradient; 0 does not")
    timestep_range: ScheduleRange = Field(
        (0.0, 1.0), description="part of the noise schedule the path trains on"
    )


class SimulatedKind(Settings):
    """One entry of `attackers.pool`: what a simulated attacker may be."""

    attack: str = Field("dreambooth", description="the name of any registered attack")
    weight: float = Field(1.0, gt=0, description="how often it is drawn, relative to the others")
    identifier: str = Field("", description="the word it uses; empty is the subject's")
    photos: int = Field(0, ge=0, description="how many of the photos it has; 0 is all of them")
    settings: dict[str, Any] = Field({}, description="settings of the attack, over those of `path`")


class Attackers(Settings):
    """The simulated attackers whose weights the protective gradient is taken at.

    A persistent attacker is a displacement δ of θ, its optimizer's state, an age, a bound on it
    and a rate. It lives on while θ moves beneath it, as persistent contrastive divergence keeps
    its chains (Tieleman 2008): its path becomes as long as an attack that succeeds, for one attack
    step an outer step. docs/method.md has the reason.
    """

    kind: Literal["restart", "persistent"] = Field(
        "restart",
        description="restart: a new path from θ in every outer step (the paper); persistent: "
        "attackers that live on through many outer steps",
    )
    count: int = Field(1, ge=1, description="persistent: how many of a subject, one at a time")
    ages: Ages = Field(
        (100, 400), description="persistent: bounds of the attack steps a life lasts, log-uniform"
    )
    staggered: bool = Field(
        True,
        description="persistent: attacker j of P first takes j/P of its steps on the original "
        "model, so that young and old ones are met from the beginning",
    )
    rates: Multiples = Field(
        (1.0, 2.0),
        description="persistent: bounds of a life's learning rate in multiples of the attack's, "
        "log-uniform",
    )
    pool: tuple[SimulatedKind, ...] = Field(
        (),
        description="persistent: what an attacker may be, drawn by weight for every life; each "
        "entry has attack, weight, identifier, photos and settings. Empty is the attack of `path`",
    )


class Margin(Settings):
    """How the errors of θ and of the original φ are compared."""

    kind: Literal["absolute", "relative"] = Field(
        "absolute",
        description="absolute: differences of squared errors, eq. 14; relative: the logarithm of "
        "their ratio for each sample, which weighs every timestep alike",
    )
    one_sided: bool = Field(
        False,
        description="class pictures under the subject's caption may not get worse, and need "
        "not get better: r⁺ counts where it is positive; relative only",
    )
    at_start: float = Field(
        0.0, ge=0, description="weight of the same loss at θ itself, once an outer step"
    )
    at_start_pairs: int = Field(2, ge=1, description="pairs of that loss")


class Others(Settings):
    """Learners of somebody else inside the loop, so that others can still be taught.

    Each is a persistent personalization to a subject of the same class; θ is moved so that its
    error on that subject's pictures falls as far as it would on φ.
    """

    count: int = Field(0, ge=0, description="how many learners are alive; 0 is none")
    every: int = Field(4, ge=1, description="one of them takes its turn at every k-th outer step")
    weight: float = Field(4.0, ge=0, description="weight of their loss")
    batch_size: int = Field(4, ge=1, description="pictures per gradient of it")
    ages: Ages = Field((30, 80), description="bounds of a learner's life in steps, log-uniform")
    rates: Multiples = Field((1.0, 1.0), description="bounds of its rate, as of attackers")
    subjects: int = Field(
        10, ge=1, description="pseudo-subjects, each a caption with traits of the subject's class"
    )
    captions: str = Field(
        "traits",
        description="where they come from: traits, pocket-traits, or a text file, one caption a "
        "line; {class} stands for the class noun, and captions of other classes are left out",
    )
    pictures: int = Field(6, ge=1, description="pictures that φ draws of a pseudo-subject")
    folders: tuple[str, ...] = Field(
        (), description="folders of photos, one a subject, in the place of pseudo-subjects"
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
    scale: Literal["absolute", "relative"] = Field(
        "absolute",
        description="distill: relative divides by φ's own mean error at the timestep, so that "
        "every timestep is held alike",
    )
    means: float = Field(
        0.0,
        ge=0,
        description="distill: weight of the error's mean over all pixels of a channel, squared, "
        "times their number. An offset that is the same everywhere is small in every pixel and "
        "shifts the colours of whole pictures; 0 is off",
    )
    captions: str = Field(
        "general",
        description="distill: general, pocket, pocket-traits, or a text file, one caption a line",
    )
    class_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="distill: share of the diverse captions that are of the subject's class; 0 "
        "takes them as they come",
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
    displaced: float = Field(
        0.0,
        ge=0,
        description="--onto: weight of distilling where attackers of the earlier subjects were, "
        "which RUN has to have kept (--keep-attackers); 0 is off",
    )


class ProtectionSettings(AdaptableConfig):
    """Options of the protection `apdm`. Its defaults are the preset `paper`."""

    objective: Literal["dpo", "naive"] = Field(
        "dpo", description="dpo: eq. 14; naive: the paper's L_adv, for the ablation"
    )
    beta: float = Field(1.0, gt=0, description="β of eq. 14, and of relative margins")
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
    learning_rate: float = Field(5e-6, gt=0, description="γ_protect")
    learning_rate_schedule: Literal["constant", "cosine"] = Field(
        "constant", description="cosine decays γ_protect to zero over the outer steps"
    )
    max_grad_norm: float = Field(0.0, ge=0, description="clip the outer gradient; 0 does not")
    optimizer: Optimizer = Field("adamw", description="adamw8bit needs bitsandbytes")
    betas: Betas = Field((0.9, 0.999), description="of both AdamW optimizers")
    weight_decay: float = Field(1e-2, ge=0, description="of both AdamW optimizers")
    batched_forwards: bool = Field(
        True, description="forwards that share weights run as one batch; the result is the same"
    )
    average: float = Field(
        0.0, ge=0, lt=1, description="decay of an exponential average of θ, the result; 0 is off"
    )
    average_last: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the outer steps, the last ones, over which the result is the mean of "
        "θ; 0 is off",
    )
    path: PersonalizationPath = PersonalizationPath()
    attackers: Attackers = Attackers()
    margin: Margin = Margin()
    others: Others = Others()
    preservation: Preservation = Preservation()

    def description(self) -> dict[str, Any]:
        """Without what changes nothing, so that runs from before there was such a term go on."""
        found = super().description()
        for term in ("displaced", "means"):
            if not found["preservation"][term]:
                del found["preservation"][term]
        if not found["average_last"]:
            del found["average_last"]
        return found

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
        if self.average and self.average_last:
            raise ValueError(
                f"average = {self.average:g} and average_last = {self.average_last:g} are two "
                "averages: add --set average_last=0 or --set average=0"
            )
        if self.margin.one_sided and self.margin.kind == "absolute":
            raise ValueError(
                "margin.one_sided is for margin.kind = relative only: add --set "
                "margin.one_sided=false"
            )
        if self.attackers.kind == "persistent" and self.steps_inner == 0:
            raise ValueError(
                "attackers.kind = persistent needs steps_inner of at least 1: the attack steps of "
                "an outer step"
            )
        if self.margin.at_start and self.steps_inner == 0:
            raise ValueError(
                "margin.at_start needs steps_inner of at least 1: with 0 the whole loss is at θ "
                "itself; add --set margin.at_start=0"
            )
        if self.include_personalization_gradient and self.steps_inner == 0:
            raise ValueError(
                "include_personalization_gradient needs steps_inner of at least 1: it is the "
                "gradient of the attack steps"
            )
        if self.include_personalization_gradient and self.attackers.kind == "persistent":
            raise ValueError(
                "include_personalization_gradient is for attackers.kind = restart only"
            )
        if self.include_personalization_gradient and self.train == "adapter":
            raise ValueError(
                "include_personalization_gradient is for train = full only: the attacker's steps "
                "have no gradient for the adapter"
            )
        if self.preservation.displaced and self.train == "adapter":
            raise ValueError(
                "preservation.displaced is for train = full only: what was displaced are weights "
                "of the network"
            )
        return self


def preset(name: str) -> dict[str, Any]:
    """The TOML table of a preset, as a nested dict; UsageError names the known ones."""
    import tomllib

    if name not in PRESETS:
        raise UsageError(f"There is no preset {name!r}", f"Known are: {', '.join(PRESETS)}.")
    table = tomllib.loads((files(__package__) / "presets" / f"{name}.toml").read_text())
    base = POCKET.protection if table.pop("profile", "") == POCKET.name else {}
    return merge(base, table)
