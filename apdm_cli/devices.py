"""Device and dtype, resolved once at the edge of a command and passed down from there."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from apdm_cli.errors import UsageError

if TYPE_CHECKING:
    import torch

DEVICE_CHOICES = "auto, cpu, cuda, cuda:N, mps"
SMALL = 50_000_000  # weights of a network whose layers are not worth sharing among threads
DTYPE_CHOICES = ("auto", "fp32", "bf16", "fp16")


def check_names(device: str, dtype: str) -> None:
    """Raise UsageError for words that name no device or no dtype on any machine; without torch."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
        raise UsageError(f"--device {device}: no such device.", f"Valid: {DEVICE_CHOICES}.")
    if dtype not in DTYPE_CHOICES:
        raise UsageError(f"--dtype {dtype}: no such dtype.", f"Valid: {', '.join(DTYPE_CHOICES)}.")


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the CPU on `device`; on its way there a card need not be waited for."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class Arriving:
    """Values of a tensor that a card sends when it has them.

    Reading them waits for what led to them, and for nothing that was asked of the card later, as
    `Tensor.tolist` does.
    """

    def __init__(self, values: torch.Tensor) -> None:
        import torch

        self._values, self._sent = values, None
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._sent = torch.cuda.Event()
            self._sent.record(torch.cuda.current_stream(values.device))

    def read(self) -> Any:
        """As `Tensor.tolist` gives them."""
        if self._sent is not None:
            self._sent.synchronize()
        return self._values.tolist()


def resolve_device(name: str = "auto") -> torch.device:
    """The device that `name` means on this machine; a card becomes this process's current one.

    `auto` is the first CUDA card, else Apple's `mps`, else the CPU; `cuda` is the first card.

    Raises UsageError for a word that names no device and for a device this machine lacks.
    """
    found = _found(name)
    make_current(found)
    return found


def make_current(device: torch.device) -> None:
    """Let what names no card, as streams, events and graphs by themselves, belong to this one.

    Nothing happens for another device than a card.
    """
    import torch

    if device.type != "cuda" or device.index is None:
        return
    # The first one is, until another is made so; to ask would start CUDA.
    current = torch.cuda.current_device() if torch.cuda.is_initialized() else 0
    if device.index != current:
        torch.cuda.set_device(device)


def _found(name: str) -> torch.device:
    check_names(name, "auto")

    import torch

    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    has_mps = torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if cards else "mps" if has_mps else "cpu"
    if name == "mps" and not has_mps:
        raise UsageError("--device mps: this machine has no Metal device.", _available(cards))
    if name.startswith("cuda"):
        index = int(name.partition(":")[2] or 0)
        if index >= cards:
            seen = f"{cards} CUDA card{'s' if cards != 1 else ''}" if cards else "no CUDA card"
            raise UsageError(f"--device {name}: PyTorch sees {seen} here.", _available(cards))
        return torch.device("cuda", index)
    return torch.device(name)


def resolve_devices(names: str, workers: int | None = None) -> list[torch.device]:
    """The device of every worker: those that `names` lists with commas, in turns.

    The first is this process's own, as from `resolve_device`.

    Args:
        workers: how many; one on each device, if None.

    Raises UsageError as `resolve_device`, and where there are fewer workers than devices.
    """
    devices = [_found(name) for name in names_of_devices(names, workers)]
    make_current(devices[0])
    return devices


def names_of_devices(names: str, workers: int | None = None) -> list[str]:
    """As `resolve_devices`, before any device is looked at: needs no torch."""
    devices = [name.strip() for name in names.split(",")]
    count = len(devices) if workers is None else workers
    if count < len(devices):
        raise UsageError(
            f"--workers {count} is fewer than the {len(devices)} devices in --device {names}.",
            "Name fewer devices, or leave --workers out: each device gets one.",
        )
    return [devices[number % len(devices)] for number in range(count)]


def devices_of_ranks(names: str, ranks: int | None) -> list[torch.device]:
    """The device of every rank: a card of its own, or the processor for all of them.

    The first is this process's own, as from `resolve_device`.

    Args:
        names: one device, or as many as there are ranks.
        ranks: how many; one on each of the devices, if None.

    Raises UsageError as `resolve_device`, and where ranks and devices do not go together.
    """
    devices = _devices_of_ranks(names, ranks)
    make_current(devices[0])
    return devices


def _devices_of_ranks(names: str, ranks: int | None) -> list[torch.device]:
    listed = [name.strip() for name in names.split(",")]
    count = len(listed) if ranks is None else ranks
    if len(listed) > 1 and count != len(listed):
        raise UsageError(
            f"--ranks {count} is not the number of devices in --device {names}.",
            "Leave --ranks out: each device gets one.",
        )
    devices = [_found(name) for name in listed]
    if count == 1 or len(listed) > 1:
        if len({device.type for device in devices}) > 1:
            raise UsageError(f"--device {names}: ranks compute on devices of one kind.")
        if devices[0].type != "cpu" and len(set(devices)) < count:
            raise UsageError(f"--device {names}: every rank needs a card of its own.")
        return devices
    if devices[0].type == "cpu":
        cores = os.cpu_count() or 1
        if count > cores:
            raise UsageError(
                f"--ranks {count} is more than the {cores} cores of this machine.",
                "Each rank works all the time: use at most one a core.",
            )
        return devices * count
    if devices[0].type == "mps" or ":" in listed[0]:
        raise UsageError(
            f"--ranks {count} needs as many cards, and --device {names} is one.",
            "Name all of them, as in --device cuda:0,cuda:1, or --device cpu.",
        )
    return [_found(f"cuda:{number}") for number in range(count)]


def limit_threads(device: torch.device, weights: int) -> None:
    """Let a small network run in one thread on a processor.

    A second thread gains it less than half on idle cores, and on busy ones it takes ten times as
    long, because the threads wait for each other (benchmarks/NOTES.md). One thread also gives the
    same bits whatever the number of cores. `OMP_NUM_THREADS` in the environment goes before.

    Args:
        weights: number of weights of the network that works most.
    """
    import torch

    if device.type == "cpu" and weights < SMALL and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """The compute dtype of frozen modules and autocast; trainable weights stay fp32 anyway.

    `auto` is bf16 on a CUDA card that computes in it natively, fp32 everywhere else: fp16 would
    need loss scaling, so it is only ever chosen by name.

    Raises UsageError for a word that names no dtype.
    """
    check_names("auto", name)

    import torch

    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if name in dtypes:
        return dtypes[name]
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0):
        return torch.bfloat16
    return torch.float32


def _available(cards: int) -> str:
    names = ["cpu", *(f"cuda:{index}" for index in range(cards))]
    return f"Use --device auto, or one of: {', '.join(names)}."


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of the machine or of the card."""
    import torch

    # On the CPU PyTorch raises a plain RuntimeError, worded by system.
    texts = (
        *("not enough memory", "can't allocate memory", "Cannot allocate memory"),
        "CUDA error: out of memory",  # also where main memory beside a card cannot be pinned
    )
    plain = isinstance(error, RuntimeError) and any(text in str(error) for text in texts)
    return plain or isinstance(error, MemoryError | torch.OutOfMemoryError)
