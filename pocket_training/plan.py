"""What is trained, how large and for how long; and which identity seeds belong to whom."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

# Identity seeds. The ranges do not meet, so that nobody in the evaluation was ever trained on.
PEOPLE_FROM = 0  # identities known by their attributes only (persons, dogs and cats alike)
NAMED_FROM = 500_000  # persons with an invented name
HELD_OUT_FROM = 1_000_000  # sample photos and evaluation: never trained on
VALIDATION_FROM = 2_000_000  # held out as well: only for the figures printed between stages

SUBJECTS: dict[str, int] = {"person": 8, "dog": 2, "cat": 2}  # held-out sample photos by class
# Whom the demo protects: striking enough (pink mohawk, round black glasses) that a stranger sees
# at a glance who is in a picture. By name and seed; nothing was ever chosen or tuned on it.
DEMO_SUBJECT = ("person-9", HELD_OUT_FROM + 566)
PHOTOS_PER_SET = 4


@dataclass(frozen=True)
class Plan:
    """All sizes and lengths of one training. `batch` counts pictures per worker process."""

    seed: int = 0
    people: int = 6000
    photos_of_people: int = 4
    names: int = 500
    photos_of_named: int = 12
    pets: int = 700  # dogs, and as many cats
    photos_of_pets: int = 4

    autoencoder_channels: tuple[int, ...] = (16, 32, 64, 96)
    autoencoder_groups: int = 8
    latent_channels: int = 8
    autoencoder_steps: int = 6000
    autoencoder_batch: int = 4

    extractor_width: int = 128
    extractor_layers: int = 4
    extractor_steps: int = 800
    extractor_batch: int = 64  # half as many identities, two photos each

    text_width: int = 96
    text_layers: int = 2
    text_steps: int = 700
    text_batch: int = 128

    # Of all names, how many the denoiser is taught: fewer are learned sooner.
    names_drawn: int = 160
    denoiser_channels: tuple[int, ...] = (64, 128)
    denoiser_groups: int = 32
    denoiser_steps: int = 7000
    denoiser_batch: int = 20

    identifier_steps: int = 1500

    caption_bank: int = 0  # examples drawn beforehand; 0: captions are drawn step by step
    checkpoint_every: int = 200

    def as_json(self) -> dict[str, Any]:
        """The plan as plain JSON values (tuples become lists)."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Plan:
        """The plan that `as_json` wrote; what it did not know yet has its default."""
        plain: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        return cls(**plain)


# What a data-centre GPU does in the minutes that two cores need for an hour's plan: more people,
# batches hundreds of times larger. The pictures are drawn by all cores in half a minute.
ON_GPU = Plan(
    people=20_000,
    photos_of_named=32,
    pets=5_000,
    autoencoder_channels=(32, 48, 64, 96),
    autoencoder_steps=15_000,
    autoencoder_batch=128,
    extractor_steps=2_000,
    extractor_batch=512,
    text_steps=2_000,
    text_batch=512,
    denoiser_steps=15_000,
    denoiser_batch=256,
    identifier_steps=3_000,
    caption_bank=600_000,
    checkpoint_every=500,
)
PLANS: dict[str, Plan] = {"cpu": Plan(), "gpu": ON_GPU}

# Below this scale the networks shrink as well: a run that only shows that every stage works.
TINY_BELOW = 0.05


def scaled(plan: Plan, scale: float) -> Plan:
    """`plan` with every amount multiplied by `scale` (> 0), never under what a stage needs."""
    if scale <= 0:
        raise ValueError(f"scale must be positive, not {scale}")
    if scale == 1:
        return plan

    def amount(full: int, least: int) -> int:
        return max(least, round(full * scale))

    plan = replace(
        plan,
        people=amount(plan.people, 24),
        names=amount(plan.names, 6),
        names_drawn=min(plan.names_drawn, amount(plan.names, 6)),
        pets=amount(plan.pets, 6),
        autoencoder_steps=amount(plan.autoencoder_steps, 6),
        extractor_steps=amount(plan.extractor_steps, 4),
        text_steps=amount(plan.text_steps, 4),
        denoiser_steps=amount(plan.denoiser_steps, 6),
        identifier_steps=amount(plan.identifier_steps, 4),
        caption_bank=amount(plan.caption_bank, 64) if plan.caption_bank else 0,
        checkpoint_every=amount(plan.checkpoint_every, 4),
    )
    if scale >= TINY_BELOW:
        return plan
    return replace(
        plan,
        photos_of_named=4,
        autoencoder_channels=(8, 8, 16, 16),
        autoencoder_batch=2,
        extractor_width=32,
        extractor_layers=1,
        extractor_batch=16,
        text_width=32,
        text_layers=1,
        text_batch=16,
        denoiser_channels=(32, 32),
        denoiser_groups=8,
        denoiser_batch=4,
    )
