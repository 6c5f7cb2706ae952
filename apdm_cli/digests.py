"""Digests of files and folders: what pins a model or an extractor."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path


def folder_digest(folder: Path) -> str:
    """SHA-256 over the weight and configuration files of a pipeline folder, in sorted order."""
    return file_digest(pinned_files(folder))


def pinned_files(folder: Path) -> list[Path]:
    """The files that `folder_digest` looks at."""
    return sorted(p for p in folder.rglob("*") if p.suffix in {".safetensors", ".json"})


def file_digest(files: Sequence[Path]) -> str:
    """SHA-256 over the SHA-256 digests of `files` (names do not enter)."""
    whole = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            whole.update(hashlib.file_digest(stream, "sha256").digest())
    return whole.hexdigest()
