"""How a run came about, in commands that repeat it. Never where the photos lie."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from apdm_cli.errors import ApdmError
from apdm_cli.report.schema import Provenance, Subject
from apdm_cli.report.scores import EvaluatedRun

PHOTOS, OTHER_PHOTOS = "PHOTOS", "OTHER_PHOTOS"


def provenance(
    run: EvaluatedRun, attacks: Sequence[Mapping[str, Any]], require: Sequence[str]
) -> Provenance:
    """From the manifests of the run and of its attacks' cells."""
    manifest, scores = run.run.manifest, run.scores
    model = dict(manifest.get("model") or {})
    if model.get("source"):
        model["source"] = _without_folders(str(model["source"]))
    commands = [
        _protect(manifest, run.name),
        *_attacks(run.name, manifest.get("subject") or {}, attacks),
        _evaluate(run),
    ]
    gates = [f"--require {shlex.quote(text)}" for text in require]
    commands.append(" ".join(["apdm compare", shlex.quote(run.name), *gates]))
    duration = manifest.get("duration_seconds")
    return Provenance(
        commands=tuple(commands),
        versions={key: value for key, value in (manifest.get("versions") or {}).items()},
        configuration=dict(manifest.get("configuration") or {}),
        model=model,
        protected_digest=scores.protected_digest,
        sampler=scores.sampler,
        prompts=scores.prompts,
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


def flatten(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested tables as dotted keys."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _protect(manifest: Mapping[str, Any], name: str) -> str:
    subject, model = manifest.get("subject") or {}, manifest.get("model") or {}
    words = ["apdm protect", PHOTOS, "--class", shlex.quote(str(subject.get("class_noun")))]
    words += _option("--identifier", subject.get("identifier"), default="sks")
    words += _option("--model", _without_folders(str(model.get("source"))), default="pocket")
    words += _option("--revision", model.get("revision"))
    words += ["--name", shlex.quote(name)]
    words += _option("--preset", manifest.get("preset"))
    words += _option("--seed", manifest.get("seed"), default=0)
    for key, value in _changed(manifest):
        words += ["--set", shlex.quote(f"{key}={_toml(value)}")]
    return " ".join(words)


def _changed(manifest: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What the configuration has otherwise than its preset."""
    from apdm_cli.config import resolve
    from apdm_cli.protection.settings import ProtectionSettings, preset

    try:
        usual = resolve(ProtectionSettings, preset(str(manifest.get("preset"))))
    except (ApdmError, OSError):
        return []  # a preset that this version does not have
    known = dict(flatten(usual.model_dump(mode="json")))
    return [
        (key, value)
        for key, value in flatten(manifest.get("configuration") or {})
        if key in known and known[key] != value
    ]


def _attacks(run: str, subject: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """One command per group of attacks that were given the same photos, words and settings."""
    groups: dict[tuple[str, ...], dict[str, set[int]]] = {}
    for cell in cells:
        group = groups.setdefault(_attack_options(cell, subject), {})
        group.setdefault(str(cell.get("attack")), set()).add(int(cell.get("seed") or 0))
    commands = []
    for options, plugins in groups.items():
        seeds = set().union(*plugins.values())
        words = ["apdm attack", shlex.quote(run)]
        words += [f"--plugin {shlex.quote(plugin)}" for plugin in plugins]
        if len(seeds) > 1:
            words.append(f"--seeds {len(seeds)}")
        elif seeds != {0}:
            words.append(f"--seed {min(seeds)}")
        commands.append(" ".join([*words, *options]))
    return commands


def _attack_options(cell: Mapping[str, Any], subject: Mapping[str, Any]) -> tuple[str, ...]:
    """What makes this cell other than the plain attack; a variant's mere name as a comment."""
    attack, attacked = cell.get("attack"), cell.get("subject") or {}
    options = []
    if _photo_digests(attacked) not in (set(), _photo_digests(subject)):
        options.append(f"--photos {OTHER_PHOTOS}")
    if attacked.get("identifier") not in (None, subject.get("identifier")):
        options.append(f"--identifier {shlex.quote(str(attacked['identifier']))}")
    options += [f"--transform {shlex.quote(str(name))}" for name in cell.get("transforms") or []]
    parts = [part for part in str(cell.get("variant") or "").split(", ") if part]
    for part in parts:
        if "=" in part:
            options.append(f"--set {shlex.quote(f'{attack}.{part}')}")
    named = [part for part in parts if "=" not in part]
    return (*options, *([f"# {', '.join(named)}"] if named else []))


def _photo_digests(subject: Mapping[str, Any]) -> set[str]:
    files = (subject.get("photos") or {}).get("files") or []
    return {str(file.get("sha256")) for file in files}


def _evaluate(run: EvaluatedRun) -> str:
    sampler, prompts = run.scores.sampler, run.scores.prompts
    words = ["apdm evaluate", shlex.quote(run.name)]
    words += _option("--prompts", _without_folders(str(prompts.get("set") or "")) or None)
    words += _option("--images", prompts.get("n"))
    words += _option("--sampler", sampler.get("name") or sampler.get("sampler"))
    words += _option("--steps", sampler.get("steps"))
    words += _option("--guidance", sampler.get("guidance"))
    return " ".join(words)


def _option(name: str, value: Any, default: Any = None) -> list[str]:
    return [] if value is None or value == default else [name, shlex.quote(str(value))]


def _without_folders(source: str) -> str:
    """The last part of a path; hub ids and `pocket` as they are."""
    return PurePath(source).name if source.startswith(("/", "~", ".")) or "\\" in source else source


def _toml(value: Any) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
