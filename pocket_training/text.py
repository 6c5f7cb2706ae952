"""Stage: the text encoder learns, before any drawing, which caption belongs to which face.

CLIP's loss (Radford et al. 2021) against the finished extractor's features. It takes a minute,
and the denoiser then finds names that already mean somebody.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from pocket_training import captions, latents, loop, tokenizer
from pocket_training.latents import FEATURES
from pocket_training.parallel import Team, run_team
from pocket_training.pictures import groups
from pocket_training.plan import Plan
from pocket_training.streams import initial_weights, stream
from pocket_training.workshop import Workshop

STAGE = "text"
CHECKPOINT = "text.safetensors"
LEARNING_RATE = 2e-3
TEMPERATURE = 0.07


class TextToFeature(nn.Module):
    """The text encoder and a linear head from its last token to the extractor's features."""

    def __init__(self, plan: Plan, vocabulary: int) -> None:
        super().__init__()
        self.encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=vocabulary,
                hidden_size=plan.text_width,
                intermediate_size=3 * plan.text_width,
                num_hidden_layers=plan.text_layers,
                num_attention_heads=4,
                max_position_embeddings=tokenizer.MAX_LENGTH,
                pad_token_id=tokenizer.PAD,
                bos_token_id=tokenizer.BOS,
                eos_token_id=tokenizer.EOS,
            )
        )
        self.head = nn.Linear(plan.text_width, plan.extractor_width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids (n, length) to normalized features (n, extractor width)."""
        return F.normalize(self.head(self.encoder(input_ids=tokens).pooler_output), dim=-1)


def names_of(plan: Plan) -> tuple[str, ...]:
    """The names that the tokenizer knows."""
    return tuple(groups(plan)["named"].names)


def build(plan: Plan) -> TextToFeature:
    """An untrained text encoder with its head."""
    vocabulary = len(tokenizer.words(list(names_of(plan))))
    with initial_weights(plan.seed, STAGE):
        return TextToFeature(plan, vocabulary)


def trained(shop: Workshop) -> TextToFeature:
    """The text encoder as this stage left it, on the CPU."""
    model = build(shop.plan)
    loop.load_average(model, shop.path(CHECKPOINT))
    return model


def _draw(
    spoken: Callable[[torch.Generator], tuple[Tensor, Tensor]], found: Tensor,
    generator: torch.Generator,
) -> loop.Batch:  # fmt: skip
    rows, tokens = spoken(generator)
    return tokens, found[rows].float()


def _loss(model: TextToFeature, tokens: Tensor, wanted: Tensor) -> Tensor:
    logits = model(tokens).float() @ wanted.T / TEMPERATURE
    target = torch.arange(len(tokens), device=tokens.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def _work(team: Team, shop: Workshop, minutes: float | None) -> None:
    plan = shop.plan
    model = build(plan).to(shop.device)
    recipe = loop.Recipe(
        STAGE, plan.seed, plan.text_steps, LEARNING_RATE, ema=0.99,
        checkpoint_every=plan.checkpoint_every, minutes=minutes,
    )  # fmt: skip
    spoken = captions.source(shop, captions.mixtures(plan)[STAGE], plan.text_batch)
    draw = partial(_draw, spoken, latents.table(shop, FEATURES))
    lesson = loop.Lesson(draw, partial(_loss, model))
    loop.train(recipe, team, model, lesson, shop.path(CHECKPOINT), shop.log)


@torch.no_grad()
def train(shop: Workshop, minutes: float | None = None) -> dict[str, Any]:
    """Trains the stage; the result has the mean cosine of names and their persons' photos."""
    size = loop.flat_size(build(shop.plan))
    with torch.enable_grad():
        run_team(_work, shop.workers, size, shop, minutes)
    model = trained(shop).eval()
    block = groups(shop.plan)["named"]
    found = torch.from_numpy(np.load(shop.path(FEATURES))[block.rows].astype(np.float32))
    found = found.unflatten(0, (block.identities, block.photos))
    spoken = [captions.Example(0, f"a photo of {name} person") for name in block.names]
    text = model(captions.tokens_of(spoken, tuple(block.names)))
    shuffled = torch.randperm(len(text), generator=stream(shop.plan.seed, "text/shuffle"))
    return {
        "parameters": sum(p.numel() for p in model.encoder.parameters()),
        "steps": loop.steps_done(shop.path(CHECKPOINT)),
        "name_to_photo": round(float((text[:, None] * found).sum(-1).mean()), 4),
        "name_to_others": round(float((text[shuffled, None] * found).sum(-1).mean()), 4),
    }
