"""What is to be run: one job per attack, configuration and seed; one cell per job and model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apdm_cli.config import flatten, merge
from apdm_cli.errors import ApdmError, UsageError
from apdm_cli.extension.containment import asked
from apdm_cli.extension.manager import Registered, choose
from apdm_cli.harness.crops import Crops
from apdm_cli.harness.transforms import check_transforms
from apdm_cli.personalization.settings import AttackConfig
from apdm_cli.runs.cells import Cell, cell_key
from apdm_cli.runs.manifest import read_manifest
from apdm_cli.runs.precision import in_key, name_of

if TYPE_CHECKING:
    from apdm_cli.extension.attack import Attack
    from apdm_cli.harness.arms import ArmName, Arms
    from apdm_cli.harness.stops import Drawing
    from apdm_cli.harness.suites import SuiteEntry
    from apdm_cli.subject import SubjectRecord

CONTROL = "_control"
BOTH: tuple[ArmName, ...] = ("original", "protected")
SCHEMA = 1
AS_PROTECTED = Crops()


@dataclass(frozen=True)
class Job:
    """One attack with a configuration, on one set of photos, with one seed.

    Attributes:
        budgets: multiples of the attack's steps at which it is looked at, ascending.
        scale: a budget that is a training of its own (see `Attack.continues`): its steps are
            multiplied by it, and `budgets` are (1,).
        clean_photos: how many of the photos that the run protects the attacker has unprotected.
        made_of: version of the plugin of another attack that this one is made of, where that is
            another plugin.
        asked: what the command said, for a manifest.
    """

    attack: Registered[Attack]
    config: AttackConfig
    variant: str
    seed: int
    subject: SubjectRecord
    transforms: tuple[str, ...] = ()
    profile: str = ""
    budgets: tuple[float, ...] = (1.0,)
    scale: float = 1.0
    clean_photos: int = 0
    made_of: str = ""
    asked: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the attack."""
        return self.attack.item.name

    def description(self) -> dict[str, Any]:
        """Everything that changes the result, but for the attacked model and the precision.

        The budgets of one training do not: it is the same training, longer.
        """
        described = {
            "attack": self.name,
            "version": self.attack.origin.version,
            "config": self.config.description(),
            "class_noun": self.subject.class_noun,
            "identifier": self.subject.identifier,
            "photos": [digest for _, digest in self.subject.files],
            "transforms": list(self.transforms),
            "seed": self.seed,
        }
        if self.subject.crop != "center":
            described["crop"] = self.subject.crop
        if self.subject.places:
            places = dict(self.subject.places)
            described["places"] = [places[digest] for _, digest in self.subject.files]
        if self.scale != 1:
            described["budget"] = self.scale
        if self.made_of:
            described["made_of"] = self.made_of
        if self.config.captions:
            described["captions"] = list(self.subject.captions())
        if self.config.masks:
            described["masks"] = list(self.subject.masks())
        return described

    def scaled_config(self) -> AttackConfig:
        """The configuration that is run: with the steps of the budget."""
        if self.scale == 1:
            return self.config
        steps = max(1, round(self.scale * self.config.steps))
        return self.config.model_copy(update={"steps": steps})


@dataclass(frozen=True)
class PlannedCell:
    """A job on one model, and the cell that holds its result.

    Attributes:
        drawing: the pictures that are wanted at every budget but the longest.
        whom: name of the subject, where the run protects several; "" otherwise.
        dtype: the precision of the models, as manifests name it.
    """

    job: Job
    arm: ArmName
    cell: Cell
    control: str | None
    drawing: Drawing | None = None
    whom: str = ""
    dtype: str = "float32"

    @property
    def title(self) -> str:
        """For people: `lora (rank=4), protected, seed 0`, after the name of one of several."""
        variant = f" ({self.job.variant})" if self.job.variant else ""
        scale = f", {self.job.scale:g} × the steps" if self.job.scale != 1 else ""
        whom = f"{self.whom}: " if self.whom else ""
        return f"{whom}{self.job.name}{variant}{scale}, {self.arm}, seed {self.job.seed}"

    @property
    def finished(self) -> bool:
        """Whether its result is there already, at every budget that is wanted."""
        manifest = self._manifest()
        if manifest is None:
            return False
        wanted, found = set(self.job.budgets), self._budgets(manifest)
        # Of the longest budget the artifact is there, unless it gave way to pictures.
        last = {max(found, default=0.0)} if manifest.get("artifact") else set()
        early = wanted - last
        same = self.drawing is None or self.drawing.is_that_of(manifest.get("drawing"))
        return wanted <= found and (same or not early)

    def found_budgets(self) -> set[float]:
        """The budgets at which the finished cell was looked at; none if it is not finished."""
        manifest = self._manifest()
        return set() if manifest is None else self._budgets(manifest)

    def _budgets(self, manifest: Mapping[str, Any]) -> set[float]:
        stops = manifest.get("stops")
        if stops is None:  # written before attacks had budgets
            return {1.0}
        return {float(stop["budget"]) / self.job.scale for stop in stops}

    def _manifest(self) -> dict[str, Any] | None:
        try:
            manifest = read_manifest(self.cell.path) if self.cell.path.is_dir() else None
        except ApdmError:
            if self.cell.path.is_dir():
                raise
            return None  # just being replaced by another process
        # Version 0.2.0 had one key for all precisions, which is float32's.
        if manifest is None or (manifest.get("dtype") or self.dtype) != self.dtype:
            return None
        return manifest


def make_jobs(
    available: Mapping[str, Registered[Attack]],
    entries: Sequence[SuiteEntry],
    *,
    settings: Sequence[Mapping[str, Any]],
    subject: SubjectRecord,
    transforms: Sequence[str],
    seeds: Sequence[int],
    profile: str,
    label: str = "",
    other_photos: bool = False,
    clean_photos: int = 0,
    crops: Crops = AS_PROTECTED,
    pictures: Mapping[str, Any] | None = None,
) -> list[Job]:
    """One job per entry, seed and separate budget, with its configuration resolved.

    Args:
        settings: layers over profile and suite, each {attack name: {key: value}}; a key that is
            no table goes to every attack.
        label: what the options of the command changed ("unseen photos"), for the variant.
        other_photos: whether the photos are others than the run's, for the manifest.
        clean_photos: see `Job`.
        crops: the subject for entries whose photos are cut in another way.
        pictures: how those on the way were asked for, for the manifest.

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
        config = _resolve(attack.item, profile, [entry.set, *layers], available)
        if config.captions and not subject.captions():
            raise UsageError(
                f"{entry.name}: captions=true, and no .txt lies beside any of the photos",
                "Write one beside each photo, with its name: 1.txt for 1.png.",
            )
        if config.masks and not subject.masks():
            raise UsageError(
                f"{entry.name}: masks=true, and no mask lies beside any of the photos",
                "Draw one for each photo, white where the subject is: 1-masklabel.png for 1.jpg.",
            )
        identifier = entry.identifier or subject.identifier
        named = replace(crops.applied(subject, entry), identifier=identifier)
        words = ", ".join(filter(None, (label, crops.label(entry))))
        variant = _variant(entry, words, merge(*layers), transforms)
        budgets = tuple(sorted(set(entry.budgets or (1.0,))))
        for seed in seeds:
            # What was asked, for whoever repeats it; labels and defaults do not enter.
            asked = {
                "plugin": entry.name,
                "set": dict(flatten(merge(entry.set, *layers))),
                "suite": entry.suite,
                "entry": entry.variant or None,
                "photos": other_photos,
                **({"clean_photos": clean_photos} if clean_photos else {}),
                **({"crop": crop} if (crop := crops.of(entry)) else {}),
                "identifier": named.identifier,
                "transforms": chosen,
                "seed": seed,
                "budgets": list(budgets),
                "pictures": dict(pictures or {}),
            }
            job = Job(attack, config, variant, seed, named, tuple(chosen), profile, asked=asked)
            job = replace(job, clean_photos=clean_photos, made_of=_made_of(job, available))
            jobs += _with_budgets(job, budgets)
    return jobs


def plan_cells(
    jobs: Sequence[Job],
    arms: Arms,
    root: Path,
    *,
    wanted: Sequence[ArmName] = BOTH,
    drawing: Drawing | None = None,
) -> list[PlannedCell]:
    """The cells of `jobs`, on the models that are wanted: for each job the original's first.

    Cells of the original lie in `root/_control` and are shared by all runs on that model. A cell
    that several jobs ask for comes once, with the budgets of all.

    Args:
        arms: of the run; of one with several subjects, of its view for the one that is attacked.
    """
    cells: dict[Path, PlannedCell] = {}
    original = arms.ref("original").digest if arms.has_original else None
    for job in jobs:
        partner = None
        for arm in wanted:
            mine = _learning(job, arm, arms)
            key = cell_key(
                {
                    **mine.description(),
                    **in_key(arms.dtype),
                    "model": arms.ref(arm).digest,
                    "original": original,
                },
                readable=("attack",),
            )
            folder = root / CONTROL if arm == "original" else arms.run.attacks
            cell = PlannedCell(
                mine,
                arm,
                Cell(folder, key),
                partner,
                drawing,
                arms.run.subject,
                name_of(arms.dtype),
            )
            before = cells.setdefault(cell.cell.path, cell)
            if before is not cell:
                budgets = tuple(sorted({*before.job.budgets, *mine.budgets}))
                both = replace(before, job=replace(before.job, budgets=budgets))
                cells[cell.cell.path] = both
            partner = key
    return list(cells.values())


def cell_manifest(planned: PlannedCell, arms: Arms) -> dict[str, Any]:
    """The fields of a cell's manifest that are known before it runs."""
    job = planned.job
    return {
        "schema": SCHEMA,
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
        "subject": job.subject.as_manifest(),
        "transforms": list(job.transforms),
        "control": planned.control,
    }


def _learning(job: Job, arm: ArmName, arms: Arms) -> Job:
    """`job` with the photos that the attacker of `arm` has."""
    subject = arms.learnt(arm, job.subject, job.clean_photos)
    if subject is job.subject:
        return job
    for option in ("captions", "masks"):
        if getattr(job.config, option):
            raise UsageError(
                f"{job.name}: {option}=true, and none lie beside the perturbed photos",
                f"Attack a run that protects photos without {option}.",
            )
    return replace(job, subject=subject)


def _with_budgets(job: Job, budgets: tuple[float, ...]) -> list[Job]:
    """One job with all budgets where one training passes through them, else one for each.

    An attack without steps has none but 1.
    """
    with asked(f"the attack {job.name}"):
        continues = job.attack.item.continues(job.config)
        steps = job.attack.item.total_steps(job.config)
    if not steps:  # nothing is trained: every multiple of that is the same
        return [job]
    if continues:
        return [replace(job, budgets=budgets)]
    return [replace(job, scale=budget) for budget in budgets]


def _made_of(job: Job, available: Mapping[str, Registered[Attack]]) -> str:
    other = available.get(str(getattr(job.config, "attack", "")))
    if other is None or other.origin.distribution == job.attack.origin.distribution:
        return ""
    return other.origin.version


def _resolve(
    attack: Attack,
    profile: str,
    layers: Sequence[Mapping[str, Any]],
    available: Mapping[str, Registered[Attack]],
) -> Any:
    plain = {name: found.item for name, found in available.items()}
    try:
        with asked(f"the attack {attack.name}"):
            config = attack.configure(profile, layers, plain)
            if not isinstance(config, AttackConfig):
                raise TypeError(f"`configure` returned a {type(config).__name__}")
            return config
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
