"""Whose photos a table runs on: folders that were given, or the packaged samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from apdm_cli.diffusion.photos import find_photos
from apdm_cli.errors import ApdmError, UsageError
from apdm_cli.pocket.samples import Sample, samples
from benchmarks.paper.tables import Table

LAYOUT = "Each is named CLASS or CLASS-ANYTHING (person-1, dog) and holds seen/ and unseen/."
# The pocket model draws persons, dogs and cats only: these stand for every other class.
STAND_INS = ("cat-2", "dog-2", "person-2", "person-3")


def given_subjects(folders: Sequence[Path]) -> dict[str, list[Sample]]:
    """Class noun → subjects in `folders`; UsageError names a folder that is none."""
    found: dict[str, list[Sample]] = {}
    for folder in folders:
        if not (folder / "seen").is_dir():
            missing = folder / "seen" if folder.is_dir() else folder
            raise UsageError(f"--subjects {folder}: there is no folder {missing}", LAYOUT)
        name = folder.resolve().name
        subject = Sample(name, folder / "seen", folder / "unseen")
        found.setdefault(subject.class_noun, []).append(subject)
    return found


def packaged_subjects(classes: Iterable[str]) -> dict[str, list[Sample]]:
    """One packaged identity a class; another animal or person stands for an object."""
    known, spare = samples(), iter(STAND_INS)
    return {noun: [known.get(f"{noun}-1") or known[next(spare)]] for noun in classes}


def subjects_of(table: Table, folders: Sequence[Path], pocket: bool) -> dict[str, list[Sample]]:
    """Class noun → the subjects that `table` runs on; classes without any are left out.

    Raises UsageError where there is nobody to protect.
    """
    wanted = dict.fromkeys(noun for row in table.row for noun in table.classes_of(row))
    if not folders:
        if pocket:
            return packaged_subjects(wanted)
        raise UsageError(
            f"--subjects is missing: photos of {', '.join(wanted)} are needed.", LAYOUT
        )
    found = given_subjects(folders)
    if not any(noun in found for noun in table.classes):
        raise UsageError(
            f"None of the subjects is a {' or a '.join(table.classes)}: their classes are "
            f"{', '.join(found)}.",
            LAYOUT,
        )
    return {noun: found[noun] for noun in wanted if noun in found}


def attack_photos(
    subject: Sample, which: str, count: int | None, *, all_needed: bool
) -> list[Path]:
    """What `--photos` gets: a folder, or its first `count` photos in natural order.

    Raises ApdmError where there are fewer and `all_needed`.
    """
    folder = subject.unseen if which == "unseen" else subject.seen
    if count is None:
        return [folder]
    photos, _ = find_photos([folder])
    if len(photos) < count and all_needed:
        raise ApdmError(
            f"{folder} holds {len(photos)} photos, and this table needs {count}",
            "Add photos, or leave this subject out.",
        )
    return photos[:count]
