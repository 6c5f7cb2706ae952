"""Named random streams: the same seed gives the same draws on every device, in any order of use."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch


class Streams:
    """Independent CPU generators by name, all of one seed.

    `Streams(0).generator("attack/noise")` depends on the seed and the name only, so a new stream
    never shifts another. Draw on the CPU, then move:
    `torch.randn(shape, generator=streams.generator("noise")).to(device)`.

    Args:
        own: stands before the name of every stream, where several processes of one seed are to
            draw differently; empty in the only one, or the first.
    """

    def __init__(self, seed: int, own: str = "") -> None:
        self.seed, self.own = int(seed), own
        self._generators: dict[str, torch.Generator] = {}

    def generator(self, name: str, *, common: bool = False) -> torch.Generator:
        """The live generator of `name`: every call returns the same object, where it stands.

        Args:
            common: draw the same in every process, whatever `own` is.
        """
        return self._named(name if common else f"{self.own}{name}")

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Where every stream used so far stands: name -> uint8 tensor (1-D)."""
        return {name: generator.get_state() for name, generator in self._generators.items()}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go back to `state`. A stream that had not been used then starts from its beginning.

        Generators handed out before stay valid: they are moved, not replaced.
        """
        for name in self._generators:
            self._rewind(name)
        for name, position in state.items():
            self._named(name).set_state(position.to("cpu", torch.uint8).contiguous())

    def _named(self, name: str) -> torch.Generator:
        if name not in self._generators:
            self._generators[name] = torch.Generator("cpu")
            self._rewind(name)
        return self._generators[name]

    def _rewind(self, name: str) -> None:
        self._generators[name].manual_seed(stream_seed(self.seed, name))


def stream_seed(seed: int, name: str) -> int:
    """63 bits of SHA-256("seed/name"), as an int >= 0.

    torch's CPU generator starts from the low 32 bits only; among a hundred names the chance that
    two coincide is about one in a million.
    """
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class DrawingFrom:
    """torch's global CPU generator goes on from `generator` inside the block, and is put back.

    Libraries draw from the global one when they initialize new layers.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        self._fork: Any = None

    def __enter__(self) -> None:
        self._fork = torch.random.fork_rng(devices=[])
        self._fork.__enter__()
        torch.set_rng_state(self.generator.get_state())

    def __exit__(self, *exception: object) -> None:
        self.generator.set_state(torch.get_rng_state())
        self._fork.__exit__(*exception)
