"""What a manifest may hold, checked whenever one is read back.

The code goes on working with plain dictionaries, as they were written; these models say that every
entry the product looks at has the type it had then. Entries that they don't name are left alone:
an attack's summary is its own, and a later version may write more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from apdm_cli.runs.names import slug

LONGEST_TEXT = 20_000  # characters; what is written is cut off at this length
Text = Annotated[str, Field(max_length=LONGEST_TEXT)]
Name = Annotated[str, Field(max_length=1_000)]
Seconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]


class Record(BaseModel):
    """Base of everything that is read back: no type is bent into another."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)


class ModelRecord(Record):
    """Which weights: see `apdm_cli.diffusion.model.ModelRef`."""

    source: Text
    revision: Name | None = None
    digest: Name


class PhotoRecord(Record):
    """A photo: its file name, the SHA-256 of its content, and where it was cut around a face."""

    name: Name
    sha256: Name
    at: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)


class PhotosRecord(Record):
    """Where the photos lie, if that was kept, and which they are."""

    sources: list[Text] = []
    files: list[PhotoRecord]


class SubjectEntry(Record):
    """The words for a subject, and its photos."""

    name: Name
    class_noun: Name
    identifier: Name
    photos: PhotosRecord


class ExternalRecord(Record):
    """A model that was protected elsewhere."""

    source: Text
    digest: Name


class ArtifactRecord(Record):
    """What an attack left, below its cell's folder."""

    kind: Name
    path: Text


class StopRecord(Record):
    """A budget at which an attacked model was looked at."""

    budget: float = Field(gt=0, le=1e6, allow_inf_nan=False)
    steps: int | None = Field(None, ge=0, le=2**63 - 1)
    pictures: Text | None = None


class PaceRecord(Record):
    """How fast a cell was done; see `apdm_cli.harness.pace.Pace`."""

    steps: int = Field(0, ge=0, le=2**63 - 1)
    step_seconds: Seconds = 0.0
    pictures: int = Field(0, ge=0, le=2**63 - 1)
    picture_seconds: Seconds = 0.0


class Manifest(Record):
    """What the manifests of runs and of cells have in common."""

    kind: Name
    schema_: int = Field(1, alias="schema", ge=0, le=1_000)
    status: Literal["running", "done", "failed"] = "done"
    created: Name | None = None
    model: ModelRecord | None = None
    subject: SubjectEntry | None = None
    configuration: dict[str, Any] = {}
    seed: int = Field(0, ge=-(2**63), le=2**63 - 1)
    ranks: int = Field(1, ge=1, le=1_000_000)
    versions: dict[str, str | None] = {}
    device: Name | None = None
    dtype: Name | None = None
    duration_seconds: Seconds | None = None
    summary: dict[str, Any] = {}
    error: Text | None = None


def _are_folders(subjects: list[SubjectEntry]) -> list[SubjectEntry]:
    """Each of several subjects has a folder of its name, which has to lie below the run's."""
    names = [subject.name for subject in subjects]
    if any(not name or slug(name) != name for name in names) or len(set(names)) < len(names):
        raise ValueError("these names are no names of different folders")
    return subjects


class OntoRecord(Record):
    """The run whose protected model another one began with, and whom it protected."""

    name: Name
    digest: Name
    subjects: list[Name]
    displacements: Name | None = None


def _is_file_name(name: str) -> str:
    """What lies in the run's own folder has no path."""
    if not name or set(name) & {"/", "\\"} or name in (".", ".."):
        raise ValueError("this is no name of a file")
    return name


class PerturbedPhoto(Record):
    """A perturbed photo, and the SHA-256 of what it was made from."""

    name: Annotated[Name, AfterValidator(_is_file_name)]
    sha256: Name
    of: Name


class PerturbedRecord(Record):
    """The perturbed photos of a run, and their bound; see `apdm_cli.protection.perturbed`."""

    eta: float = Field(gt=0, le=2, allow_inf_nan=False)
    photos: list[PerturbedPhoto]


class RunManifest(Manifest):
    """manifest.json of a run.

    `subjects` has several, and `subject` is not there then.
    """

    name: Name = ""
    subjects: Annotated[list[SubjectEntry], AfterValidator(_are_folders)] = []
    finished: Name | None = None
    resumed: Name | None = None
    preset: Name | None = None
    external: ExternalRecord | None = None
    onto: OntoRecord | None = None
    perturbed: PerturbedRecord | None = None
    keep_attackers: int | None = None


class CellManifest(Manifest):
    """manifest.json of a cell: one attack on one model."""

    attack: Name
    arm: Literal["original", "protected"]
    variant: Name = ""
    profile: Name | None = None
    plugin: dict[str, Any] = {}
    artifact: ArtifactRecord | None = None
    prompt_word: Name = ""
    transforms: list[Name] = []
    control: Name | None = None
    stops: list[StopRecord] = []
    pace: PaceRecord | None = None


class Failure(Record):
    """failure.json: why a cell's work ended."""

    error: Text
    hint: Text = ""
    type: Name = ""
    time: Name = ""


def problem(model: type[Record], data: Mapping[str, Any]) -> str | None:
    """What is wrong with `data` as a `model`, in one line: "seed: Input should be ..."; or None."""
    try:
        model.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))[:100]
        more = error.error_count() - 1
        rest = f" (and {more} more)" if more else ""
        return f"{where}: {first['msg'][:1].lower()}{first['msg'][1:]}{rest}"
    return None


def manifest_problem(data: Mapping[str, Any]) -> str | None:
    """`problem` of a manifest, by whether it tells of a run or of a cell."""
    return problem(CellManifest if "arm" in data else RunManifest, data)
