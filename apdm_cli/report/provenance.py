"""How a run came about, in commands that repeat it. Never where the photos lie.

The commands are made of what was asked, as the manifests keep it: not of the labels that people
see. A cell that an older version made kept less; its command says so.
"""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from apdm_cli.config import assignment, flatten
from apdm_cli.errors import ApdmError
from apdm_cli.harness.suites import SuiteEntry, load_suite, suite_names
from apdm_cli.report.evaluated import EvaluatedRun
from apdm_cli.report.schema import Provenance, Subject

# What `apdm attack` calls the settings of the pictures on the way.
PICTURES = {
    "prompts": "--prompts",
    "images": "--images",
    "sampler": "--sampler",
    "steps": "--sampler-steps",
    "guidance": "--guidance",
}
PHOTOS, OTHER_PHOTOS, NEIGHBOURS = "PHOTOS", "OTHER_PHOTOS", "PHOTOS_OF_SOMEBODY_ELSE"


def provenance(
    run: EvaluatedRun, attacks: Sequence[Mapping[str, Any]], require: Sequence[str]
) -> Provenance:
    """From the manifests of the run and of its attacks' cells, and from what evaluate was asked."""
    manifest, scores = run.run.manifest, run.scores
    model = dict(manifest.get("model") or {})
    if model.get("source"):
        model["source"] = _without_folders(str(model["source"]))
    commands = [*_protect(run), *attack_commands(run.name, manifest, attacks), _evaluate(run)]
    gates = [f"--require {shlex.quote(text)}" for text in require]
    commands.append(" ".join(["apdm compare", shlex.quote(run.name), *gates]))
    duration = manifest.get("duration_seconds")
    return Provenance(
        commands=tuple(commands),
        versions=dict(manifest.get("versions") or {}),
        configuration=dict(manifest.get("configuration") or {}),
        model=model,
        protected_digest=scores.protected_digest,
        sampler=scores.sampler,
        prompts=scores.prompts.model_dump(mode="json"),
        seed=int(manifest.get("seed") or 0),
        device=_text(manifest.get("device")),
        dtype=_text(manifest.get("dtype")),
        created=_text(manifest.get("created")),
        duration_seconds=None if duration is None else float(duration),
    )


def subject_of(manifest: Mapping[str, Any]) -> Subject:
    """Names, words and digests of the protected subject."""
    subject = manifest.get("subject") or {}
    files = (subject.get("photos") or {}).get("files") or []
    return Subject(
        name=str(subject.get("name") or "the subject"),
        class_noun=str(subject.get("class_noun") or ""),
        identifier=str(subject.get("identifier") or ""),
        photos=tuple(
            {"name": str(file.get("name")), "sha256": str(file.get("sha256"))} for file in files
        ),
    )


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
        crop: how the attacker cut photos, where that was said.
        budgets: multiples of the attack's steps.
        pictures: options of the pictures on the way to the longest budget.
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
    suite: str | None
    entry: str | None
    file: str | None
    older: str

    @property
    def options(self) -> list[str]:
        """What holds for every attack of a command."""
        return [
            *_option("--photos", self.photos or None),
            *_option("--subject-class", self.noun or None),
            *_option("--identifier", self.identifier or None),
            *(word for name in self.transforms for word in _option("--transform", name)),
            *_option("--clean-photos", self.clean_photos, default=0),
            *_option("--crop", self.crop),
            *([] if self.control else ["--no-control"]),
            *(word for name, value in self.pictures for word in _option(name, value)),
            *_option("--plugin-file", self.file),
        ]

    @property
    def common(self) -> tuple[Any, ...]:
        """What all attacks of one command have in common."""
        crop = self.crop or ""
        return self.photos, self.noun, self.clean_photos, crop, self.control, self.pictures

    @property
    def budget_option(self) -> list[str]:
        """What a suite brings, and an attack by its name does not."""
        return _option("--budgets", ",".join(f"{each:g}" for each in self.budgets), default="1")


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
                (PICTURES[key], _without_folders(str(value)))
                for key, value in (asked.get("pictures") or {}).items()
                if key in PICTURES
            ),
            suite=asked.get("suite"),
            entry=asked.get("entry"),
            file=_plugin_file(cell),
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
        for common in sorted({job.common for job in of_suite}):
            chosen = [
                [
                    job
                    for job in of_suite
                    if job.common == common
                    and _is_entry(job, entry)
                    and job.budgets == (entry.budgets or suite.budgets)
                ]
                for entry in suite.attack
            ]
            if not all(chosen):
                continue
            seeds = set.intersection(*(jobs[found[0]] for found in chosen))
            plain = replace(chosen[0][0], identifier="", transforms=())
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
        yield [*_option("--seed", start, default=0), *_option("--seeds", count, default=1)]


def _external(manifest: Mapping[str, Any]) -> list[str]:
    """How a model that was protected elsewhere is attacked; empty for a run of `apdm protect`."""
    if "external" not in manifest:
        return []
    source = _without_folders(str(manifest["external"].get("source")))
    model = manifest.get("model") or {}
    subject = manifest.get("subject") or {}
    original = _without_folders(str(model["source"])) if model.get("source") else None
    return [
        *_option("--model", source),
        *_option("--original", original),
        *_option("--photos", PHOTOS),
        *_option("--subject-class", subject.get("class_noun")),
        *_option("--identifier", subject.get("identifier"), default="sks"),
    ]


def _protect(run: EvaluatedRun) -> Iterator[str]:
    manifest = run.run.manifest
    if "external" in manifest:
        return
    subject, model = manifest.get("subject") or {}, manifest.get("model") or {}
    onto = manifest.get("onto") or {}
    before = onto.get("subjects") or ()
    if several := [one for one in manifest.get("subjects") or () if one["name"] not in before]:
        words = ["apdm protect", *(word for one in several for word in _one_of_several(one))]
    else:
        words = ["apdm protect", PHOTOS, "--class", shlex.quote(str(subject.get("class_noun")))]
        words += _option("--identifier", subject.get("identifier"), default="sks")
    if onto:
        words += _option("--onto", onto.get("name"))
    else:
        words += _option("--model", _without_folders(str(model.get("source"))), default="pocket")
        words += _option("--revision", model.get("revision"))
    words += ["--name", shlex.quote(run.run.path.name if several else run.name)]
    words += _option("--method", manifest.get("method"), default="apdm")
    words += _option("--plugin-file", _plugin_file(manifest))
    words += _option("--preset", manifest.get("preset"))
    words += _option("--crop", (subject.get("photos") or {}).get("crop"), default="center")
    words += _option("--seed", manifest.get("seed"), default=0)
    words += _option("--ranks", manifest.get("ranks"), default=1)
    words += ["--memory low"] if manifest.get("low_memory") else []
    words += _saved(run.run.model)
    words += _option("--keep-attackers", manifest.get("keep_attackers"))
    changed, note = _changed(manifest)
    words += [f"--set {shlex.quote(text)}" for text in changed]
    yield " ".join([*words, *note])


def _one_of_several(subject: Mapping[str, Any]) -> list[str]:
    name, noun, word = (str(subject[key]) for key in ("name", "class_noun", "identifier"))
    photos = f"{PHOTOS}_OF_{name.upper()}"
    return _option("--subject", f"{name}={photos}:{noun}" + (f":{word}" if word != "sks" else ""))


def _saved(model: Path) -> list[str]:
    """What was saved, told from the files."""
    if not model.is_dir() or (model / "model_index.json").is_file():
        return []
    alone = any(model.glob("*/config.json"))
    return ["--save trained-only"] if alone else ["--save adapter"]


def _changed(manifest: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """What the configuration has otherwise than its preset, and what to say of the preset."""
    from apdm_cli.config import resolve
    from apdm_cli.extension.manager import build_plugin_manager, choose, protections

    name = str(manifest.get("preset"))
    settings = dict(flatten(manifest.get("configuration") or {}))
    try:
        known_methods = protections(build_plugin_manager())
        method = choose(known_methods, str(manifest.get("method") or "apdm"), "protection")
        usual = resolve(method.Config, method.preset(name))
    except (ApdmError, OSError):
        every = [assignment(key, value) for key, value in settings.items()]
        return every, [f"# this version of apdm has no preset {name}"]
    known = dict(flatten(usual.model_dump(mode="json")))
    changed = {key: v for key, v in settings.items() if key in known and known[key] != v}
    return [assignment(key, value) for key, value in changed.items()], []


def _evaluate(run: EvaluatedRun) -> str:
    """What is resolved (prompts, number, sampler) as it was, the rest as it was asked."""
    sampler, prompts, asked = run.scores.sampler, run.scores.prompts, run.scores.asked
    words = ["apdm evaluate", shlex.quote(run.name)]
    words += _option("--metrics", ",".join(asked.get("metrics") or []) or None)
    for name, path in (asked.get("weights") or {}).items():
        words += _option("--weights", f"{name}={_without_folders(str(path))}")
    words += ["--neighbours " + NEIGHBOURS for _ in asked.get("neighbours") or []]
    words += _option("--captions", _last_part(asked.get("captions")))
    words += _option("--prompts", _without_folders(prompts.set) or None)
    words += _option("--images", prompts.n)
    words += _option("--class-images", asked.get("class_images"))
    words += _option("--sampler", sampler.get("sampler"))
    words += _option("--steps", sampler.get("steps"))
    words += _option("--guidance", sampler.get("guidance"))
    words += _option("--seed", sampler.get("seed"), default=0)
    return " ".join(words)


def _photo_digests(subject: Mapping[str, Any]) -> set[str]:
    files = (subject.get("photos") or {}).get("files") or []
    return {str(file.get("sha256")) for file in files}


def _plugin_file(cell: Mapping[str, Any]) -> str | None:
    """Name of the Python file that brought the attack, where no installed package did."""
    name = str((cell.get("plugin") or {}).get("plugin"))
    return name if name.endswith(".py") else None


def _placeholder(number: int) -> str:
    """What stands for the photos that were the `number`-th set of their own; "" for the run's."""
    if number == 0:
        return ""
    return OTHER_PHOTOS if number == 1 else f"{OTHER_PHOTOS}_{number}"


def _other(attacked: Mapping[str, Any], subject: Mapping[str, Any], word: str) -> str:
    """The attacker's word where it is not the run's own."""
    found = attacked.get(word)
    return "" if found in (None, subject.get(word)) else str(found)


def _option(name: str, value: Any, default: Any = None) -> list[str]:
    return [] if value is None or value == default else [name, shlex.quote(str(value))]


def _last_part(path: Any) -> str | None:
    return None if path is None else PurePath(str(path)).name


def _without_folders(source: str) -> str:
    """The last part of a path; hub ids and `pocket` as they are."""
    return PurePath(source).name if source.startswith(("/", "~", ".")) or "\\" in source else source


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
