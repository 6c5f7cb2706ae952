"""The `apdm attack` commands that repeat a run: suites as suites, other attacks by their names."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from apdm_cli.config import assignment, flatten
from apdm_cli.harness.suites import SuiteEntry, load_suite, suite_names
from apdm_cli.report.command_words import OTHER_PHOTOS, PHOTOS, option, plugin_file, without_folders
from apdm_cli.runs.precision import to_name

# What `apdm attack` calls the settings of the pictures on the way.
PICTURES = {
    "prompts": "--prompts",
    "images": "--images",
    "sampler": "--sampler",
    "steps": "--sampler-steps",
    "guidance": "--guidance",
}


def attack_commands(
    run: str, manifest: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]
) -> list[str]:
    """`apdm attack` as often as it takes to plan the cells again, and no other cells.

    Args:
        manifest: of the run; cells: manifests of its protected cells.
    """
    words = ["apdm attack", *(_external(manifest) or [shlex.quote(run)])]
    jobs = _jobs(manifest, cells)
    return [
        " ".join([*words, *command])
        for commands in (_suites(jobs), _plugins(jobs))
        for command in commands
    ]


@dataclass(frozen=True)
class _Asked:
    """What one cell was asked for, but for its seed.

    Attributes:
        settings: (key, `key=value` as --set takes it).
        photos, noun, identifier: "" where they are the run's own.
        clean_photos: how many of perturbed ones the attacker had unprotected.
        crop: how the attacker cut photos, where the command or the entry of a suite said that.
        budgets: multiples of the attack's steps.
        pictures: options of the pictures on the way to the longest budget.
        dtype: "" where it goes without saying.
        suite, entry, file: where the attack comes from.
        older: what people see of the cell, where an older version did not keep what was asked.
    """

    plugin: str
    settings: tuple[tuple[str, str], ...]
    photos: str
    noun: str
    identifier: str
    clean_photos: int
    crop: str | None
    transforms: tuple[str, ...]
    control: bool
    budgets: tuple[float, ...]
    pictures: tuple[tuple[str, str], ...]
    dtype: str
    suite: str | None
    entry: str | None
    file: str | None
    older: str

    @property
    def options(self) -> list[str]:
        """What holds for every attack of a command."""
        return [
            *option("--photos", self.photos or None),
            *option("--subject-class", self.noun or None),
            *option("--identifier", self.identifier or None),
            *(word for name in self.transforms for word in option("--transform", name)),
            *option("--clean-photos", self.clean_photos, default=0),
            *option("--crop", self.crop),
            *([] if self.control else ["--no-control"]),
            *(word for name, value in self.pictures for word in option(name, value)),
            *option("--dtype", self.dtype or None),
            *option("--plugin-file", self.file),
        ]

    @property
    def common(self) -> tuple[Any, ...]:
        """What all attacks of one command have in common."""
        return self.photos, self.noun, self.clean_photos, self.control, self.pictures, self.dtype

    @property
    def budget_option(self) -> list[str]:
        """What a suite brings, and an attack by its name does not."""
        return option("--budgets", ",".join(f"{each:g}" for each in self.budgets), default="1")


_Jobs = dict[_Asked, set[int]]  # with their seeds


def _jobs(manifest: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> _Jobs:
    subject = manifest.get("subject") or {}
    external = "external" in manifest
    perturbed = (manifest.get("perturbed") or {}).get("photos") or []
    made_from = {str(photo.get("sha256")): str(photo.get("of")) for photo in perturbed}
    sets: list[set[str]] = [] if external else [_photo_digests(subject)]
    jobs: _Jobs = defaultdict(set)
    for cell in cells:
        asked, attacked = cell.get("asked") or {}, cell.get("subject") or {}
        photos = {made_from.get(digest, digest) for digest in _photo_digests(attacked)}
        if photos and photos not in sets:
            sets.append(photos)
        known = "asked" in cell or not cell.get("variant")
        job = _Asked(
            plugin=str(cell.get("attack")),
            settings=tuple(
                (key, assignment(key, value)) for key, value in (asked.get("set") or {}).items()
            ),
            photos="" if external else _placeholder(sets.index(photos) if photos else 0),
            noun="" if external else _other(attacked, subject, "class_noun"),
            identifier=_other(attacked, subject, "identifier"),
            clean_photos=int(asked.get("clean_photos") or 0),
            crop=asked.get("crop"),
            transforms=tuple(str(name) for name in cell.get("transforms") or []),
            control=bool(cell.get("control")) or manifest.get("model") is None,
            budgets=tuple(float(budget) for budget in asked.get("budgets") or [1]),
            pictures=tuple(
                (PICTURES[key], without_folders(str(value)))
                for key, value in (asked.get("pictures") or {}).items()
                if key in PICTURES
            ),
            dtype=to_name(cell) or "",
            suite=asked.get("suite"),
            entry=asked.get("entry"),
            file=plugin_file(cell),
            older="" if known else str(cell["variant"]),
        )
        jobs[job].add(int(cell.get("seed") or 0))
    return jobs


def _suites(jobs: _Jobs) -> Iterator[list[str]]:
    """Shipped suites of which every entry is there as the suite has it; takes them out of `jobs`.

    The other cells of a suite (a file of one's own, `--set` over it) are attacks by name.
    """
    for name in suite_names():
        suite = load_suite(name)
        of_suite = [job for job in jobs if job.suite == name]
        crops = [None, *sorted({job.crop for job in of_suite if job.crop is not None})]
        for common, crop in product(sorted({job.common for job in of_suite}), crops):
            chosen = [
                [
                    job
                    for job in of_suite
                    if job.common == common
                    and job.crop == (crop or entry.own_crop)
                    and _is_entry(job, entry)
                    and job.budgets == (entry.budgets or suite.budgets)
                ]
                for entry in suite.attack
            ]
            if not all(chosen):
                continue
            seeds = set.intersection(*(jobs[found[0]] for found in chosen))
            plain = replace(chosen[0][0], identifier="", transforms=(), crop=crop)
            for number in _seeds(seeds):
                yield [f"--suite {name}", *number, *plain.options]
            for found in chosen:
                jobs[found[0]] = jobs[found[0]] - seeds


def _is_entry(job: _Asked, entry: SuiteEntry) -> bool:
    settings = {(key, assignment(key, value)) for key, value in flatten(entry.set)}
    asked = (job.plugin, job.entry or "", job.identifier, job.transforms, set(job.settings))
    return asked == (entry.name, entry.variant, entry.identifier or "", entry.transforms, settings)


def _plugins(jobs: _Jobs) -> Iterator[list[str]]:
    """Attacks by name: in one command those that share everything but their own settings."""
    together: dict[tuple[Any, ...], list[_Asked]] = defaultdict(list)
    for job, seeds in jobs.items():
        if seeds:
            options = (*job.options, *job.budget_option)
            together[options, job.older, tuple(sorted(seeds))].append(job)
    for (options, older, seeds), group in together.items():
        for command in _one_each(group):
            common = set.intersection(*(set(job.settings) for job in command))
            words = [f"--plugin {shlex.quote(job.plugin)}" for job in command]
            settings = [text for _, text in command[0].settings if (_, text) in common]
            settings += [
                f"{job.plugin}.{text}"
                for job in command
                for key, text in job.settings
                if (key, text) not in common
            ]
            words_set = [f"--set {shlex.quote(text)}" for text in settings]
            note = [f"# an older run, which did not keep its settings: {older}"] if older else []
            for number in _seeds(seeds):
                yield [*words, *number, *options, *words_set, *note]


def _one_each(jobs: Iterable[_Asked]) -> list[list[_Asked]]:
    """Lists in which no attack comes twice: settings of a command go to an attack by its name."""
    commands: list[list[_Asked]] = []
    for job in jobs:
        for command in commands:
            if job.plugin not in {other.plugin for other in command}:
                command.append(job)
                break
        else:
            commands.append([job])
    return commands


def _seeds(seeds: Iterable[int]) -> Iterator[list[str]]:
    """Options for every stretch of consecutive seeds: `--seed 3 --seeds 2` for 3 and 4."""
    ordered = sorted(seeds)
    starts = [seed for seed in ordered if seed - 1 not in ordered]
    for start in starts:
        count = next(n for n in range(1, len(ordered) + 1) if start + n not in ordered)
        yield [*option("--seed", start, default=0), *option("--seeds", count, default=1)]


def _external(manifest: Mapping[str, Any]) -> list[str]:
    """How a model that was protected elsewhere is attacked; empty for a run of `apdm protect`."""
    if "external" not in manifest:
        return []
    source = without_folders(str(manifest["external"].get("source")))
    model = manifest.get("model") or {}
    subject = manifest.get("subject") or {}
    original = without_folders(str(model["source"])) if model.get("source") else None
    return [
        *option("--model", source),
        *option("--original", original),
        *option("--photos", PHOTOS),
        *option("--subject-class", subject.get("class_noun")),
        *option("--identifier", subject.get("identifier"), default="sks"),
    ]


def _photo_digests(subject: Mapping[str, Any]) -> set[str]:
    files = (subject.get("photos") or {}).get("files") or []
    return {str(file.get("sha256")) for file in files}


def _placeholder(number: int) -> str:
    """What stands for the photos that were the `number`-th set of their own; "" for the run's."""
    if number == 0:
        return ""
    return OTHER_PHOTOS if number == 1 else f"{OTHER_PHOTOS}_{number}"


def _other(attacked: Mapping[str, Any], subject: Mapping[str, Any], word: str) -> str:
    """The attacker's word where it is not the run's own."""
    found = attacked.get(word)
    return "" if found in (None, subject.get(word)) else str(found)
