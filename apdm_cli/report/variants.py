"""What tells cells of one attack apart that carry one name.

`dreambooth` with 100 and with 300 steps become `dreambooth (steps=100)` and
`dreambooth (steps=300)`. A setting that the version of a cell did not know yet counts as its
default, because defaults of new settings change nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from apdm_cli.errors import ApdmError
from apdm_cli.report.evaluated import EvaluatedRun
from apdm_cli.scores import ScoreRow

if TYPE_CHECKING:
    from apdm_cli.extension.attack import Attack

SHORT = 8  # digits of a digest that are shown


@dataclass(frozen=True)
class Told:
    """What a cell's manifest says that can tell it from another of its attack.

    Attributes:
        attack: its name.
        configuration: the attack's settings.
        words: what the command chose besides, as one level of keys.
        photos: digest of all photos, for sets of one size.
        version: of the plugin that brings the attack; empty where it was not kept.
    """

    attack: str
    configuration: Mapping[str, Any]
    words: Mapping[str, Any]
    photos: str
    version: str

    @classmethod
    def by(cls, manifest: Mapping[str, Any]) -> Told:
        subject = manifest.get("subject") or {}
        photos = subject.get("photos") or {}
        files = [str(file.get("sha256")) for file in photos.get("files") or []]
        plugin, versions = manifest.get("plugin") or {}, manifest.get("versions") or {}
        return cls(
            str(manifest.get("attack")),
            {str(key): value for key, value in (manifest.get("configuration") or {}).items()},
            {
                "class": subject.get("class_noun"),
                "crop": photos.get("crop", "center"),
                "identifier": subject.get("identifier"),
                "photos": len(files),
                "transforms": list(manifest.get("transforms") or []),
            },
            hashlib.sha256("\n".join(sorted(files)).encode()).hexdigest()[:SHORT],
            str(plugin.get("version") or versions.get("apdm") or ""),
        )


def with_named_variants(run: EvaluatedRun) -> EvaluatedRun:
    """The run with names for cells of one attack that differ in what the names don't say."""
    rows = run.scores.rows
    cells = {
        row.cell: Told.by(manifest)
        for row in rows
        if row.role == "attack" and row.cell and (manifest := run.cell_manifest(row))
    }
    named = tuple(name_variants(rows, cells))
    return replace(run, scores=run.scores.model_copy(update={"rows": named}))


def name_variants(rows: Sequence[ScoreRow], cells: Mapping[str, Told]) -> list[ScoreRow]:
    """`rows` with the variant of colliding attack cells completed by what differs.

    Two cells collide when attack, variant, arm, seed and budget are equal. Where neither settings
    nor photos differ, the version does: `dreambooth (of 0.1.0)`. Rows whose cell is not in `cells`
    keep their name.
    """
    together: dict[tuple[str | None, str], list[ScoreRow]] = defaultdict(list)
    for row in rows:
        if row.role == "attack":
            together[row.attack, row.variant].append(row)
    # By variant too: a control cell stands beside every variant that it is the control of.
    suffixes: dict[tuple[str, str], str] = {}
    for (_, variant), group in together.items():
        if _collide(group, {}):
            keys = {row.cell for row in group if row.cell is not None}
            found = _suffixes(group, {key: cells[key] for key in keys if key in cells})
            suffixes |= {(cell, variant): suffix for cell, suffix in found.items()}
    return [
        row.model_copy(
            update={
                "variant": ", ".join(filter(None, (row.variant, suffix))),
                "label": ", ".join(filter(None, (row.label, suffix))),
            }
        )
        if row.role == "attack" and (suffix := suffixes.get((row.cell or "", row.variant), ""))
        else row
        for row in rows
    ]


def _collide(group: Iterable[ScoreRow], suffixes: Mapping[str, str]) -> set[str]:
    """The suffixes under which two cells of `group` would still have one name."""
    places = Counter(
        (suffixes.get(row.cell or "", ""), row.arm, row.seed, row.budget) for row in group
    )
    return {place[0] for place, count in places.items() if count > 1}


def _suffixes(group: Sequence[ScoreRow], cells: Mapping[str, Told]) -> dict[str, str]:
    """Cell → what it has otherwise: settings, then photos, then the version, as far as needed."""
    suffixes = _differing(
        {cell: {**told.configuration, **told.words} for cell, told in _completed(cells).items()}
    )
    for words, tell in (("photos", "photos"), ("of", "version")):
        for suffix in _collide(group, suffixes):
            same = {
                cell: f"{words} {getattr(told, tell)}"
                for cell, told in cells.items()
                if suffixes[cell] == suffix
            }
            if len(set(same.values())) > 1:
                suffixes |= {
                    cell: ", ".join(filter(None, (suffix, text))) for cell, text in same.items()
                }
    return suffixes


def _differing(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Cell → `steps=100, ema=0.5`: the settings in which not all are the same.

    One that is nowhere known but in some cells, and the same there, tells nothing.
    """
    keys = sorted({key for values in settings.values() for key in values})
    differing = [
        key
        for key in keys
        if len({_text(values[key]) for values in settings.values() if key in values}) > 1
    ]
    return {
        cell: ", ".join(f"{key}={_text(values[key])}" for key in differing if key in values)
        for cell, values in settings.items()
    }


def _completed(cells: Mapping[str, Told]) -> dict[str, Told]:
    """`cells` with the defaults of settings that some of them were too old to know."""
    keys = {key for told in cells.values() for key in told.configuration}
    if all(keys == set(told.configuration) for told in cells.values()):
        return dict(cells)
    from apdm_cli.extension.manager import attacks, build_plugin_manager

    installed = attacks(build_plugin_manager())
    found = {}
    for cell, told in cells.items():
        defaults = _defaults(told, installed)
        known = {key: defaults[key] for key in keys if key in defaults}
        found[cell] = replace(told, configuration={**known, **told.configuration})
    return found


def _defaults(told: Told, installed: Mapping[str, Attack]) -> dict[str, Any]:
    """What the settings of an attack are without a profile; none where it is not installed."""
    from apdm_cli.extension.containment import asked
    from apdm_cli.extension.manager import choose

    # An attack that is made of another has the other's settings too.
    chosen = {key: told.configuration[key] for key in ("attack",) if key in told.configuration}
    try:
        with asked(f"the attack {told.attack}"):
            config = choose(installed, told.attack).configure("", [chosen], installed)
            return dict(config.model_dump(mode="json"))
    except (ApdmError, OSError):
        return {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
