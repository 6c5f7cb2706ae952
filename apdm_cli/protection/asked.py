"""Whom a protection was asked to protect, as typed: checked before torch is imported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from apdm_cli.diffusion.photo_files import find_photos
from apdm_cli.diffusion.words import check_word
from apdm_cli.errors import UsageError
from apdm_cli.runs.names import default_name, slug

if TYPE_CHECKING:
    from apdm_cli.extension.protection import Protection

OPTION = "--subject"
IDENTIFIER = "sks"
EXAMPLE = f"Example: {OPTION} alice=photos/alice:person {OPTION} rex=photos/rex:dog:xyz"


@dataclass(frozen=True)
class AskedSubject:
    """One subject of a protection.

    Attributes:
        photos: folders of photos, or single files.
        name: as later commands call it; empty where the run's name is its name too.
    """

    photos: tuple[Path, ...]
    class_noun: str
    identifier: str = IDENTIFIER
    name: str = ""

    @property
    def options(self) -> tuple[str, str]:
        """Where the class noun and the identifier were typed."""
        if not self.name:
            return "--class", "--identifier"
        return (f"{OPTION} {self.name}",) * 2

    def called(self, run_name: str) -> str:
        """As the run called `run_name` and later commands call it: letters, digits and `-`."""
        return slug(self.name or run_name) or "subject"


def parse_subject(text: str, identifier: str = IDENTIFIER) -> AskedSubject:
    """`NAME=PATH:NOUN` or `NAME=PATH:NOUN:WORD`; a path may hold colons where it is there.

    Args:
        identifier: where none is given.

    Raises:
        UsageError: it is none of both.
    """
    name, equals, rest = text.partition("=")
    path, *words = _split(rest)
    if not (slug(name) and equals and path and words and all(words)):
        raise UsageError(
            f"{OPTION} {text}: expected NAME=PATH:NOUN or NAME=PATH:NOUN:WORD", EXAMPLE
        )
    return AskedSubject((Path(path),), words[0], [*words, identifier][1], slug(name))


def _split(text: str) -> list[str]:
    """Path and words: as many words as leave a path that is there."""
    choices = [text.rsplit(":", count) for count in (2, 1)]
    there = (parts for parts in choices if parts[0] and Path(parts[0]).expanduser().exists())
    return next(there, choices[0])


def default_run_name(subjects: Sequence[AskedSubject]) -> str:
    """`alice-rex`, or of one subject without a name a readable one of folder and class."""
    names = [subject.name for subject in subjects if subject.name]
    if names:
        return slug("-".join(names))
    return default_name(subjects[0].photos, subjects[0].class_noun)


def check_subjects(
    subjects: Sequence[AskedSubject],
    protection: Protection,
    *,
    ignore_unreadable: bool = False,
    together: bool = False,
) -> None:
    """Refuse words that cannot be meant, photos that are not there, and too many subjects.

    Args:
        together: others are protected by the model already.

    Raises:
        UsageError, ApdmError: in one sentence.
    """
    names = [subject.name for subject in subjects]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(
            f"{OPTION}: there are two subjects called {twice!r}", "Give each a name of its own."
        )
    if (together or len(subjects) > 1) and not protection.several:
        raise UsageError(
            f"The protection {protection.name} protects one subject at a time",
            "Give one subject, or use --method apdm.",
        )
    for subject in subjects:
        noun, word = subject.options
        check_word(subject.class_noun, noun)
        check_word(subject.identifier, word)
        find_photos(subject.photos, ignore_unreadable=ignore_unreadable)
