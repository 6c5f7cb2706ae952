"""Named random streams: the same seed and name give the same draws on every machine."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import torch


def stream_seed(seed: int, name: str) -> int:
    """A 63-bit seed from a training seed and a stream's name."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def stream(seed: int, name: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for the stream `name`. Each kind of device has draws of its own."""
    return torch.Generator(device).manual_seed(stream_seed(seed, name))


@contextlib.contextmanager
def initial_weights(seed: int, name: str) -> Iterator[None]:
    """Seeds torch's global generator inside the block only.

    The one place that does: module constructors draw their weights from the global generator
    and take no other. The generator's state is put back afterwards.
    """
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(stream_seed(seed, f"weights/{name}"))
        yield
