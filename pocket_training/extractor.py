"""Stage: the feature extractor, a small ViT trained to tell identities apart."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import ViTConfig, ViTModel

from pocket_training import loop
from pocket_training.autoencoder import reconstruct
from pocket_training.autoencoder import trained as trained_autoencoder
from pocket_training.parallel import Team, run_team
from pocket_training.pictures import SIZE, Group, groups, held_out, to_tensor
from pocket_training.plan import Plan
from pocket_training.streams import initial_weights, stream
from pocket_training.workshop import Workshop

STAGE = "extractor"
CHECKPOINT = "extractor.safetensors"
LEARNING_RATE = 1e-3
TEMPERATURE = 0.1
PERSONS = 0.75  # share of persons in a batch, the rest dogs and cats
AUGMENTED = 0.6  # share of pictures that are blurred and noisy, as reconstructions are
IDENTITIES_TESTED, PHOTOS_TESTED = 200, 4


def build(plan: Plan) -> ViTModel:
    """An untrained extractor of the plan's size."""
    config = ViTConfig(
        hidden_size=plan.extractor_width,
        num_hidden_layers=plan.extractor_layers,
        num_attention_heads=4,
        intermediate_size=3 * plan.extractor_width,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        image_size=SIZE,
        patch_size=8,
    )
    with initial_weights(plan.seed, STAGE):
        return ViTModel(config, add_pooling_layer=False)


def trained(shop: Workshop) -> ViTModel:
    """The extractor with the EMA weights of the latest checkpoint, on the CPU, for inference."""
    model = build(shop.plan)
    loop.load_average(model, shop.path(CHECKPOINT))
    return model.eval().requires_grad_(False)


def features(model: ViTModel, pictures: Tensor) -> Tensor:
    """Normalized class tokens, (n, 3, 64, 64) in [-1, 1] -> (n, width)."""
    return F.normalize(model(pixel_values=pictures).last_hidden_state[:, 0], dim=-1)


def contrastive_loss(found: Tensor, identities: Tensor) -> Tensor:
    """Supervised contrastive loss (Khosla et al. 2020, eq. 2) of normalized features; a scalar.

    `found` (n, d), `identities` (n,): every identity at least twice. Adds the mean distance of
    the positive pairs: the contrast alone is content once the others are further away.
    """
    logits = found @ found.T / TEMPERATURE
    itself = torch.eye(len(found), dtype=torch.bool, device=found.device)
    same = (identities[:, None] == identities[None]) & ~itself
    log_share = logits - logits.masked_fill(itself, -torch.inf).logsumexp(1, keepdim=True)
    contrast = -(log_share * same).sum(1) / same.sum(1)
    alignment = 1 - (logits * TEMPERATURE * same).sum(1) / same.sum(1)
    return (contrast + alignment).mean()


def augmented(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Some pictures with lost detail and a little noise: what autoencoders and samplers do."""
    u = torch.rand(3, generator=generator).tolist()
    chosen = torch.rand(len(pictures), generator=generator) < AUGMENTED
    small = F.interpolate(pictures, size=16 + int(u[0] * 33), mode="bilinear", antialias=True)
    soft = F.interpolate(small, size=SIZE, mode="bilinear")
    soft = soft + 0.08 * u[1] * torch.randn(pictures.shape, generator=generator)
    return torch.where(chosen[:, None, None, None], soft, pictures)


def _draw(
    pictures: np.ndarray, blocks: dict[str, Group], batch: int, device: str,
    generator: torch.Generator,
) -> loop.Batch:  # fmt: skip
    # On the CPU everywhere: which pictures, and how they are spoilt, is decided one by one.
    generator = generator if device == "cpu" else stream(generator.initial_seed(), STAGE)
    kinds = torch.rand(batch // 2, 3, generator=generator)
    rows: list[int] = []
    for kind, who, pet in kinds.tolist():
        if kind < PERSONS:
            share = blocks["named"].identities / (
                blocks["named"].identities + blocks["people"].identities
            )
            group = blocks["named" if pet < share else "people"]
        else:
            group = blocks["dog" if pet < 0.5 else "cat"]
        first = group.start + int(who * group.identities) * group.photos
        two = torch.randperm(group.photos, generator=generator)[:2]
        rows += (first + two).tolist()
    spoilt = augmented(to_tensor(pictures[rows]), generator).to(device)
    firsts = torch.tensor(rows).view(-1, 2).amin(1)
    # The same individual may be drawn twice: rows of one identity share the block of photos.
    identities = torch.tensor([_individual(blocks, int(row)) for row in firsts])
    return spoilt, identities.repeat_interleave(2).to(device)


def _loss(model: ViTModel, pictures: Tensor, identities: Tensor) -> Tensor:
    return contrastive_loss(features(model, pictures.to(model.dtype)).float(), identities)


def _individual(blocks: dict[str, Group], row: int) -> int:
    """A number that all photos of the individual in this row share (its first row)."""
    for group in blocks.values():
        if group.rows.start <= row < group.rows.stop:
            return row - (row - group.start) % group.photos
    raise IndexError(row)


def _work(team: Team, shop: Workshop, minutes: float | None) -> None:
    plan = shop.plan
    model = build(plan).to(shop.device)
    pictures = np.load(shop.path("pictures.npy"), mmap_mode="r")
    recipe = loop.Recipe(
        STAGE, plan.seed, plan.extractor_steps, LEARNING_RATE, weight_decay=0.05,
        betas=(0.9, 0.98), checkpoint_every=plan.checkpoint_every, minutes=minutes, ema=0.99,
    )  # fmt: skip
    draw = partial(_draw, pictures, groups(plan), plan.extractor_batch, shop.device)
    lesson = loop.Lesson(draw, partial(_loss, model))
    loop.train(recipe, team, model, lesson, shop.path(CHECKPOINT), shop.log)


@torch.no_grad()
def separation(model: ViTModel, pictures: Tensor) -> dict[str, float]:
    """Mean cosine of photos of the same and of different identities, (n, photos, 3, 64, 64)."""
    count, photos = pictures.shape[:2]
    flat = pictures.flatten(0, 1)
    found = torch.cat([features(model, part) for part in flat.split(100)]).cpu()
    cosine = found @ found.T
    owner = torch.arange(count).repeat_interleave(photos)
    equal = owner[:, None] == owner[None]
    same = cosine[equal & ~torch.eye(len(flat), dtype=torch.bool)]
    other = cosine[~equal]
    higher = torch.searchsorted(other.sort().values, same).double().mean() / len(other)
    return {
        "same": round(float(same.mean()), 4),
        "different": round(float(other.mean()), 4),
        "roc_auc": round(float(higher), 5),
    }


def train(shop: Workshop, minutes: float | None = None) -> dict[str, Any]:
    """Trains the extractor; the result has its figures on identities it never saw."""
    size = loop.flat_size(build(shop.plan))
    run_team(_work, shop.workers, size, shop, minutes)
    return examine(shop)


def keep(shop: Workshop, folder: Path) -> dict[str, Any]:
    """In place of training: takes the extractor in `folder`, so that its scores stay comparable."""
    model = ViTModel.from_pretrained(folder, add_pooling_layer=False, local_files_only=True)
    if model.config.hidden_size != shop.plan.extractor_width:
        raise SystemExit(f"the extractor in {folder} is not of the size that the plan has")
    average = loop.FlatParameters(model.float()).values.detach()
    progress = {"step": 0, "total": 0, "seconds": 0.0}
    loop.save_atomically({"average": average}, shop.path(CHECKPOINT), progress)
    return {"kept": True, **examine(shop)}


def examine(shop: Workshop) -> dict[str, Any]:
    """Figures of the stage's extractor on identities it never saw, and on reconstructions."""
    model = trained(shop).to(shop.device)
    tested = held_out("person", IDENTITIES_TESTED, PHOTOS_TESTED)
    flat = to_tensor(tested.reshape(-1, SIZE, SIZE, 3)).to(shop.device)
    pictures = flat.unflatten(0, tested.shape[:2])
    result: dict[str, Any] = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": loop.steps_done(shop.path(CHECKPOINT)),
        **separation(model, pictures),
    }
    autoencoder = trained_autoencoder(shop).to(shop.device)
    with torch.no_grad():
        photos = pictures[:50]
        decoded = features(model, reconstruct(autoencoder, photos[:, 0]))
        others = features(model, photos[:, 1:].flatten(0, 1)).unflatten(0, (50, -1))
        result["reconstruction"] = round(float((decoded[:, None] * others).sum(-1).mean()), 4)
    return result
