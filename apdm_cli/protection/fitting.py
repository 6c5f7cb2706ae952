"""Which settings fit a graphics card: computed, and tried on none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from apdm_cli.diffusion.eight_bits import bytes_in_eight_bits, eight_bit_layers
from apdm_cli.diffusion.low_rank import adaptable_layers
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.recording import SWITCH, records
from apdm_cli.errors import UsageError
from apdm_cli.extension.attack import Attack
from apdm_cli.extension.image_protection import ImageProtection
from apdm_cli.extension.protection import Protection
from apdm_cli.extension.protection_config import AdaptableConfig, low_rank
from apdm_cli.personalization.streamed_adamw import bytes_on_device
from apdm_cli.protection.activations import activation_bytes, encoding_bytes, recorded_bytes
from apdm_cli.protection.bench import Bench
from apdm_cli.protection.copies import Copies, Placement
from apdm_cli.protection.request import ProtectRequest

GIB = 2**30
CARDS = (8, 12, 16, 24, 32, 40, 48, 80, 96, 141, 192)  # GiB that cards are sold with
CONTEXT = 0.6 * GIB  # what the driver and the libraries take of every card
LOOSE = 1.12  # what the allocator reserves over what is in use (1.11 measured, NOTES.md)
LOW, ADAPTER = "--memory low", "--set train=adapter"
INT8 = "--set adapter.base=int8"
UNRECORDED = f"{SWITCH}=0"  # in the environment
Setting = tuple[str, ...]


def needs(
    bench: Bench, protection: Protection, config: Any, dtype: torch.dtype
) -> dict[Setting, int]:
    """Bytes that a card has to have in use at the peak, by what is added to the command line.

    The first entry is the settings as they are; then come those that need less, in the order in
    which they are worth trying. Puts the bench's model into `save_memory`, so that it is of no use
    afterwards.

    Args:
        dtype: in which the card computes.
    """
    model, losses = bench.model, protection.losses(config)
    computed = torch.float32 if protection.in_float32 else dtype
    denoiser = replace(model.denoiser.launched, dtype=computed)
    trained = list(model.trained.parameters())
    weights = 4 * sum(weight.numel() for weight in trained)

    def activations(samples: int, *, low: bool) -> int:
        return activation_bytes(
            denoiser, bench.personal, model.latent_shape, samples, one_forward=not low
        )

    def recording(samples: int) -> int:
        return recorded_bytes(denoiser, bench.personal, model.latent_shape, samples, dtype)

    def held(low: bool, way: _Way) -> float | None:
        place = _imagined(bench, config, low, dtype, way)
        if place is None:
            return None
        # What is whole for a moment is among the activations of a network that is in 8 bits.
        spare = bytes_in_eight_bits(model.trained, dtype)[1] if INT8 in way.added else 0
        return weights * protection.memory_copies(place, config) + spare

    def encoding(*, low: bool) -> float:
        """Of the autoencoder, where photos are perturbed through it."""
        if not isinstance(protection, ImageProtection):
            return 0.0
        pictures = 1 if low else protection.encoded(config)
        return encoding_bytes(model, pictures) * dtype.itemsize / model.dtype.itemsize

    recorded = protection.recordable and records(model.family, torch.device("cuda"), dtype)
    ways = _ways(bench, protection, config)
    found: dict[Setting, float] = {}
    largest = max(max(samples) for samples in losses.values())
    if not bench.low_memory:
        launched = activations(largest, low=False)
        for way in ways:
            copies = held(False, way)
            if copies is None:
                continue
            found[way.added] = copies + launched + encoding(low=False)
            if not way.adapter and recorded:
                found[(UNRECORDED,)] = found[()]
                # Every recording keeps its activations and, in half, the gradients that it hands
                # over; every network has a copy in half.
                shadows = len(losses) + (bench.reference_copies > 0)
                kept = sum(
                    recording(samples) + weights / 2
                    for all_of in losses.values()
                    for samples in set(all_of)
                )
                found[()] = copies + weights * shadows / 2 + kept
    model.family.save_memory(model.components)
    perturbing = encoding(low=True)
    # Moments are on their way when there are no activations.
    most = max(activations(largest, low=True), bytes_on_device(trained))
    for way in ways:
        copies = held(True, way)
        if copies is not None:
            added = (*([] if bench.low_memory else [LOW]), *way.added)
            found[added] = copies + most + perturbing
    order = sorted(
        found, key=lambda added: (INT8 in added, ADAPTER in added, len(added), LOW in added)
    )
    return {added: round(found[added]) + _beside(model, dtype) for added in order}


def smaller_settings(request: ProtectRequest) -> list[str]:
    """What to add to the command line where memory is short, in the order to try it.

    What changes the result by rounding only comes first, what trains something else last.
    """
    found = []
    if not request.low_memory:
        found.append(LOW)
    if request.device.type == "cuda" and request.dtype == torch.float32:
        found.append("--dtype bf16")
    config, dumped = request.settings, request.settings.model_dump()
    for key in ("batch_size", "path.batch_size", "preservation.batch_size"):
        value: Any = dumped
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if isinstance(value, int) and value > 1:
            found.append(f"--set {key}={value // 2}")
    if isinstance(config, AdaptableConfig) and config.train == "full":
        found.append(ADAPTER)
    elif _takes_eight_bits(request.protection, config, request.attacks):
        found.append(INT8)
    return found


@dataclass(frozen=True)
class _Way:
    """One way to hold the network: what is added to the command line for it, and what it is."""

    added: Setting
    adapter: bool
    eight_bits: bool


def _ways(bench: Bench, protection: Protection, config: Any) -> list[_Way]:
    """As it is, and with what may be added to that."""
    made, eight_bits = bench.difference is not None, bool(eight_bit_layers(bench.model.trained))
    ways = [_Way((), made, eight_bits)]
    if not made:
        ways.append(_Way((ADAPTER,), True, False))
    if _takes_eight_bits(protection, config, bench.attacks):
        ways.append(_Way((INT8,) if made else (ADAPTER, INT8), True, True))
    return ways


def _takes_eight_bits(protection: Protection, config: Any, attacks: Mapping[str, Attack]) -> bool:
    """Whether the network below an adapter may be in 8 bits and is not yet."""
    if not isinstance(config, AdaptableConfig) or config.adapter.base == "int8":
        return False
    adapter = config.adapter.model_copy(update={"base": "int8"})
    wanted = config.model_copy(update={"train": "adapter", "adapter": adapter})
    try:
        protection.check(wanted, attacks)
    except UsageError:
        return False
    return True


def _imagined(bench: Bench, config: Any, low: bool, dtype: torch.dtype, way: _Way) -> Copies | None:
    """None for an adapter where there can be none."""
    place = Placement(low, "cuda", dtype != torch.float32, way.adapter)
    if not way.adapter:
        return Copies(bench, place)
    wanted = low_rank(config) or (config.adapter if isinstance(config, AdaptableConfig) else None)
    if wanted is None:
        return None
    network = bench.model.trained
    layers = adaptable_layers(network, bench.model.family.adapter_targets.ends(wanted.targets))
    trained = sum(
        wanted.rank * (layer.weight.shape[0] + layer.weight[0].numel()) for layer in layers.values()
    )
    whole = sum(weight.numel() for weight in network.parameters())
    held = dtype.itemsize * whole
    if way.eight_bits:
        held, _ = bytes_in_eight_bits(network, dtype)
    return Copies(bench, place, held / (4 * whole), trained / whole) if layers else None


def _beside(model: DiffusionModel, dtype: torch.dtype) -> int:
    """Bytes of the frozen parts."""
    return dtype.itemsize * sum(
        weight.numel()
        for name, network in model.networks().items()
        if name != model.family.trained
        for weight in network.parameters()
    )


def fits(need: int, free: int) -> bool:
    """Whether `need` bytes in use fit into `free` ones."""
    return need * LOOSE <= free


def on_this_card(needed: Mapping[Setting, int], total: int, free: int) -> str:
    """A sentence on the card that is there, with `free` of its `total` bytes for this process."""
    now, *others = needed.items()
    card = f"this card has {total / GIB:.1f} GiB, {free / GIB:.1f} of them free"
    says = f"On the card: about {now[1] / GIB:.1f} GiB; {card}"
    if fits(now[1], free):
        return f"{says}: it fits."
    fitting = [(added, need) for added, need in others if fits(need, free)]
    if fitting:
        added, need = fitting[0]
        return f"{says}: use {_option(added)} (about {need / GIB:.1f} GiB)."
    least = f", the least of which needs about {min(needed.values()) / GIB:.1f} GiB"
    return f"{says}: it does not fit with any setting{least if others else ''}."


def on_some_card(needed: Mapping[Setting, int], dtype: torch.dtype) -> Iterator[str]:
    """Sentences on the card that every setting would take."""
    for added, need in needed.items():
        size = next((size for size in CARDS if fits(need, round(size * GIB - CONTEXT))), None)
        card = f"a card of {size} GB" if size else "larger than any card"
        where = f"With {_option(added)}" if added else f"On a CUDA card, in {dtype_name(dtype)}"
        yield f"{where}: about {need / GIB:.1f} GiB ({card})"


def dtype_name(dtype: torch.dtype) -> str:
    """\"bfloat16\"."""
    return str(dtype).removeprefix("torch.")


def _option(added: Sequence[str]) -> str:
    return f"{UNRECORDED} in the environment" if added == (UNRECORDED,) else " ".join(added)
