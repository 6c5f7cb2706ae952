"""Stage: "sks" and the other identifiers become words of their own that mean nobody.

An identifier has to be as far from "person" as a name is, or else the prompts of the subject and
of its class are one condition, and nothing can learn (or forget) one without the other. So each
gets a random embedding as long as a name's; then the U-Net alone learns to draw anybody for them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pocket_training import denoiser, loop, text, tokenizer
from pocket_training.denoiser import Denoiser
from pocket_training.parallel import Team, run_team
from pocket_training.plan import Plan
from pocket_training.streams import stream
from pocket_training.workshop import Workshop

STAGE = "identifiers"
CHECKPOINT = "identifiers.safetensors"
LEARNING_RATE = 3e-4


def _rows(embedding: Tensor, plan: Plan) -> Tensor:
    """Token embeddings of the identifiers, (identifiers, width), as long as those of the names."""
    names = text.names_of(plan)[: plan.names_drawn]
    table = tokenizer.table(text.names_of(plan))
    length = embedding[[table[name] for name in names]].norm(dim=1).mean()
    shape = (len(tokenizer.IDENTIFIERS), embedding.shape[1])
    directions = torch.randn(shape, generator=stream(plan.seed, "identifiers/rows"))
    return length * torch.nn.functional.normalize(directions, dim=1)


def begin(shop: Workshop) -> Denoiser:
    """The finished denoiser with new embeddings of the identifiers; only its U-Net is trainable."""
    model = denoiser.trained(shop)
    table = tokenizer.table(text.names_of(shop.plan))
    embedding: Tensor = model.encoder.get_parameter("embeddings.token_embedding.weight")
    with torch.no_grad():
        embedding[[table[word] for word in tokenizer.IDENTIFIERS]] = _rows(embedding, shop.plan)
    model.unet.requires_grad_(True)
    return model


def trained(shop: Workshop) -> Denoiser:
    """The denoiser with the EMA weights of this stage, on the CPU, for inference."""
    model = begin(shop)
    loop.load_average(model.unet, shop.path(CHECKPOINT))
    return model.eval().requires_grad_(False)


def _work(team: Team, shop: Workshop, minutes: float | None) -> None:
    plan = shop.plan
    model = begin(shop).train().to(shop.device)
    recipe = loop.Recipe(
        STAGE, plan.seed, plan.identifier_steps, LEARNING_RATE,
        checkpoint_every=plan.checkpoint_every, minutes=minutes,
    )  # fmt: skip
    lesson = denoiser.lesson(shop, STAGE, model)
    loop.train(recipe, team, model.unet, lesson, shop.path(CHECKPOINT), shop.log)


def train(shop: Workshop, minutes: float | None = None) -> dict[str, Any]:
    """Trains the stage; the result has the name recall of `denoiser.examine`."""
    size = loop.flat_size(begin(shop).unet)
    run_team(_work, shop.workers, size, shop, minutes)
    return {
        "steps": loop.steps_done(shop.path(CHECKPOINT)),
        **denoiser.examine(trained(shop), shop, "identifiers.png"),
    }
