"""Whom and what `apdm protect` was asked to protect: refused before torch is imported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from apdm_cli.extension.protection import Kind
    from apdm_cli.protection.asked import AskedSubject


def subjects_asked(
    photos: Sequence[Path], class_noun: str | None, identifier: str, several: Sequence[str]
) -> tuple[AskedSubject, ...]:
    """Whom to protect: one by photos and class, or those of --subject."""
    from apdm_cli.errors import UsageError
    from apdm_cli.protection.asked import EXAMPLE, AskedSubject, parse_subject

    if several:
        if photos or class_noun is not None:
            raise UsageError(
                "--subject says photos and class: PHOTOS and --class do not go with it.", EXAMPLE
            )
        return tuple(parse_subject(text, identifier) for text in several)
    if not photos:
        raise UsageError("No photos given.", "Example: apdm protect ./photos --class person")
    if class_noun is None:
        raise UsageError(
            "--class is missing: what is the subject?",
            "Example: apdm protect ./photos --class person",
        )
    return (AskedSubject(tuple(photos), class_noun, identifier),)


def check_onto(model: str, revision: str | None, save: str) -> None:
    """Refuse what says of the model that is begun with something else than --onto."""
    from apdm_cli.errors import UsageError
    from apdm_cli.pocket.profile import SOURCE

    if model != SOURCE or revision is not None:
        raise UsageError(
            "--onto begins with the run's own model.", "Leave --model and --revision out."
        )
    if save == "adapter":
        raise UsageError(
            "--onto: an adapter alone would miss what its run had protected before",
            "Leave --save adapter out.",
        )


def check_kept(rank: int | None, living_on: Sequence[Kind], resume: bool) -> None:
    """Refuse to keep attackers where none is left, or nothing of any of them.

    Args:
        living_on: what those may be that are left at the end.
        resume: the run was begun so, and goes on although nothing of them can be kept.
    """
    from apdm_cli.errors import UsageError
    from apdm_cli.extension.protection import without_displacement

    if rank is None:
        return
    if rank < 1:
        raise UsageError(f"--keep-attackers {rank}: a rank is at least 1", "Usual is 16.")
    if not living_on:
        raise UsageError(
            "--keep-attackers: with these settings no simulated attacker lives to the end",
            "Use --method apdm and a preset whose attackers persist, or leave it out.",
        )
    if not resume and not any(kind.attack.leaves_displacement for kind in living_on):
        names = " and ".join(without_displacement(living_on))
        raise UsageError(
            f"--keep-attackers: nothing can be kept of simulated attackers with {names}, who move "
            "no weights of the network",
            "Simulate attackers that do, with --set path.attack=lora and attackers.pool=[] or with "
            "other entries in attackers.pool, or leave --keep-attackers out.",
        )


def check_before_torch(
    subjects: Sequence[AskedSubject], model: str, revision: str | None, ignore_unreadable: bool
) -> None:
    """Say what is wrong with model, words or photos before torch is imported and a model read."""
    from apdm_cli.diffusion.photo_decoding import require_readable
    from apdm_cli.diffusion.source import check_source
    from apdm_cli.diffusion.words import check_pocket_vocabulary, check_word
    from apdm_cli.pocket.profile import SOURCE

    check_source(model, revision)
    if model == SOURCE:
        for one in subjects:
            noun, word = one.options
            check_pocket_vocabulary(
                check_word(one.class_noun, noun), check_word(one.identifier, word)
            )
    if not ignore_unreadable:
        for one in subjects:
            require_readable(one.photos, may_ignore=True)


def check_run(root: Path, name: str, resume: bool) -> None:
    """Say that the name is taken, that there is nothing to resume, or that nothing can be written
    there, before torch is imported."""
    from apdm_cli.runs.atomic import require_writable
    from apdm_cli.runs.manifest import MANIFEST
    from apdm_cli.runs.run import Run, require_free

    if resume:
        Run.open(root, name).require_unfinished()
    else:
        require_free(root, name)
    require_writable(root / name / MANIFEST, parents=True)
