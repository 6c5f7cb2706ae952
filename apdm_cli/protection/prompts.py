"""The prompts and captions that a protection trains with."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from apdm_cli.errors import UsageError
from apdm_cli.protection.settings import ProtectionSettings
from apdm_cli.subject import Subject

CAPTION_SETS = ("general", "pocket")


def training_prompts(subject: Subject, style: str) -> tuple[str, str]:
    """(c_per, c_pr) as the training sees them; "published" is the literal text with quotes."""
    prompts = subject.personal_prompt, subject.class_prompt
    if style == "clean":
        return prompts
    personal, generic = (f'"{prompt.replace(" ", "_")}"' for prompt in prompts)
    return personal, generic


def read_captions(name: str) -> list[str]:
    """Captions of a shipped set, or of a UTF-8 text file with one caption a line."""
    if name in CAPTION_SETS:
        text = (files(__package__) / "captions" / f"{name}.txt").read_text(encoding="utf-8")
    else:
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"preservation.captions: {name} cannot be read as UTF-8 text ({error})",
                f"Give a text file, or one of {', '.join(CAPTION_SETS)}",
            ) from error
    captions = [line.strip() for line in text.splitlines() if line.strip()]
    if not captions:
        raise UsageError(f"preservation.captions: {name} holds no caption")
    return captions


def distillation_captions(subject: Subject, settings: ProtectionSettings) -> tuple[str, ...]:
    """The caption of every distilled sample; empty where the preservation is not distillation."""
    kept = settings.preservation
    if kept.kind != "distill":
        return ()
    captions = read_captions(kept.captions)
    diverse = [captions[i % len(captions)] for i in range(kept.caption_samples)]
    return (*[subject.class_prompt] * kept.class_samples, *diverse)
