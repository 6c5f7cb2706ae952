"""The work folder of one training: which stages are done, their results, one log."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from pocket_training.plan import Plan

DELIVERED = "weights.safetensors"


@dataclass(frozen=True)
class Workshop:
    """Where a training keeps its files, and with what it computes. Picklable.

    `workers` processes train together; `cores` draw pictures and captions. `start` is what an
    earlier training delivered: its weights are what the autoencoder and the denoiser start from.
    """

    folder: Path
    plan: Plan
    workers: int
    device: str
    cores: int = 1
    start: Path | None = None

    def path(self, name: str) -> Path:
        """A file of the work folder."""
        return self.folder / name

    def warm(self, name: str, network: nn.Module) -> None:
        """Puts the weights of the network called `name` from `start`, if any, into `network`."""
        if self.start is None:
            return
        found = {
            key.removeprefix(f"{name}."): tensor.float()
            for key, tensor in load_file(self.start / DELIVERED).items()
            if key.startswith(f"{name}.")
        }
        missing, unexpected = network.load_state_dict(found, strict=False)
        integers = {k for k, v in network.state_dict().items() if not v.is_floating_point()}
        if unexpected or set(missing) - integers:
            raise SystemExit(f"{self.start}: {name} lacks {missing}, has {unexpected}")

    def log(self, line: str) -> None:
        """Prints a line with the time and appends it to `train.log`."""
        line = f"{time.strftime('%H:%M:%S')} {line}"
        print(line, flush=True)
        with self.path("train.log").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def result(self, stage: str) -> dict[str, Any] | None:
        """What a finished stage noted, None if it is not finished."""
        path = self.path(f"{stage}.json")
        return json.loads(path.read_text("utf-8")) if path.exists() else None

    def run(self, stage: str, work: Callable[[], dict[str, Any]]) -> None:
        """Runs a stage unless it is done; its result and its seconds are noted when it ends."""
        if self.result(stage) is not None:
            self.log(f"{stage}: done before, skipped")
            return
        started = time.monotonic()
        result = work()
        result["seconds"] = round(time.monotonic() - started, 1)
        write_json(result, self.path(f"{stage}.json"))
        self.log(f"{stage}: {json.dumps(result)}")


def write_json(value: Any, path: Path) -> None:
    """Writes JSON under a temporary name and moves it over `path`."""
    partial = path.with_suffix(".json.partial")
    partial.write_text(json.dumps(value, indent=1) + "\n", "utf-8")
    os.replace(partial, path)


def pick_device(name: str) -> str:
    """The device, "cpu" or "cuda" for "auto", "cpu" or "cuda"."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name
