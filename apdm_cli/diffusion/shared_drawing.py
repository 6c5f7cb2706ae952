"""Several processes fill one folder of pictures: each takes the next batch that nobody draws.

A batch is claimed by the lock of a folder of its own, which the system lets go when the process
ends: what one that dies has begun is drawn by another. A picture depends on its own seed only, and
batches are those that one process alone would draw, so that the files are the same, bit for bit.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.picture_cache import Told, draw_pictures
from apdm_cli.diffusion.pictures import read_png
from apdm_cli.diffusion.sampling import SamplerSettings
from apdm_cli.runs.atomic import PRIVATE, TEMPORARY_PREFIX, writing_to
from apdm_cli.runs.lock import FolderLock, Held


@dataclass(frozen=True)
class PictureFiles:
    """Pictures that are wanted in a folder which is ready for them.

    Attributes:
        files: of the pictures, in one folder.
        prompts, seeds: as many.
        strict: see `sample`.
    """

    files: tuple[Path, ...]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    sampler: SamplerSettings
    strict: bool = False

    @property
    def batches(self) -> list[range]:
        """The pictures of every batch."""
        size, count = self.sampler.batch_size, len(self.files)
        return [range(start, min(start + size, count)) for start in range(0, count, size)]

    def missing(self, batch: Sequence[int]) -> list[int]:
        """Those of `batch` that are not there, or damaged."""
        return [index for index in batch if read_png(self.files[index]) is None]

    def unfinished(self) -> list[range]:
        """The batches of which something is missing."""
        return [batch for batch in self.batches if self.missing(batch)]

    def draw(self, model: DiffusionModel, missing: Sequence[int]) -> None:
        """Draw those `missing` of one batch."""
        draw_pictures(
            model,
            [self.files[index] for index in missing],
            [self.prompts[index] for index in missing],
            [self.seeds[index] for index in missing],
            self.sampler,
            strict=self.strict,
        )


def draw_shared(
    wanted: PictureFiles, claims: Path, model: Callable[[], DiffusionModel], told: Told
) -> bool:
    """Draw what is missing and drawn by nobody else; returns whether everything is there now.

    Args:
        claims: an existing folder, the same for every process, in which batches are claimed.
        model: called only if a picture is drawn here.
        told: how many pictures were drawn here.
    """
    whole = True
    for batch in wanted.unfinished():
        with _claimed(claims / _claim_name(wanted, batch)) as ours:
            if not ours:
                whole = False
            elif missing := wanted.missing(batch):  # nobody has drawn them before we had the claim
                wanted.draw(model(), missing)
                told(len(missing))
    return whole


@contextlib.contextmanager
def _claimed(folder: Path) -> Iterator[bool]:
    """Whether the batch of `folder` is ours during the block; else another process has it."""
    lock = None
    while lock is None:
        with writing_to(folder):
            folder.mkdir(mode=PRIVATE, exist_ok=True)
        try:
            lock = FolderLock(folder)
        except FileNotFoundError:  # whoever had it was just done
            continue
        except Held:
            yield False
            return
    try:
        yield True
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()
        lock.release()


def _claim_name(wanted: PictureFiles, batch: range) -> str:
    """As a temporary file: what a killed process leaves is removed by `apdm doctor --fix`."""
    where = f"{wanted.files[batch.start].resolve()}"
    return f"{TEMPORARY_PREFIX}drawing-{hashlib.sha256(where.encode()).hexdigest()[:16]}"
