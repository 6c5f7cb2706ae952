"""The prompts and captions that a protection trains with."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from apdm_cli.errors import UsageError
from apdm_cli.paths import require_ordinary
from apdm_cli.protection.settings import ProtectionSettings
from apdm_cli.subject import Subject

CAPTION_SETS = ("general", "pocket", "pocket-traits", "traits")


class _Published(Subject):
    """A subject in the published code's prompts: the literal text with quotes and underscores."""

    @property
    def personal_prompt(self) -> str:
        """c_per."""
        return _literal(super().personal_prompt)

    @property
    def class_prompt(self) -> str:
        """c_pr."""
        return _literal(super().class_prompt)


def _literal(prompt: str) -> str:
    return f'"{prompt.replace(" ", "_")}"'


def training_subject(subject: Subject, style: str) -> Subject:
    """`subject` with c_per and c_pr as the training sees them.

    Args:
        style: "clean", or "published" for the published code's literal text with quotes.
    """
    if style == "clean":
        return subject
    return _Published(subject.name, subject.class_noun, subject.identifier, subject.photos)


def read_captions(name: str, key: str = "preservation.captions") -> list[str]:
    """Captions of a shipped set, or of a UTF-8 text file with one caption a line.

    Args:
        key: the setting that names it, for the UsageError where it holds none.
    """
    if name in CAPTION_SETS:
        text = (files(__package__) / "captions" / f"{name}.txt").read_text(encoding="utf-8")
    else:
        try:
            text = require_ordinary(Path(name), key).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UsageError(
                f"{key}: {name} cannot be read as UTF-8 text ({reason})",
                f"Give a text file, or one of {', '.join(CAPTION_SETS)}.",
            ) from error
    captions = [line.strip() for line in text.splitlines() if line.strip()]
    if not captions:
        raise UsageError(f"{key}: {name} holds no caption")
    return captions


def distillation_captions(subject: Subject, settings: ProtectionSettings) -> tuple[str, ...]:
    """The caption of every distilled sample; empty where the preservation is not distillation."""
    kept = settings.preservation
    if kept.kind != "distill":
        return ()
    captions = read_captions(kept.captions)
    own = [caption for caption in captions if _mentions(caption, subject.class_noun)]
    rest = [caption for caption in captions if caption not in own]
    mine = round(kept.class_share * kept.caption_samples) if own else 0
    if mine == 0:  # all of them as they come
        diverse = [captions[i % len(captions)] for i in range(kept.caption_samples)]
    else:
        others = kept.caption_samples - mine
        diverse = [*_spread(own, mine), *_spread(rest or own, others)]
    return (*[subject.class_prompt] * kept.class_samples, *diverse)


def _spread(captions: Sequence[str], count: int) -> list[str]:
    """`count` captions, evenly from the first to the last; where there are fewer, some repeat."""
    return [captions[i * len(captions) // count] for i in range(count)]


def pseudo_subjects(subject: Subject, settings: ProtectionSettings) -> tuple[str, ...]:
    """Captions with traits of the subject's class, one a pseudo-subject (settings `others`).

    They are spread over those of the caption set that say more than the class.

    Raises:
        UsageError: the caption set has none.
    """
    others = settings.others
    if others.count == 0 or others.folders:
        return ()
    noun = subject.class_noun
    read = [
        caption.replace("{class}", noun)
        for caption in read_captions(others.captions, "others.captions")
    ]
    captions = [
        caption
        for caption in dict.fromkeys(read)
        if _mentions(caption, noun) and not caption.endswith(f" {noun}")
    ]
    if not captions:
        raise UsageError(
            f"others.captions: {others.captions} holds no caption that describes a {noun}",
            "Name a file with such captions, or folders of photos in others.folders, or set "
            "others.count=0.",
        )
    return tuple(_spread(captions, min(others.subjects, len(captions))))


def _mentions(caption: str, noun: str) -> bool:
    return f" {noun} " in f" {caption} "
