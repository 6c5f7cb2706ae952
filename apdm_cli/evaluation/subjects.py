"""The subject's photos again, from where the manifest says they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apdm_cli.diffusion.photos import Photos, load_photos
from apdm_cli.errors import ApdmError
from apdm_cli.subject import Subject

HINT = "Say where they are now with --photos."


def reload_subject(
    description: Mapping[str, Any], resolution: int, photos: Sequence[Path] = ()
) -> Subject:
    """The subject of a manifest, its photos read again and compared with their digests.

    Args:
        description: a manifest's "subject".
        photos: folders or files to read instead of the recorded ones.

    Raises:
        ApdmError: the photos are gone, or their content is not the recorded one.
    """
    sources = list(photos) or [Path(path) for path in description["photos"]["sources"]]
    name = description["name"]
    try:
        found = load_photos(sources, resolution)
    except ApdmError as error:
        raise ApdmError(f"the photos of {name} cannot be read again: {error.what}", HINT) from error
    recorded = sorted(file["sha256"] for file in description["photos"]["files"])
    if recorded != sorted(found.sha256):
        raise ApdmError(
            f"the photos in {', '.join(map(str, sources))} are not those of {name}: "
            f"{_difference(recorded, found)}",
            HINT,
        )
    return Subject(name, description["class_noun"], description["identifier"], found)


def _difference(recorded: Sequence[str], found: Photos) -> str:
    if len(recorded) != len(found):
        return f"{len(found)} files instead of {len(recorded)}"
    changed = len(set(recorded) - set(found.sha256))
    return f"{changed} of {len(recorded)} have another content"
