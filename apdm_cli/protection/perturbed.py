"""The perturbed photos of a run: what its subject publishes in the place of the photos.

They are what the run is for, and are written. The photos that they were made from are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apdm_cli.diffusion.photo_files import find_photos, hash_photo_files, photo_hashes
from apdm_cli.errors import ApdmError, UsageError
from apdm_cli.runs.run import Run
from apdm_cli.subject import SubjectRecord

if TYPE_CHECKING:
    from apdm_cli.diffusion.perturbation import Perturbation

KEY = "perturbed"  # of a manifest


@dataclass(frozen=True)
class PerturbedPhoto:
    """A file in the folder of perturbed photos, and the SHA-256 `of` what it was made from."""

    name: str
    sha256: str
    of: str


@dataclass(frozen=True)
class PerturbedPhotos:
    """Those of one run.

    Attributes:
        run: its name, for messages.
        folder: where they lie.
        eta: how much of [-1, 1] no value of them differs by more than.
    """

    run: str
    folder: Path
    eta: float
    photos: tuple[PerturbedPhoto, ...]

    @classmethod
    def of(cls, run: Run) -> PerturbedPhotos | None:
        """Those of a finished run; None where it protects the model."""
        recorded = run.manifest.get(KEY)
        if recorded is None:
            return None
        photos = tuple(
            PerturbedPhoto(photo["name"], photo["sha256"], photo["of"])
            for photo in recorded["photos"]
        )
        return cls(run.name, run.photos, recorded["eta"], photos)

    @classmethod
    def written(
        cls, run: Run, eta: float, names: Sequence[str], digests: Sequence[str]
    ) -> PerturbedPhotos:
        """Those that `save_photos` wrote into the run's folder.

        Args:
            names, digests: of the photos that they were made from.
        """
        files = [run.photos / name for name in _names(names)]
        photos = (
            PerturbedPhoto(file.name, hash_photo_files([file])[0].sha256, digest)
            for file, digest in zip(files, digests, strict=True)
        )
        return cls(run.name, run.photos, eta, tuple(photos))

    def as_manifest(self) -> dict[str, Any]:
        """For the run's manifest."""
        return {"eta": self.eta, "photos": [vars(photo) for photo in self.photos]}

    def learnt(self, subject: SubjectRecord, clean: int = 0) -> SubjectRecord:
        """What somebody finds who collects the photos of `subject`.

        Whatever was perturbed is found perturbed; other photos are what they are.

        Args:
            clean: how many of the perturbed ones, the first, are found as they were before.

        Raises:
            UsageError: no perturbed photo would be left.
            ApdmError: perturbed photos are gone or were changed.
        """
        others = [digest for _, digest in subject.files]
        known = []
        for photo in self.photos:
            if photo.of in others:
                others.remove(photo.of)
                known.append(photo)
        if clean and clean >= len(known):
            raise UsageError(
                f"--clean-photos {clean}: of the attacker's photos run {self.run} protects "
                f"{len(known)}, and no perturbed one would be left",
                f"Give at most {len(known) - 1}." if len(known) > 1 else "Leave it out.",
            )
        others += [photo.of for photo in known[:clean]]
        perturbed = known[clean:]
        if not perturbed:
            return subject
        self._require_unchanged(perturbed)
        sources = [self.folder.resolve() / photo.name for photo in perturbed]
        if others:
            for file in hash_photo_files(find_photos(subject.sources, ignore_unreadable=True)[0]):
                if file.sha256 in others:
                    others.remove(file.sha256)
                    sources.append(file.path.resolve())
        changed = replace(
            subject, sources=tuple(sources), files=photo_hashes(sources, ignore_unreadable=True)
        )
        if not subject.places:
            return changed
        # A perturbed photo is a square already: wherever it is cut, all of it stays.
        places = {**{photo.sha256: 0.5 for photo in perturbed}, **dict(subject.places)}
        return replace(changed, places=tuple(places.items()))

    def _require_unchanged(self, photos: Sequence[PerturbedPhoto]) -> None:
        for photo in photos:
            file = self.folder / photo.name
            gone = not file.is_file()
            if gone or hash_photo_files([file])[0].sha256 != photo.sha256:
                became = "is gone" if gone else "was changed"
                raise ApdmError(
                    f"The perturbed photo {file} {became}",
                    "Put it back, or protect the photos again under another --name.",
                )


def save_photos(perturbation: Perturbation, names: Sequence[str], folder: Path) -> None:
    """Write x′ into the empty `folder`, a PNG for every one of the photos `names`."""
    from apdm_cli.diffusion.pictures import png_bytes

    for name, picture in zip(_names(names), perturbation.pictures(), strict=True):
        (folder / name).write_bytes(png_bytes(picture))


def _names(names: Sequence[str]) -> list[str]:
    """`IMG_1.png` for `IMG_1.jpg`; a number more where two would have one name."""
    found: list[str] = []
    taken: set[str] = set()
    for name in names:
        stem, number = Path(name.replace("\\", "_")).stem, 1
        chosen = stem
        while chosen.casefold() in taken:
            number += 1
            chosen = f"{stem}-{number}"
        taken.add(chosen.casefold())
        found.append(f"{chosen}.png")
    return found
