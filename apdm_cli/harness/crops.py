"""How an attacker cuts photos: an entry of a suite in its own way, or all as the command says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from apdm_cli.harness.suites import SuiteEntry
    from apdm_cli.subject import Crop, SubjectRecord


@dataclass(frozen=True)
class Crops:
    """Which cut every entry gets, and the subject with its photos cut so.

    Attributes:
        asked: what the command says, which holds for all entries.
        usual: how the protector cuts, which needs no name in tables.
        cut: the subject for every other cut; empty until `cutting` has looked for faces.
    """

    asked: Crop | None = None
    usual: Crop = "center"
    cut: Mapping[Crop, SubjectRecord] = field(default_factory=dict)

    def of(self, entry: SuiteEntry) -> Crop | None:
        """The cut that somebody named for `entry`: the command, or the suite."""
        return self.asked or entry.own_crop

    def cutting(
        self, subject: SubjectRecord, entries: Sequence[SuiteEntry]
    ) -> tuple[Crops, tuple[str, ...]]:
        """The same with `subject` cut in each way that `entries` need, and sentences for the user.

        Raises:
            ApdmError: as `SubjectRecord.cropped`.
        """
        cut: dict[Crop, SubjectRecord] = {}
        said: list[str] = []
        for crop in map(self.of, entries):
            if crop is not None and crop not in cut:
                cut[crop], about = subject.cropped(crop)
                said += about
        return replace(self, cut=cut), tuple(said)

    def applied(self, subject: SubjectRecord, entry: SuiteEntry) -> SubjectRecord:
        """`subject` as `entry` has it."""
        crop = self.of(entry)
        return subject if crop is None else self.cut.get(crop, subject)

    def label(self, entry: SuiteEntry) -> str:
        """For tables: empty where the cut is the usual one, or the entry has a name of its own."""
        crop = self.of(entry)
        named = self.asked is None and entry.variant
        return "" if crop in (None, self.usual) or named else f"crop {crop}"
