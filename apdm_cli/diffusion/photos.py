"""The photos of a subject as one tensor. It stays in memory: photos are never written anywhere."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from apdm_cli.diffusion.faces import place_of_face
from apdm_cli.diffusion.photo_decoding import (
    MIN_SIDE,
    Crop,
    cropped_share,
    cut,
    decode_first,
    decode_picture,
    square,
)
from apdm_cli.diffusion.photo_files import (
    ChangedPhoto,
    Ignored,
    PhotoFile,
    find_photos,
    hash_photo_files,
    hash_readable,
    listed,
    mask_files,
    none_readable,
    photo_hashes,
    read_content,
    unread,
)
from apdm_cli.errors import ApdmError

__all__ = ["Photos", "find_photos", "load_photos", "photo_hashes"]

MUCH_CROPPED = 0.3  # of a photo's area
MOST_SENTENCES = 10  # about one picture each


@dataclass(frozen=True)
class Photos:
    """N photos of one subject, ready for the encoder.

    pixels: float32 (N, 3, R, R) in [-1, 1], sRGB. names, sha256: of the N files, in the same
    order. ignored: the other files that the folders held. warnings: sentences for the user.
    crop: how rectangles became squares; places: where each square lies along the longer side, 0
    to 1, with the crop "face". captions, masks: of the N photos, for whoever wants them; masks
    are float32 (N, 1, R, R), 1 where the subject is and 0 where it is not.
    """

    names: tuple[str, ...]
    sha256: tuple[str, ...]
    pixels: torch.Tensor
    ignored: tuple[Ignored, ...] = ()
    warnings: tuple[str, ...] = ()
    crop: Crop = "center"
    places: tuple[float, ...] = ()
    captions: tuple[str, ...] = ()
    masks: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.names)

    def first(self, count: int) -> Photos:
        """The first `count` of them; 0 is all."""
        end = count or len(self)
        return replace(
            self,
            names=self.names[:end],
            sha256=self.sha256[:end],
            pixels=self.pixels[:end],
            places=self.places[:end],
            captions=self.captions[:end],
            masks=None if self.masks is None else self.masks[:end],
        )


def load_photos(
    paths: Sequence[Path],
    resolution: int,
    *,
    crop: Crop = "center",
    places: Mapping[str, float] | None = None,
    ignore_unreadable: bool = False,
    may_ignore: bool = True,
) -> Photos:
    """Read folders or single files into pixels of `resolution` x `resolution`.

    The order is the natural order of the file names, so the same folder gives the same tensor on
    every machine. One photo is in memory at a time, and its size is bounded before it is decoded.

    Args:
        crop: "center" cuts a square out of the middle, "face" cuts it around the largest face, and
            "none" keeps all and pads with white.
        places: SHA-256 → where the square was put before, with the crop "face"; no face is looked
            for in these photos.
        ignore_unreadable: see `find_photos`; files that are damaged, or gone since, are left out as
            well, and each is named in the warnings.
        may_ignore: see `find_photos`.

    Raises `ApdmError` (file and remedy named) for missing paths, no photos, pictures that cannot
    be read, shapes that cannot be used, and for "face" without the package that finds faces.
    """
    files, ignored = find_photos(paths, ignore_unreadable=ignore_unreadable, may_ignore=may_ignore)
    photos: list[PhotoFile] = []
    hashed, broken = hash_readable(files) if ignore_unreadable else (hash_photo_files(files), [])
    rows, chosen, said = [], [], _Said(resolution, crop)
    for photo in hashed:
        try:
            picture, frames = decode_first(read_content(photo), photo.name)
        except ApdmError as error:
            if not ignore_unreadable or isinstance(error, ChangedPhoto):
                raise
            broken.append(unread(photo.path, error))
            continue
        photos.append(photo)
        said.note(photo.name, picture.size, frames)
        at = (places or {}).get(photo.sha256, 0.5)
        if crop == "face" and places is None:
            at = said.place(photo.name, picture)
        chosen.append(at)
        rows.append(np.asarray(square(picture, resolution, crop, at)))
        del picture
    if not rows:
        raise none_readable(broken)
    values = torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).contiguous()
    return Photos(
        names=tuple(photo.name for photo in photos),
        sha256=tuple(photo.sha256 for photo in photos),
        pixels=values.to(torch.float32) / 127.5 - 1.0,
        ignored=(*ignored, *broken),
        warnings=(
            *_about_files(photos),
            *said.sentences(),
            *_about_ignored([entry for entry in ignored if not entry.is_picture]),
            *_about_left_out([*broken, *(entry for entry in ignored if entry.is_picture)]),
        ),
        crop=crop,
        places=tuple(chosen) if crop == "face" else (),
    )


def find_faces(paths: Sequence[Path]) -> tuple[tuple[tuple[str, float], ...], tuple[str, ...]]:
    """Where the crop "face" puts the square in every photo that `load_photos` reads.

    Returns (SHA-256, place from 0 to 1) of each, and sentences for the user.

    Raises `ApdmError` as `load_photos`.
    """
    files, _ = find_photos(paths, ignore_unreadable=True)
    places, said = [], _Said(MIN_SIDE, "face")
    for photo in hash_photo_files(files):
        picture = decode_picture(read_content(photo), photo.name)
        places.append((photo.sha256, said.place(photo.name, picture)))
    return tuple(places), tuple(said.sentences())


def load_masks(
    paths: Sequence[Path],
    resolution: int,
    *,
    crop: Crop = "center",
    places: Mapping[str, float] | None = None,
) -> torch.Tensor:
    """The masks of the photos that `load_photos` reads, cut as these are: float32 (N, 1, R, R).

    White is 1, the subject, and black 0; a photo without a mask is the subject all over.

    Args:
        crop, places: as for `load_photos`.

    Raises:
        ApdmError: a mask that cannot be read, or has another shape than its photo.
    """
    rows = []
    for photo, mask in mask_files(paths):
        whole = (1, 1) if mask is None else decode_picture(read_content(photo), photo.name).size
        at = (places or {}).get(photo.sha256, 0.5)
        rows.append(cut_mask(mask, whole, (resolution, resolution), crop, at))
    return torch.cat(rows)


def cut_mask(
    mask: PhotoFile | None, whole: tuple[int, int], size: tuple[int, int], crop: Crop, at: float
) -> torch.Tensor:
    """A mask cut as its photo is: float32 (1, 1, H, W), 1 all over where there is none.

    Args:
        whole: width and height of the upright photo.
        size, crop, at: as for `cut`.

    Raises:
        ApdmError: it cannot be read, or has another shape than its photo.
    """
    if mask is None:
        return torch.ones(1, 1, size[1], size[0])
    picture = decode_picture(read_content(mask), mask.name).convert("L")
    (width, height), (photo_width, photo_height) = picture.size, whole
    if abs(width * photo_height - height * photo_width) > max(whole):  # less than a pixel
        raise ApdmError(
            f"{mask.name} has another shape ({width}x{height} pixels) than the photo that it "
            f"is for ({photo_width}x{photo_height})",
            "Draw it on the upright photo, in the photo's size.",
        )
    # Turned to its negative and back: what `cut` pads a photo with is no subject.
    shown = 255 - np.asarray(cut(ImageOps.invert(picture), size, crop, at)[0])
    return torch.from_numpy(shown)[None, None].to(torch.float32) / 255


class _Said:
    """Collects, photo by photo, what the user should know of their content."""

    def __init__(self, resolution: int, crop: Crop) -> None:
        self._resolution, self._crop = resolution, crop
        self._enlarged: list[str] = []
        self._cropped: list[str] = []
        self._faceless: list[str] = []
        self._crowded: list[str] = []
        self._animated: list[str] = []

    def note(self, name: str, size: tuple[int, int], frames: int) -> None:
        if min(size) < self._resolution:
            self._enlarged.append(name)
        share = cropped_share(size)
        if self._crop == "center" and share > MUCH_CROPPED:
            self._cropped.append(f"{name} ({share:.0%})")
        if frames > 1:
            self._animated.append(f"{name} ({frames})")

    def place(self, name: str, picture: Image.Image) -> float:
        """Where the square lies along the longer side of `picture`, by the face in it."""
        if picture.width == picture.height:  # nothing is cut off: no question
            return 0.5
        place = place_of_face(picture)
        if not place.faces:
            self._faceless.append(name)
        elif not place.all_inside:
            self._crowded.append(f"{name} ({place.faces})")
        return place.at

    def sentences(self) -> list[str]:
        found = []
        if self._cropped:
            found.append(
                "Much is cropped away, because the model takes squares: "
                f"{listed(self._cropped, 10)}. If the subject is at the edge, crop the photo to "
                "it yourself, or keep all of it with --crop none."
            )
        if self._faceless:
            found.append(
                f"No face was found in {listed(self._faceless, 10)}: the square is cut out of the "
                "middle. If the subject is not there, crop the photo to it yourself, or keep all "
                "of every photo with --crop none."
            )
        if self._crowded:
            found.append(
                f"Several faces are too far apart for one square in {listed(self._crowded, 10)}: "
                "it is cut around the largest. If that is not the subject, crop the photo to it "
                "yourself."
            )
        if self._animated:
            found.append(f"Only the first picture is used of {listed(self._animated, 10)}.")
        if self._enlarged:
            verb = "is" if len(self._enlarged) == 1 else "are"
            found.append(
                f"{listed(self._enlarged)} {verb} smaller than the model's {self._resolution} "
                "pixels: enlarged."
            )
        return found


def _about_files(photos: list[PhotoFile]) -> list[str]:
    found = []
    if len(photos) == 1:
        found.append(
            f"Only one photo ({photos[0].name}): other photos of the subject may stay unprotected."
        )
    names = defaultdict(list)
    for photo in photos:
        names[photo.sha256].append(photo.name)
    found += [
        f"{listed(same)} have identical content: they count {len(same)} times."
        for same in names.values()
        if len(same) > 1
    ]
    return found


def _about_left_out(pictures: Sequence[Ignored]) -> list[str]:
    """A sentence for each: it may show the subject. Of many, names and reasons in one."""
    found = [
        f"{entry.name} is left out, and stays unprotected: {entry.reason}."
        for entry in pictures[:MOST_SENTENCES]
    ]
    if more := [f"{entry.name} ({entry.reason})" for entry in pictures[MOST_SENTENCES:]]:
        found.append(f"{len(more)} more are left out, and stay unprotected: {listed(more, 20)}.")
    return found


def _about_ignored(ignored: Sequence[Ignored]) -> list[str]:
    """File by file; hidden files and folders are what systems leave everywhere."""
    if not ignored:
        return []
    named = [f"{entry.name} ({entry.reason})" for entry in ignored]
    return [
        f"Other files or folders beside the photos: {len(ignored)} ignored: {listed(named, 20)}."
    ]
