"""Who is to be protected, or attacked: in memory, and as a manifest keeps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from apdm_cli.diffusion.photo_files import (
    PhotoFile,
    find_photos,
    hash_photo_files,
    listed,
    mask_files,
    photo_captions,
    photo_hashes,
)
from apdm_cli.errors import ApdmError

if TYPE_CHECKING:
    from torch import Tensor

    from apdm_cli.diffusion.buckets import PhotoCut
    from apdm_cli.diffusion.photos import Photos

# As `apdm_cli.diffusion.photo_decoding.Crop`, which whoever only reads a record need not import.
Crop = Literal["center", "face", "none"]
HINT = "Say where they are now with --photos."


@dataclass(frozen=True)
class Subject:
    """The photos of one subject and the words that go with them.

    Attributes:
        name: readable, for tables and folders.
        class_noun: "person", "dog", ...
        identifier: the rare word that personalization binds to the subject ("sks").
        photos: held in memory only; nothing made from them is ever written, but for perturbed
            ones that are to be published (`apdm_cli.protection.perturbed`).
    """

    name: str
    class_noun: str
    identifier: str
    photos: Photos

    @property
    def personal_prompt(self) -> str:
        """c_per (docs/method.md): "a photo of sks person"; without an identifier, c_pr."""
        return " ".join(f"a photo of {self.identifier} {self.class_noun}".split())

    @property
    def class_prompt(self) -> str:
        """c_pr (docs/method.md): "a photo of person"."""
        return f"a photo of {self.class_noun}"


@dataclass(frozen=True)
class SubjectRecord:
    """A subject as a manifest keeps it: its words, and which files its photos are.

    Attributes:
        name, class_noun, identifier: as in `Subject`.
        sources: absolute paths of the folders or files that hold the photos; none where they
            are to be forgotten.
        files: (file name, SHA-256 of its content) of every photo, in the order of `load_photos`.
        crop: how the photos become squares; part of what a run was made from.
        places: with the crop "face", (SHA-256, where the square lies along the longer side, 0 to
            1) of every photo: what was found once counts from then on, whatever finds faces later.
    """

    name: str
    class_noun: str
    identifier: str
    sources: tuple[Path, ...]
    files: tuple[tuple[str, str], ...]
    crop: Crop = "center"
    places: tuple[tuple[str, float], ...] = ()

    @classmethod
    def of(cls, subject: Subject, sources: Sequence[Path]) -> SubjectRecord:
        """The record of `subject`, whose photos were loaded from `sources`."""
        files = tuple(zip(subject.photos.names, subject.photos.sha256, strict=True))
        words = (subject.name, subject.class_noun, subject.identifier)
        photos = subject.photos
        places = tuple(zip(photos.sha256, photos.places, strict=True)) if photos.places else ()
        return cls(*words, _absolute(sources), files, photos.crop, places)

    @classmethod
    def read(
        cls,
        name: str,
        class_noun: str,
        identifier: str,
        sources: Sequence[Path],
        *,
        crop: Crop = "center",
        ignore_unreadable: bool = False,
    ) -> SubjectRecord:
        """Find and hash the photos in `sources` without decoding any. ApdmError without photos."""
        resolved = _absolute(sources)
        files = photo_hashes(resolved, ignore_unreadable=ignore_unreadable)
        return cls(name, class_noun, identifier, resolved, files, crop)

    @classmethod
    def from_manifest(cls, recorded: Mapping[str, Any]) -> SubjectRecord:
        """The record that `as_manifest` wrote; ApdmError naming what is not there."""
        try:
            photos = recorded["photos"]
            crop = photos.get("crop", "center")
            if crop not in get_args(Crop):
                raise TypeError(f"crop is {crop!r}")
            return cls(
                recorded["name"],
                recorded["class_noun"],
                recorded["identifier"],
                tuple(Path(source) for source in photos.get("sources", ())),
                tuple((file["name"], file["sha256"]) for file in photos["files"]),
                crop,
                tuple((file["sha256"], float(file["at"])) for file in photos["files"])
                if crop == "face"
                else (),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ApdmError(
                f"The manifest does not say who its subject is ({error})",
                "It was written by another version of apdm: run the command that made it again.",
            ) from error

    def as_manifest(self) -> dict[str, Any]:
        """For a manifest. The crop is named where it is not the usual one."""
        files: list[dict[str, Any]] = [
            {"name": name, "sha256": digest} for name, digest in self.files
        ]
        if self.places:
            places = dict(self.places)
            files = [{**file, "at": places[file["sha256"]]} for file in files]
        photos: dict[str, Any] = {
            "sources": [str(source) for source in self.sources],
            "files": files,
        }
        if self.crop != "center":
            photos["crop"] = self.crop
        return {
            "name": self.name,
            "class_noun": self.class_noun,
            "identifier": self.identifier,
            "photos": photos,
        }

    def without_paths(self) -> SubjectRecord:
        """The record without the folders: whoever loads it again says where the photos are."""
        return replace(self, sources=())

    @property
    def digests(self) -> frozenset[str]:
        """SHA-256 of every photo's content."""
        return frozenset(digest for _, digest in self.files)

    def captions(self) -> tuple[str, ...]:
        """What the files beside the photos say of them, as they are now; none anywhere is ()."""
        return photo_captions(self.sources)

    def masks(self) -> tuple[str, ...]:
        """SHA-256 of the mask beside each photo, as it is now, or ""; none anywhere is ()."""
        found = tuple(mask.sha256 if mask else "" for _, mask in mask_files(self.sources))
        return found if any(found) else ()

    def load_masks(self, resolution: int) -> Tensor:
        """These masks, cut as the photos are: float32 (N, 1, R, R), 1 where the subject is.

        ApdmError for one that cannot be used.
        """
        from apdm_cli.diffusion.photos import load_masks

        return load_masks(self.sources, resolution, crop=self.crop, places=dict(self.places))

    def load_cuts(
        self, buckets: Sequence[tuple[int, int]], *, masked: bool = False
    ) -> list[PhotoCut]:
        """The photos, each cut to its bucket; see `apdm_cli.diffusion.buckets.load_cuts`."""
        from apdm_cli.diffusion.buckets import load_cuts

        places = dict(self.places)
        return load_cuts(self.sources, buckets, crop=self.crop, places=places, masked=masked)

    def cropped(self, crop: Crop) -> tuple[SubjectRecord, tuple[str, ...]]:
        """The record with its photos cut in another way, and sentences for the user.

        Faces are looked for where `crop` says so, unless the record has their places.

        Raises:
            ApdmError: photos that cannot be read; no package that finds faces.
        """
        if crop == self.crop:
            return self, ()
        if crop != "face":
            return replace(self, crop=crop, places=()), ()
        from apdm_cli.diffusion.photos import find_faces

        places, said = find_faces(self.sources)
        return replace(self, crop=crop, places=places), said

    def found(self, photos: Sequence[Path] = ()) -> SubjectRecord:
        """The record with its photos found again, here or in `photos`; none is decoded.

        Raises:
            ApdmError: the photos are gone, or their content is not the recorded one.
        """
        sources = self._where(photos)
        try:
            # The digests decide: what is not read was not read then.
            photo_files, ignored = find_photos(sources, ignore_unreadable=True)
            there = hash_photo_files(photo_files)
            read = self._without_damaged(there)
        except ApdmError as error:
            raise self._gone(error) from error
        damaged = [photo.name for photo in there if photo not in read]
        unread = [entry.name for entry in ignored if entry.is_picture]
        self._require_same(sources, [photo.sha256 for photo in read], [*damaged, *unread])
        if damaged:  # whoever reads the photos again meets the same ones
            sources = tuple(photo.path for photo in read)
        files = tuple((photo.name, photo.sha256) for photo in read)
        return replace(self, sources=sources, files=files)

    def _without_damaged(self, there: Sequence[PhotoFile]) -> list[PhotoFile]:
        """`there` without files of other contents that cannot be decoded.

        `apdm protect --ignore-unreadable` has left them out by name.
        """
        if all(photo.sha256 in self.digests for photo in there):
            return list(there)
        from apdm_cli.diffusion.photo_decoding import is_readable

        return [photo for photo in there if photo.sha256 in self.digests or is_readable(photo)]

    def load(self, resolution: int, photos: Sequence[Path] = ()) -> Subject:
        """The subject with its photos decoded again, compared with the recorded digests.

        Args:
            resolution: side of the square pixels in [-1, 1].
            photos: folders or files to read instead of the recorded ones.

        Raises:
            ApdmError: the photos are gone, or their content is not the recorded one.
        """
        # Whoever only reads the words of a record needs no torch.
        from apdm_cli.diffusion.photos import load_photos

        sources = self._where(photos)
        try:
            found = load_photos(
                sources,
                resolution,
                crop=self.crop,
                places=dict(self.places),
                ignore_unreadable=True,
            )
        except ApdmError as error:
            raise self._gone(error) from error
        damaged = [entry.name for entry in found.ignored if entry.is_picture]
        self._require_same(sources, found.sha256, damaged)
        return Subject(self.name, self.class_noun, self.identifier, found)

    def _where(self, photos: Sequence[Path]) -> tuple[Path, ...]:
        sources = _absolute(photos) or self.sources
        if not sources:
            raise ApdmError(f"The run does not keep where the photos of {self.name} lie", HINT)
        return sources

    def _gone(self, error: ApdmError) -> ApdmError:
        return ApdmError(f"The photos of {self.name} cannot be read again: {error.what}", HINT)

    def _require_same(
        self, sources: Sequence[Path], found: Sequence[str], damaged: Sequence[str]
    ) -> None:
        recorded = [digest for _, digest in self.files]
        if sorted(recorded) == sorted(found):
            return
        changed = len(set(recorded) - set(found))
        have = "has" if changed == 1 else "have"
        difference = f"{changed} of {len(recorded)} {have} another content"
        if len(recorded) != len(found):
            files = "1 file" if len(found) == 1 else f"{len(found)} files"
            difference = f"{files} instead of {len(recorded)}"
        if damaged:
            difference += f", and {listed(damaged)} cannot be read"
        where = ", ".join(map(str, sources))
        raise ApdmError(
            f"The photos of {self.name} have changed: in {where}, {difference}",
            HINT,
        )


def _absolute(paths: Sequence[Path]) -> tuple[Path, ...]:
    try:
        return tuple(Path(path).expanduser().resolve() for path in paths)
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle, no such home
        raise ApdmError(f"A path cannot be followed: {error}", "Check the path.") from error
