"""Words of the commands that repeat a run, or that a hint names: options, names for folders."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any

from apdm_cli.errors import ApdmError
from apdm_cli.runs.cells import finished_cells
from apdm_cli.runs.manifest import read_manifest
from apdm_cli.runs.precision import spelled, to_name
from apdm_cli.runs.run import Run
from apdm_cli.scores import ScoresFile

PHOTOS, OTHER_PHOTOS, NEIGHBOURS = "PHOTOS", "OTHER_PHOTOS", "PHOTOS_OF_SOMEBODY_ELSE"


def plugin_file(cell: Mapping[str, Any]) -> str | None:
    """Name of the Python file that brought the attack, where no installed package did."""
    name = str((cell.get("plugin") or {}).get("plugin"))
    return name if name.endswith(".py") else None


def option(name: str, value: Any, default: Any = None) -> list[str]:
    """`--name value` as a shell reads it; nothing where it is the default, or not known."""
    return [] if value is None or value == default else [name, shlex.quote(str(value))]


def typed(verb: str, run: Run, *options: str) -> str:
    """`apdm VERB RUN OPTIONS` as a person types it where this process runs, for a hint."""
    root = run.path.parent
    name = "/".join(filter(None, (run.path.name, run.subject)))
    where = () if root == Path("runs") else ("--out", str(root))
    return shlex.join(["apdm", verb, name, *options, *where])


def evaluate_again(run: Run, scores: ScoresFile | None, **changed: Any) -> str:
    """`apdm evaluate` as a person types it to score `run` as before, for a hint.

    Drawn otherwise, the pictures of early budgets could not be scored.

    Args:
        scores: of before; without any, pictures are drawn as an attack of the run drew them.
        changed: what is to be asked otherwise, called as in `scores.asked`.
    """
    asked = _as_attacked(run) if scores is None else asked_for(scores)
    return typed("evaluate", run, *evaluate_options({**asked, **changed}))


def _as_attacked(run: Run) -> dict[str, Any]:
    for folder in finished_cells(run.attacks):
        try:
            manifest = read_manifest(folder)
        except ApdmError:
            continue
        pictures = (manifest.get("asked") or {}).get("pictures") or {}
        return {**pictures, "dtype": to_name(manifest)}
    return {}


def asked_for(scores: ScoresFile) -> dict[str, Any]:
    """What `apdm evaluate` has to be asked for `scores`; the precision is, too, if `auto` chose it.

    On another machine `auto` may be another.
    """
    known = scores.dtype in (None, "float32")
    return {**scores.asked, **({} if known else {"dtype": spelled(str(scores.dtype))})}


def evaluate_options(asked: Mapping[str, Any], shown: Callable[[str], str] = str) -> list[str]:
    """The words that ask `apdm evaluate` for what `scores.asked` has, not quoted.

    Args:
        shown: how paths are told. Where photos lie never is.
    """
    weights = asked.get("weights") or {}
    plain = ("captions", "prompts", "images", "class_images", "sampler", "steps", "guidance")
    pairs = [
        ("--metrics", ",".join(asked.get("metrics") or ()) or None),
        *(("--weights", f"{name}={shown(str(path))}") for name, path in weights.items()),
        ("--photos", PHOTOS if asked.get("photos") else None),
        *(("--neighbours", NEIGHBOURS) for _ in asked.get("neighbours") or ()),
        *(("--plugin-file", name) for name in asked.get("plugin_files") or ()),
        *((f"--{key.replace('_', '-')}", asked.get(key)) for key in plain),
        ("--seed", asked.get("seed") or None),
        ("--dtype", asked.get("dtype")),
    ]
    known = ((name, shown(str(value))) for name, value in pairs if value is not None)
    return [word for pair in known for word in pair]


def without_folders(source: str) -> str:
    """The last part of a path; hub ids and `pocket` as they are."""
    return PurePath(source).name if source.startswith(("/", "~", ".")) or "\\" in source else source
