"""What tells cells apart that carry one name: of one attack, or of neighbours.

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
from apdm_cli.runs.precision import spelled
from apdm_cli.scores import LeftOut, ScoreRow, attack_label

if TYPE_CHECKING:
    from apdm_cli.extension.attack import Attack

SHORT = 8  # digits of a digest that are shown
CELLS = ("attack", "neighbour")  # roles of rows that come from a cell


@dataclass(frozen=True)
class Told:
    """What a cell's manifest says that can tell it from another of its attack.

    Attributes:
        attack: its name.
        configuration: the attack's settings.
        words: what the command chose besides, as one level of keys.
        photos: digest of all photos, for sets of one size.
        version: of the plugin that brings the attack; empty where it was not kept.
        pair: the end of a name that both arms of one attack have in common: the control cell's.
    """

    attack: str
    configuration: Mapping[str, Any]
    words: Mapping[str, Any]
    photos: str
    version: str
    pair: str

    @classmethod
    def by(cls, cell: str, manifest: Mapping[str, Any]) -> Told:
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
                **({"dtype": spelled(str(dtype))} if (dtype := manifest.get("dtype")) else {}),
            },
            hashlib.sha256("\n".join(sorted(files)).encode()).hexdigest()[:SHORT],
            str(plugin.get("version") or versions.get("apdm") or ""),
            str(manifest.get("control") or cell)[-SHORT:],
        )


def with_named_variants(run: EvaluatedRun) -> EvaluatedRun:
    """The run with names for cells of one name that differ in what the name doesn't say.

    Of one neighbour's folder whose photos changed since, only the newest cells stay.
    """
    manifests = {
        row.cell: manifest
        for row in run.scores.rows
        if row.role in CELLS and row.cell and (manifest := run.cell_manifest(row))
    }
    cells = {cell: Told.by(cell, manifest) for cell, manifest in manifests.items()}
    older = _older_neighbours(run.scores.rows, manifests, cells)
    rows = [row for row in run.scores.rows if row.cell not in older]
    why = "it is of a neighbour whose photos changed since, and was taught again"
    gone = tuple(LeftOut(cell=cell, reason=why) for cell in sorted(older))
    update = {
        "rows": tuple(name_variants(rows, cells)),
        "left_out": (*run.scores.left_out, *gone),
    }
    return replace(run, scores=run.scores.model_copy(update=update))


def _older_neighbours(
    rows: Sequence[ScoreRow],
    manifests: Mapping[str, Mapping[str, Any]],
    cells: Mapping[str, Told],
) -> set[str]:
    """Cells of neighbours from whose folders, with the same settings, newer ones were made.

    Newer ones of other photos: two of the same photos are told apart otherwise.
    """
    made: dict[str, dict[str, str]] = defaultdict(dict)  # what was asked → cell → when
    for row in rows:
        manifest = manifests.get(row.cell or "", {})
        sources = ((manifest.get("subject") or {}).get("photos") or {}).get("sources")
        if row.role == "neighbour" and row.cell and sources and manifest.get("created"):
            told = cells[row.cell]
            words = {**told.words, "photos": sources}
            asked = (row.topic, told.attack, row.arm, row.seed, row.budget)
            key = json.dumps([*asked, told.configuration, words], sort_keys=True)
            made[key][row.cell] = str(manifest["created"])
    older = set()
    for times in made.values():
        newest = cells[max(times, key=lambda cell: times[cell])]
        older |= {cell for cell in times if cells[cell].photos != newest.photos}
    return older


def name_variants(rows: Sequence[ScoreRow], cells: Mapping[str, Told]) -> list[ScoreRow]:
    """`rows` with the name of colliding cells completed by what differs.

    Two cells of an attack collide when variant, arm, seed and budget are equal, and two of
    neighbours when topic, arm, seed and budget are. Where neither settings nor photos differ, the
    version does: `dreambooth (of 0.1.0)`; where that is equal too, or a cell is not in `cells`,
    the end of the cell's name.
    """
    together: dict[tuple[str, ...], list[ScoreRow]] = defaultdict(list)
    for row in rows:
        if row.role in CELLS:
            together[_name(row)].append(row)
    # By name too: a control cell stands beside every variant that it is the control of.
    suffixes: dict[tuple[str, tuple[str, ...]], str] = {}
    for name, group in together.items():
        if _collide(group, {}):
            keys = {row.cell for row in group if row.cell is not None}
            told = {key: cells.get(key) or Told("", {}, {}, "", "", key[-SHORT:]) for key in keys}
            found = _suffixes(group, told)
            suffixes |= {(cell, name): suffix for cell, suffix in found.items()}
    return [_completed_by(suffixes.get((row.cell or "", _name(row)), ""), row) for row in rows]


def _name(row: ScoreRow) -> tuple[str, ...]:
    """What a line of the table is named after."""
    if row.role == "attack":
        return row.role, str(row.attack), row.variant
    return row.role, row.topic


def _completed_by(suffix: str, row: ScoreRow) -> ScoreRow:
    if not suffix:
        return row
    label = ", ".join(filter(None, (row.label, suffix)))
    if row.role == "attack":
        variant = ", ".join(filter(None, (row.variant, suffix)))
        return row.model_copy(update={"variant": variant, "label": label})
    topic = attack_label(row.topic or row.role, suffix)
    return row.model_copy(update={"topic": topic, "label": label})


def _collide(group: Iterable[ScoreRow], suffixes: Mapping[str, str]) -> set[str]:
    """The suffixes under which two cells of `group` would still have one name."""
    places = Counter(
        (suffixes.get(row.cell or "", ""), row.arm, row.seed, row.budget) for row in group
    )
    return {place[0] for place, count in places.items() if count > 1}


def _suffixes(group: Sequence[ScoreRow], cells: Mapping[str, Told]) -> dict[str, str]:
    """Cell → what it has otherwise: settings, photos, version, own name, as far as needed."""
    suffixes = _differing(
        {
            cell: {
                **({"attack": told.attack} if told.attack else {}),
                **told.configuration,
                **told.words,
            }
            for cell, told in _completed(cells).items()
        }
    )
    for words, tell in (("photos", "photos"), ("of", "version"), ("cell", "pair")):
        for suffix in _collide(group, suffixes):
            same = {
                cell: f"{words} {known}" if (known := getattr(told, tell)) else ""
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
