"""Ways to break a diffusers folder: each function makes one that changes a folder in place."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def drop_tensor(file: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        tensors = load_file(folder / file)
        del tensors[max(tensors)]
        save_file(tensors, folder / file, metadata={"format": "pt"})

    return change


def reshape_tensor(file: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        tensors = load_file(folder / file)
        tensors[max(tensors)] = torch.zeros(3, 5)
        save_file(tensors, folder / file, metadata={"format": "pt"})

    return change


def cut_off(file: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[: len(content) // 2])

    return change


def overwrite(file: str, text: str = "{nonsense") -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / file).write_text(text)

    return change


def remove(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def set_entry(file: str, key: str, value: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**content, key: value}))

    return change
