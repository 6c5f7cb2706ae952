"""Names for cells of one attack that differ in their settings only."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from apdm_cli.report.scores import ScoreRow


def name_variants(
    rows: Sequence[ScoreRow], settings: Mapping[str, Mapping[str, Any]]
) -> list[ScoreRow]:
    """`rows` with the variant of colliding attack cells completed by what differs.

    Two cells collide when attack, variant, arm and seed are equal: `dreambooth` with 100 and with
    300 steps become `dreambooth (steps=100)` and `dreambooth (steps=300)`. `settings` maps a cell
    to its flat settings; cells without an entry keep their name.
    """
    together: dict[tuple[str | None, str], list[ScoreRow]] = defaultdict(list)
    for row in rows:
        if row.role == "attack":
            together[row.attack, row.variant].append(row)
    suffixes: dict[str, str] = {}
    for group in together.values():
        if _collide(group):
            suffixes |= _differences([row.cell or "" for row in group], settings)
    return [
        row.model_copy(update={"variant": ", ".join(filter(None, (row.variant, suffix)))})
        if row.role == "attack" and (suffix := suffixes.get(row.cell or "", ""))
        else row
        for row in rows
    ]


def flat_settings(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What an attack cell's manifest says of its settings, as one level of keys."""
    flat = {str(key): value for key, value in (manifest.get("configuration") or {}).items()}
    subject = manifest.get("subject") or {}
    photos = (subject.get("photos") or {}).get("files") or []
    flat["identifier"] = subject.get("identifier")
    flat["transforms"] = list(manifest.get("transforms") or [])
    flat["photos"] = len(photos)
    return flat


def _collide(group: Sequence[ScoreRow]) -> bool:
    places = [(row.arm, row.seed) for row in group]
    return len(set(places)) < len(places)


def _differences(cells: Sequence[str], settings: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    known = {cell: settings[cell] for cell in cells if cell in settings}
    keys = sorted({key for values in known.values() for key in values})
    differing = [
        key for key in keys if len({_text(values.get(key)) for values in known.values()}) > 1
    ]
    return {
        cell: ", ".join(f"{key}={_text(values.get(key))}" for key in differing)
        for cell, values in known.items()
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
