"""What is to be run: one job per attack, configuration and seed; one cell per job and arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from apdm_cli.config import flatten, merge, resolve
from apdm_cli.errors import UsageError
from apdm_cli.extension.attack import Attack, AttackConfig
from apdm_cli.extension.manager import Registered, choose
from apdm_cli.harness.arms import ArmName, Arms
from apdm_cli.harness.photo_set import PhotoSet
from apdm_cli.harness.suites import SuiteEntry
from apdm_cli.harness.transforms import check_transforms
from apdm_cli.runs.cells import Cell, CellState, cell_key

CONTROL = "_control"


@dataclass(frozen=True)
class Words:
    """How the attacker calls the subject; `name` is for people."""

    name: str
    class_noun: str
    identifier: str


@dataclass(frozen=True)
class Job:
    """One attack with a configuration, on one set of photos, with one seed."""

    attack: Registered[Attack]
    config: AttackConfig
    variant: str
    seed: int
    words: Words
    photos: PhotoSet
    transforms: tuple[str, ...] = ()
    profile: str = ""
    asked: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the attack."""
        return self.attack.item.name

    def description(self) -> dict[str, Any]:
        """Everything that changes the result, but for the attacked model."""
        return {
            "attack": self.name,
            "version": self.attack.origin.version,
            "config": self.config.model_dump(mode="json"),
            "class_noun": self.words.class_noun,
            "identifier": self.words.identifier,
            "photos": [digest for _, digest in self.photos.files],
            "transforms": list(self.transforms),
            "seed": self.seed,
        }


@dataclass(frozen=True)
class PlannedCell:
    """A job on one arm, and the cell that holds its result."""

    job: Job
    arm: ArmName
    cell: Cell
    control: str | None

    @property
    def finished(self) -> bool:
        """Whether its result is there already."""
        return self.cell.state is CellState.FINISHED


def make_jobs(
    available: Mapping[str, Registered[Attack]],
    entries: Sequence[SuiteEntry],
    *,
    settings: Sequence[Mapping[str, Any]],
    words: Words,
    photos: PhotoSet,
    transforms: Sequence[str],
    seeds: Sequence[int],
    profile: str,
    label: str = "",
    other_photos: bool = False,
) -> list[Job]:
    """One job per entry and seed, with its configuration resolved.

    Args:
        settings: layers over profile and suite, each {attack name: {key: value}}; a key that is
            no table goes to every attack.
        label: what the options of the command changed ("unseen photos"), for the variant.
        other_photos: whether the photos are others than the run's, for the manifest.

    Raises:
        UsageError: unknown attack, transform or setting, or settings for an attack that is not
            among the entries.
    """
    for layer in settings:
        _check_tables(layer, {entry.name for entry in entries})
    jobs = []
    for entry in entries:
        attack = choose(available, entry.name)
        chosen = [*(entry.transforms or transforms)]
        check_transforms(chosen)
        layers = [_of_attack(layer, entry.name) for layer in settings]
        config = _resolve(attack.item, profile, entry.set, layers)
        named = Words(words.name, words.class_noun, entry.identifier or words.identifier)
        variant = _variant(entry, label, merge(*layers), transforms)
        for seed in seeds:
            # What was asked, for whoever repeats it; labels and defaults do not enter.
            asked = {
                "plugin": entry.name,
                "set": dict(flatten(merge(entry.set, *layers))),
                "suite": entry.suite,
                "entry": entry.variant or None,
                "photos": other_photos,
                "identifier": named.identifier,
                "transforms": chosen,
                "seed": seed,
            }
            jobs.append(
                Job(attack, config, variant, seed, named, photos, tuple(chosen), profile, asked)
            )
    return jobs


def plan_cells(jobs: Sequence[Job], arms: Arms, root: Path, *, control: bool) -> list[PlannedCell]:
    """The cells of `jobs`: for each the control arm first, where it is wanted.

    The control arm lies in `root/_control` and is shared by all runs on that model.
    """
    cells: dict[Path, PlannedCell] = {}
    original = arms.ref("original").digest if arms.has_original else None
    for job in jobs:
        names: list[ArmName] = ["original", "protected"] if control else ["protected"]
        partner = None
        for arm in names:
            key = cell_key(
                {**job.description(), "model": arms.ref(arm).digest, "original": original},
                readable=("attack",),
            )
            folder = root / CONTROL if arm == "original" else arms.run.attacks
            cell = PlannedCell(job, arm, Cell(folder, key), partner)
            cells.setdefault(cell.cell.path, cell)
            partner = key
    return list(cells.values())


def cell_manifest(planned: PlannedCell, arms: Arms) -> dict[str, Any]:
    """The fields of a cell's manifest that are known before it runs."""
    job = planned.job
    return {
        "schema": 1,
        "kind": "attack",
        "attack": job.name,
        "variant": job.variant,
        "asked": dict(job.asked),
        "configuration": job.config.model_dump(mode="json"),
        "profile": job.profile,
        "plugin": asdict(job.attack.origin),
        "arm": planned.arm,
        "seed": job.seed,
        "model": asdict(arms.ref(planned.arm)),
        "subject": {**asdict(job.words), "photos": job.photos.as_manifest()},
        "transforms": list(job.transforms),
        "control": planned.control,
    }


def _resolve(
    attack: Attack, profile: str, suite: Mapping[str, Any], layers: Sequence[Mapping[str, Any]]
) -> AttackConfig:
    try:
        return resolve(attack.Config, attack.profiles.get(profile, {}), suite, *layers)
    except UsageError as error:
        raise UsageError(f"{attack.name}: {error.what}", error.hint) from None


def _of_attack(layer: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What `layer` sets for the attack `name`; keys for every attack come first."""
    common = {key: value for key, value in layer.items() if not isinstance(value, Mapping)}
    return merge(common, layer.get(name, {}))


def _check_tables(layer: Mapping[str, Any], chosen: set[str]) -> None:
    for name, value in layer.items():
        if isinstance(value, Mapping) and name not in chosen:
            raise UsageError(
                f"There are settings for {name}, which is not among the attacks to run",
                f"To run are: {', '.join(sorted(chosen))}. Settings are written ATTACK.KEY=VALUE.",
            )


def _variant(
    entry: SuiteEntry, label: str, changed: Mapping[str, Any], transforms: Sequence[str]
) -> str:
    parts = [entry.variant or ", ".join(f"{k}={v}" for k, v in entry.set.items()), label]
    if entry.identifier and not entry.variant:
        parts.append(f"identifier {entry.identifier}")
    if entry.transforms and not entry.variant:
        parts.append(" + ".join(entry.transforms))
    elif transforms and not entry.transforms:
        parts.append(" + ".join(transforms))
    parts += [f"{key}={value}" for key, value in changed.items()]
    return ", ".join(part for part in parts if part)
