"""What a protection run would cost: measured on the real model, without writing anything."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import torch

from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.process import WHOLE_SCHEDULE
from apdm_cli.errors import ApdmError
from apdm_cli.extension.image_protection import bound
from apdm_cli.extension.protection_config import low_rank
from apdm_cli.protection.bench import Bench
from apdm_cli.protection.fitting import (
    CONTEXT,
    GIB,
    Setting,
    dtype_name,
    needs,
    on_some_card,
    on_this_card,
    smaller_settings,
)
from apdm_cli.protection.ingredients import stand_ins
from apdm_cli.protection.machine import memory_hint, peaks
from apdm_cli.protection.request import ProtectRequest
from apdm_cli.protection.several import (
    in_words_of_training,
    ingredients_of,
    inputs_of,
    pictures_to_draw,
)
from apdm_cli.randomness import Streams

MEASURED_STEPS = 3
LARGE = GIB // 2  # bytes from which on it is a question which card has them
CARDS_DTYPE = torch.bfloat16  # in which cards of today compute unless told otherwise
RECORDED_AFTER = 3  # steps of every shape, where steps are recorded at all (`recording.LAUNCHED`)


def measure(request: ProtectRequest) -> dict[str, Any]:
    """Take three short steps with stand-in latents, not compiled, and extrapolate.

    On a card that records steps some come before these three. What cards need is computed, for the
    settings as they are and for those that need less; where the steps do not fit the card that is
    there, no time is estimated.

    Returns:
        a JSON-able table; `said` is what the user should know of the input, `lines` the estimate
        in words.
    """
    protection, settings = request.protection, request.settings
    with memory_hint(smaller_settings(request)):
        model, subjects, said = request.load()
        everybody = [*subjects, *request.earlier]
        inputs = inputs_of(protection, everybody, settings)
        ingredients = ingredients_of(
            model, everybody, inputs, lambda subject, asked: stand_ins(model, subject, asked)
        )
    trained = in_words_of_training(everybody, settings.prompt_style)
    seats = zip(trained, inputs, ingredients, strict=True)
    bench = Bench(
        model,
        *next(seats),
        Streams(request.seed),
        request.attacks,
        request.low_memory,
        adapter=low_rank(settings),
        eta=bound(settings),
    )
    for number, further in enumerate(seats, start=1):
        bench.seat(
            *further,
            earlier=number >= len(subjects),
            displacements=request.displacements_of(further[0]),
        )
    short, parts = protection.shortened(settings)
    seconds = _seconds(request, bench, short)
    gc.collect()  # what was trained with is in cycles
    pictures = pictures_to_draw(everybody, inputs)
    photos = sum(len(subject.photos) for subject in subjects)
    whose = f" of {len(subjects)} subjects" if len(subjects) > 1 else ""
    training = drawing = None
    if seconds:
        # The first step also allocates; the median of three leaves it out.
        training = sorted(seconds)[len(seconds) // 2] * parts * bench.total
        drawing = forward_seconds(model) * settings.sampler_steps * pictures
    highest = peaks(request.device)
    weights = 4 * sum(weight.numel() for weight in model.trained.parameters())  # in float32
    needed = weights * protection.memory_copies(bench, settings)
    cards = _cards(request, bench, needed)
    return {
        "name": request.run_name,
        "method": protection.name,
        "preset": request.preset,
        "model": vars(model.ref),
        "photos": photos,
        "device": str(request.device),
        "dtype": dtype_name(request.dtype),
        "low_memory": request.low_memory,
        "ranks": request.ranks,
        "configuration": settings.model_dump(mode="json"),
        "outer_steps": bench.total,
        "pictures_to_draw": pictures,
        "measured_seconds": seconds,
        "estimated_seconds": training and training + (drawing or 0.0),
        "estimated_seconds_training": training,
        "estimated_seconds_drawing": drawing,
        "estimated_memory_bytes": round(needed),
        **highest,
        "card_bytes": {" ".join(added): need for added, need in cards.items()},
        "said": said,
        "lines": [
            f"{photos} photos{whose}, {bench.total} steps on {request.device} "
            f"({dtype_name(request.dtype)})",
            *_words(request, cards, training, drawing, pictures, needed, highest),
            *_ranks(request.ranks, sum(weight.numel() for weight in bench.weights)),
        ],
    }


@torch.no_grad()
def forward_seconds(model: DiffusionModel) -> float:
    """Time of one sampler step for one picture: two forwards, because of guidance."""
    generator = Streams(0).generator("protect/plan")
    latents = torch.randn(2, *model.latent_shape, generator=generator).to(model.device)
    timesteps = model.process.draw_timesteps(2, WHOLE_SCHEDULE, generator).to(model.device)
    condition = model.encode_text(["", ""])
    started = time.monotonic()
    # A value that the CPU reads, because a GPU answers before it is done.
    model.denoiser.predict(latents, timesteps, condition).sum().item()
    return time.monotonic() - started


def _seconds(request: ProtectRequest, bench: Bench, short: Any) -> list[float]:
    """Of a few steps; none where a card is too small for them."""
    seconds = []
    try:
        with memory_hint(smaller_settings(request)):
            started = time.monotonic()
            ahead = RECORDED_AFTER if bench.model.recorder is not None else 0
            for _ in islice(request.protection.steps(bench, short), ahead + MEASURED_STEPS):
                seconds.append(time.monotonic() - started)
                started = time.monotonic()
    except ApdmError as error:
        if not isinstance(error.__cause__, torch.OutOfMemoryError):
            raise
        return []
    finally:
        bench.forget()
    return seconds[-MEASURED_STEPS:]


def _cards(request: ProtectRequest, bench: Bench, needed: float) -> dict[Setting, int]:
    """What cards need; nothing for models so small that any card will do, or not known."""
    if needed < LARGE:
        return {}
    dtype = request.dtype if request.device.type == "cuda" else CARDS_DTYPE
    try:
        return needs(bench, request.protection, request.settings, dtype)
    except RuntimeError:  # a forward that reads values cannot be imagined
        return {}


def _words(
    request: ProtectRequest,
    cards: Mapping[Setting, int],
    training: float | None,
    drawing: float | None,
    pictures: int,
    needed: float,
    highest: Mapping[str, int],
) -> Iterator[str]:
    if training is None or drawing is None:
        yield "Time: not known, because the steps did not fit the card"
    else:
        yield (
            f"Time: about {_duration(training)} for the steps and at most {_duration(drawing)} to "
            f"draw {pictures} pictures first (those in the cache cost nothing)"
        )
    peak = highest["peak_memory_bytes"] / GIB
    said = f"{peak:.2f} GiB was the peak just now, all in all"
    if (reserved := highest.get("peak_reserved_bytes")) is not None:
        said = (
            f"just now tensors held {peak:.2f} GiB of the card at the peak, for which the "
            f"allocator had reserved {reserved / GIB:.2f} GiB; nvidia-smi shows the latter, and "
            f"about {CONTEXT / GIB:.1f} GiB of the driver and the libraries beside it"
        )
    yield (
        f"Memory: {needed / GIB:.2f} GiB for weights, gradients and optimizers, and activations; "
        + said
    )
    if not cards:
        if needed >= LARGE:
            yield "What a card needs cannot be computed for this model, whose forward reads values"
        return
    if request.device.type == "cuda":
        free, total = torch.cuda.mem_get_info(request.device)
        yield on_this_card(cards, total, free + torch.cuda.memory_reserved(request.device))
    else:
        yield from on_some_card(cards, CARDS_DTYPE)


def _ranks(count: int, weights: int) -> Iterator[str]:
    """What is known of several of them before they run."""
    if count > 1:
        yield (
            f"Ranks: {count}, each of which needs this memory and takes this time, on a card or a "
            f"core of its own; an outer step then takes the mean of {count} gradients, "
            f"{4 * weights / GIB:.2f} GiB each, which varies less. Whether fewer steps do then has "
            "not been measured"
        )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
