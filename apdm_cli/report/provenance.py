"""How a run came about, in commands that repeat it. Never where the photos lie.

The commands are made of what was asked, as the manifests keep it: not of the labels that people
see. A cell that an older version made kept less; its command says so.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from apdm_cli.config import assignment, flatten
from apdm_cli.errors import ApdmError
from apdm_cli.report.attack_commands import attack_commands
from apdm_cli.report.command_words import (
    PHOTOS,
    asked_for,
    evaluate_options,
    option,
    plugin_file,
    without_folders,
)
from apdm_cli.report.evaluated import EvaluatedRun
from apdm_cli.report.schema import Provenance, Subject
from apdm_cli.runs.precision import to_name


def provenance(
    run: EvaluatedRun,
    attacks: Sequence[Mapping[str, Any]],
    require: Sequence[str],
    likeness: float | None = None,
) -> Provenance:
    """From the manifests of the run and of its attacks' cells, and from what evaluate was asked.

    Args:
        require, likeness: what the comparison itself was asked.
    """
    manifest, scores = run.run.manifest, run.scores
    model = dict(manifest.get("model") or {})
    if model.get("source"):
        model["source"] = without_folders(str(model["source"]))
    commands = [*_protect(run), *attack_commands(run.name, manifest, attacks), _evaluate(run)]
    compare = ["apdm compare", shlex.quote(run.name), *option("--likeness", likeness)]
    commands.append(" ".join([*compare, *(f"--require {shlex.quote(text)}" for text in require)]))
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
        words += option("--identifier", subject.get("identifier"), default="sks")
    if onto:
        words += option("--onto", onto.get("name"))
    else:
        words += option("--model", without_folders(str(model.get("source"))), default="pocket")
        words += option("--revision", model.get("revision"))
    words += ["--name", shlex.quote(run.run.path.name if several else run.name)]
    words += option("--method", manifest.get("method"), default="apdm")
    words += option("--plugin-file", plugin_file(manifest))
    words += option("--preset", manifest.get("preset"))
    words += option("--crop", (subject.get("photos") or {}).get("crop"), default="center")
    words += option("--seed", manifest.get("seed"), default=0)
    words += option("--ranks", manifest.get("ranks"), default=1)
    words += option("--dtype", to_name(manifest))
    words += ["--memory low"] if manifest.get("low_memory") else []
    words += _saved(run.run.model)
    words += option("--keep-attackers", manifest.get("keep_attackers"))
    changed, note = _changed(manifest)
    words += [f"--set {shlex.quote(text)}" for text in changed]
    yield " ".join([*words, *note])


def _one_of_several(subject: Mapping[str, Any]) -> list[str]:
    name, noun, word = (str(subject[key]) for key in ("name", "class_noun", "identifier"))
    photos = f"{PHOTOS}_OF_{name.upper()}"
    return option("--subject", f"{name}={photos}:{noun}" + (f":{word}" if word != "sks" else ""))


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
    scores = run.scores
    asked = asked_for(scores)
    resolved = {
        "captions": _last_part(asked.get("captions")),
        "prompts": scores.prompts.set or None,
        "images": scores.prompts.n,
        **{name: scores.sampler.get(name) for name in ("sampler", "steps", "guidance", "seed")},
    }
    words = evaluate_options({**asked, **resolved}, without_folders)
    return shlex.join(["apdm", "evaluate", run.name, *words])


def _last_part(path: Any) -> str | None:
    return None if path is None else PurePath(str(path)).name


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
