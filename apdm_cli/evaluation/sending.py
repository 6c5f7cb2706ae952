"""What a machine is sent to draw pictures, and what comes back from it.

For machines that do not see the folder of runs (`harness.luggage`): each gets both models, an
attacked model, and prompts and seeds. No photos, nor which they are and where they lie.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from apdm_cli.errors import ApdmError
from apdm_cli.evaluation.cells import AttackCell
from apdm_cli.evaluation.profiles import EvaluationSettings
from apdm_cli.evaluation.session import PictureSet
from apdm_cli.evaluation.workers import DrawingShare, files_of
from apdm_cli.harness.arms import Arms
from apdm_cli.harness.luggage import (
    RUNS,
    Files,
    Luggage,
    moved_files,
    read_files,
    room,
    write_files,
)
from apdm_cli.progress import Progress
from apdm_cli.protection.perturbed import KEY
from apdm_cli.runs.atomic import write_bytes_atomic, writing_to
from apdm_cli.runs.disk import tree_size

ARTIFACT, PICTURES = "artifact", "pictures"
WHOSE = ("subject", "subjects")  # what a run's manifest says of photos


@dataclass(frozen=True)
class Part:
    """Some batches that one model draws.

    Attributes:
        sets: of the same model.
        batches: the number of a set, and of the pictures that are missing, for each of them.
    """

    sets: tuple[PictureSet, ...]
    batches: tuple[tuple[int, tuple[int, ...]], ...]

    @property
    def left(self) -> Part:
        """The same, without what was drawn since."""
        files = [files_of(one) for one in self.sets]
        batches = ((number, tuple(files[number].missing(batch))) for number, batch in self.batches)
        return replace(self, batches=tuple(one for one in batches if one[1]))


def parts_of(sets: Sequence[PictureSet], count: int) -> list[Part]:
    """All that is missing, in about `count` parts; those of one model follow each other."""
    models: dict[Path | str, list[PictureSet]] = {}
    for one in sets:
        models.setdefault(one.arm if one.cell is None else one.cell.folder, []).append(one)
    wholes = [Part(tuple(some), tuple(_batches(some))) for some in models.values()]
    most = max(1, -(-sum(len(whole.batches) for whole in wholes) // count))
    return [
        replace(whole, batches=whole.batches[first : first + most])
        for whole in wholes
        for first in range(0, len(whole.batches), most)
    ]


def _batches(sets: Sequence[PictureSet]) -> Iterator[tuple[int, tuple[int, ...]]]:
    for number, one in enumerate(sets):
        files = files_of(one)
        for batch in files.unfinished():
            yield number, tuple(files.missing(batch))


def luggage_of(share: DrawingShare, arms: Arms) -> Luggage:
    """What every part of `share` needs.

    Raises:
        ApdmError: something is not there or cannot be read.
    """
    used = [arms.weights_of(one.arm) for one in share.sets]
    luggage = Luggage.of(arms.run, used, share.plugin_files)
    manifest = {key: value for key, value in luggage.manifest.items() if key not in WHOSE}
    if KEY in manifest:  # it tells that both arms have the original's weights
        manifest[KEY] = {**manifest[KEY], "photos": []}
    return replace(luggage, run=arms.run.path.name, manifest=manifest)


def attacked_model(part: Part) -> Files:
    """What the attack left; nothing for pictures of a model itself. ApdmError where it is gone."""
    cell = part.sets[0].cell
    return {} if cell is None else read_files(cell.artifact.path)


def size_of_attacked(sets: Sequence[PictureSet]) -> tuple[int, int]:
    """How many attacked models draw, and how many bytes they are; of those that are there."""
    sizes = {}
    for one in sets:
        if one.cell is not None:
            with contextlib.suppress(ApdmError):
                sizes[one.cell.folder] = tree_size(one.cell.artifact.path)
    return len(sizes), sum(sizes.values())


def sent_share(share: DrawingShare) -> DrawingShare:
    """`share` without what parts say themselves, and metrics alone need."""
    return replace(share, settings=EvaluationSettings(), sets=())


def sent_part(part: Part) -> Part:
    """`part` without whom it shows. ApdmError where its artifact is gone."""
    return replace(part, sets=tuple(map(_sent_set, part.sets)))


def _sent_set(wanted: PictureSet) -> PictureSet:
    if wanted.cell is None:
        return wanted
    cell = wanted.cell
    left = {"arm": cell.arm, "artifact": {"kind": cell.artifact.kind, "path": ARTIFACT}}
    return replace(wanted, cell=AttackCell(Path(cell.name), left, subject={}))


def draw_part(
    share: DrawingShare,
    part: Part,
    luggage: Luggage,
    model: Files,
    home: Path,
    device: torch.device,
    reports: Progress,
) -> Files:
    """Draw `part` in a folder below `home`, which is removed with all that was unpacked into it.

    Args:
        share, part: from `sent_share` and `sent_part`.
        model: the attacked one, if any.

    Returns:
        The pictures that can be drawn, each in a folder of the number of its set.

    Raises:
        ApdmError: one of both models is not here as it was.
    """
    with room(home) as folder:
        there = luggage.unpack(folder)
        sets = [_here(one, folder, folder / PICTURES / str(n)) for n, one in enumerate(part.sets)]
        first = sets[0]
        if first.cell is not None:
            write_files(model, first.cell.folder / ARTIFACT)
        share = replace(
            share,
            root=folder / RUNS,
            run=Path(luggage.run),
            plugin_files=moved_files(share.plugin_files, there),
        )
        session = share.session(device, reports)
        session.arms.load(first.arm)
        with contextlib.suppress(ApdmError):  # said when its scores are made
            opened = session.opened(first)
            for number, batch in part.batches:
                with contextlib.suppress(ApdmError):
                    files_of(sets[number]).draw(opened, batch)
        return read_files(folder / PICTURES)


def _here(wanted: PictureSet, folder: Path, pictures: Path) -> PictureSet:
    with writing_to(pictures):
        pictures.mkdir(parents=True)
    cell = wanted.cell and replace(wanted.cell, folder=folder / wanted.cell.folder)
    return replace(wanted, folder=pictures, cell=cell)


def put_pictures(part: Part, found: Files) -> None:
    """Write what came back of `part` where it belongs, each picture as a whole."""
    for number, one in enumerate(part.sets):
        for file in files_of(one).files:
            content = found.get(f"{number}/{file.name}")
            if content is not None:
                write_bytes_atomic(file, content.tobytes())
