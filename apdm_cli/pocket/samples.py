"""The sample photos that come with the pocket model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from apdm_cli.errors import ApdmError, UsageError

SUBJECTS = Path(__file__).parent / "weights" / "subjects"


@dataclass(frozen=True)
class Sample:
    """One held-out identity.

    Attributes:
        name: "person-1"; the class is the part before the hyphen.
        seen: folder of photos for the protector.
        unseen: folder of other photos of the same identity, for the attacker.
    """

    name: str
    seen: Path
    unseen: Path

    @property
    def class_noun(self) -> str:
        return self.name.rsplit("-", 1)[0]


def samples() -> dict[str, Sample]:
    """Every packaged identity by name; ApdmError when this installation lacks them."""
    folders = sorted(p for p in SUBJECTS.glob("*") if p.is_dir())
    if not folders:
        raise ApdmError(
            "The sample photos are missing from this installation",
            "Reinstall apdm, or make them in a checkout: python -m pocket_training.train",
        )
    return {p.name: Sample(p.name, p / "seen", p / "unseen") for p in folders}


def sample(name: str) -> Sample:
    """One packaged identity; UsageError lists the known ones."""
    known = samples()
    if name not in known:
        raise UsageError(f"There is no sample {name!r}", f"Known are: {', '.join(known)}")
    return known[name]
