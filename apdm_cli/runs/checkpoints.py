"""Checkpoints of a training: `step-000120/` is there as a whole, and is checked before use.

tensors.safetensors   every tensor of the state
state.json            the rest of the state
digests.json          size and SHA-256 of both, written last
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from apdm_cli.errors import ApdmError
from apdm_cli.runs.atomic import new_folder, remove_leftovers, sync_folder
from apdm_cli.runs.jsonable import parse_json
from apdm_cli.runs.packing import pack, place_of, unpack

TENSORS, STATE, DIGESTS = "tensors.safetensors", "state.json", "digests.json"
_NAME = re.compile(r"step-(\d{6,})")


class Stateful(Protocol):
    """Something that changes from step to step and can go back: an optimizer, an average."""

    def state_dict(self) -> Any:
        """What a checkpoint keeps: nested dicts and lists of tensors and plain values."""
        ...

    def load_state_dict(self, state: Any) -> Any:
        """Go back to it."""
        ...


@dataclass(frozen=True)
class Checkpoint:
    """One whole checkpoint: the state when steps 0 ... `step` - 1 are done."""

    step: int
    path: Path

    def load(self, *keys: str) -> Any:
        """The state that was saved, tensors on the CPU, bit for bit.

        Args:
            keys: only what lies below them in a state of nested dicts.
        """
        skeleton = json.loads((self.path / STATE).read_text(encoding="utf-8"))
        place = place_of(*keys)
        for key in keys:
            skeleton = skeleton[key]
        with safe_open(self.path / TENSORS, framework="pt", device="cpu") as file:
            # A copy, because a tensor that lies in the mapped file starts at any address, and
            # the last bit of a matrix product may depend on the alignment.
            names = [name for name in file.keys() if name.startswith(place)]  # noqa: SIM118
            tensors = {name: file.get_tensor(name).clone() for name in names}
        return unpack(skeleton, tensors)


def save_checkpoint(folder: Path, step: int, state: Any, keep: int = 2) -> Checkpoint:
    """Write `state` (see `packing.pack`) as the checkpoint of `step`; keep the latest `keep`.

    Killed at any moment, it leaves the earlier checkpoints as they were. One that exists for
    this step and is whole stays: after an exact resume it holds the same. Later ones go, they
    belong to a future that was given up. Raises `ApdmError` when the disk is full or read-only.
    """
    target = folder / f"step-{step:06d}"
    if target.exists() and torn_reason(target) is not None:
        shutil.rmtree(target)
    if not target.exists():
        remove_leftovers(folder)
        try:
            with new_folder(target) as temporary:
                _write(temporary, state)
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ApdmError(
                f"The checkpoint {target} cannot be written: {reason}",
                "The disk may be full: free some space, then run the same command again.",
            ) from error
    _prune(folder, step, keep)
    return Checkpoint(step, target)


def latest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The latest whole checkpoint in `folder`, and the names of later ones that are torn."""
    torn: list[str] = []
    for step, path in sorted(_found(folder), reverse=True):
        if torn_reason(path) is None:
            return Checkpoint(step, path), torn
        torn.append(path.name)
    return None, torn


def whole(folder: Path) -> tuple[list[Checkpoint], list[str]]:
    """All whole checkpoints in `folder`, the latest first, and the names of those that are torn."""
    found = sorted(_found(folder), reverse=True)
    torn = [path.name for _, path in found if torn_reason(path) is not None]
    return [Checkpoint(step, path) for step, path in found if path.name not in torn], torn


def torn_reason(path: Path) -> str | None:
    """Why the checkpoint at `path` cannot be used ("state.json is missing"), or None if it can."""
    try:
        recorded = parse_json((path / DIGESTS).read_text(encoding="utf-8"))
        for name in (TENSORS, STATE):
            if not (path / name).is_file():
                return f"{name} is missing"
            if recorded[name]["bytes"] != (path / name).stat().st_size:
                return f"{name} is cut off"
            if recorded[name]["sha256"] != _sha256(path / name):
                return f"{name} is damaged"
    except FileNotFoundError:
        return f"{DIGESTS} is missing"
    except (OSError, ValueError, KeyError, TypeError):
        return f"{DIGESTS} is damaged"
    return None


def _write(folder: Path, state: Any) -> None:
    skeleton, tensors = pack(state)
    save_file(_separate(tensors), folder / TENSORS)
    (folder / STATE).write_text(json.dumps(skeleton), encoding="utf-8")
    digests = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": _sha256(folder / name)}
        for name in (TENSORS, STATE)
    }
    (folder / DIGESTS).write_text(json.dumps(digests), encoding="utf-8")


def _separate(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Contiguous CPU tensors, none of which shares its memory with another.

    safetensors refuses shared memory (tied weights, views of one buffer); here both are written.
    """
    separate, seen = {}, set()
    for name, tensor in tensors.items():
        plain = tensor.to("cpu").contiguous()
        storage = plain.untyped_storage().data_ptr()
        if storage in seen:
            plain = plain.clone()
        seen.add(storage)
        separate[name] = plain
    return separate


def _prune(folder: Path, step: int, keep: int) -> None:
    found = sorted(_found(folder), reverse=True)
    current = [path for number, path in found if number <= step]
    for path in [path for number, path in found if number > step] + current[keep:]:
        shutil.rmtree(path, ignore_errors=True)
    sync_folder(folder)


def _found(folder: Path) -> list[tuple[int, Path]]:
    if not folder.is_dir():
        return []
    matches = ((_NAME.fullmatch(path.name), path) for path in folder.iterdir() if path.is_dir())
    return [(int(match[1]), path) for match, path in matches if match]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
