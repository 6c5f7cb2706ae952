"""The photos of a command by path and digest, before any of them is decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apdm_cli.diffusion.photos import photo_hashes
from apdm_cli.errors import ApdmError

HINT = "Give the photos with --photos."


@dataclass(frozen=True)
class PhotoSet:
    """Where photos lie, and (name, SHA-256) of each, in the order they are loaded in."""

    sources: tuple[Path, ...]
    files: tuple[tuple[str, str], ...]

    @classmethod
    def read(cls, sources: Sequence[Path]) -> PhotoSet:
        """Find and hash the photos; ApdmError when there are none."""
        resolved = tuple(Path(source).resolve() for source in sources)
        return cls(resolved, photo_hashes(resolved))

    @classmethod
    def recall(cls, subject: Mapping[str, Any]) -> PhotoSet:
        """The photos that a manifest's `subject` names, found again and compared.

        Raises:
            ApdmError: one is gone or has changed.
        """
        recorded = subject["photos"]
        try:
            found = cls.read([Path(source) for source in recorded["sources"]])
        except ApdmError as error:
            raise ApdmError(f"The run's photos are gone: {error.what}", HINT) from error
        wanted = tuple((file["name"], file["sha256"]) for file in recorded["files"])
        if found.files != wanted:
            changed = sorted({name for name, _ in set(found.files) ^ set(wanted)})
            raise ApdmError(f"The run's photos have changed: {', '.join(changed[:3])}", HINT)
        return found

    @property
    def digests(self) -> set[str]:
        """SHA-256 of every photo."""
        return {digest for _, digest in self.files}

    def as_manifest(self) -> dict[str, Any]:
        """For a manifest: `sources` and `files`."""
        return {
            "sources": [str(source) for source in self.sources],
            "files": [{"name": name, "sha256": digest} for name, digest in self.files],
        }
