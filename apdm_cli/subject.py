"""Who is to be protected, or attacked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from apdm_cli.diffusion.photos import Photos


@dataclass(frozen=True)
class Subject:
    """The photos of one subject and the words that go with them.

    Attributes:
        name: readable, for tables and folders.
        class_noun: "person", "dog", ...
        identifier: the rare word that personalization binds to the subject ("sks").
        photos: held in memory only; nothing made from them is ever written.
    """

    name: str
    class_noun: str
    identifier: str
    photos: Photos

    @property
    def personal_prompt(self) -> str:
        """c_per of METHOD.md: "a photo of sks person"; without an identifier, c_pr."""
        return " ".join(f"a photo of {self.identifier} {self.class_noun}".split())

    @property
    def class_prompt(self) -> str:
        """c_pr of METHOD.md: "a photo of person"."""
        return f"a photo of {self.class_noun}"
