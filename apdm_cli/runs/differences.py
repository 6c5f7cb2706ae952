"""What differs between a run on the disk and the one that is asked for now, in words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from apdm_cli.errors import ApdmError
from apdm_cli.runs.jsonable import jsonable

_ABSENT = object()
PHOTOS = "photos"


def differences(before: Mapping[str, Any], now: Mapping[str, Any], limit: int = 5) -> list[str]:
    """Lines such as `config.beta was 1.0 and is now 2.0`, at most `limit` and a line for the rest.

    Compared are the entries of both, recursively, in `before`'s order. An entry `photos`
    (rows with name and sha256) is compared by file name.
    """
    lines = list(_walk("", jsonable(before), jsonable(now)))
    if len(lines) > limit:
        return [*lines[:limit], f"and {len(lines) - limit} more differences"]
    return lines


def require_same(
    name: str, before: Mapping[str, Any], now: Mapping[str, Any], keys: Sequence[str]
) -> None:
    """Raise an `ApdmError` with the first differences when run `name` cannot be resumed as asked.

    `before` is the run's manifest, `now` what a new one would hold; only `keys` are compared.
    """
    found = differences(
        {key: before[key] for key in keys if key in before},
        {key: now[key] for key in keys if key in now},
    )
    if found:
        raise ApdmError(
            f"Run {name} cannot be resumed with other settings: " + "; ".join(found),
            "Give the same settings and photos again, or choose another --name.",
        )


def _walk(where: str, before: Any, now: Any) -> Iterator[str]:
    if where.rpartition(".")[2] == PHOTOS and isinstance(before, list) and isinstance(now, list):
        yield from _photos(before, now)
    elif isinstance(before, dict) and isinstance(now, dict):
        for key in [*before, *(key for key in now if key not in before)]:
            inner = f"{where}.{key}" if where else key
            yield from _walk(inner, before.get(key, _ABSENT), now.get(key, _ABSENT))
    elif before is _ABSENT:
        yield f"{where} was not set and is now {_shown(now)}"
    elif now is _ABSENT:
        yield f"{where} was {_shown(before)} and is not set now"
    elif before != now:
        yield f"{where} was {_shown(before)} and is now {_shown(now)}"


def _photos(before: list[Any], now: list[Any]) -> Iterator[str]:
    old, new = _digests(before), _digests(now)
    yield from (f"photo {name} is missing now" for name in old if name not in new)
    yield from (f"photo {name} is new" for name in new if name not in old)
    changed = [name for name in old if name in new and old[name] != new[name]]
    yield from (f"photo {name} has other content" for name in changed)
    if old == new and before != now:  # several photos of one name, or another order
        yield "the photos are in another order or number"


def _digests(rows: list[Any]) -> dict[str, Any]:
    """Name → digest; a row that is none (a damaged manifest) has no digest, and so differs."""
    return {
        str(row.get("name")): row.get("sha256")
        for row in (row if isinstance(row, dict) else {"name": row} for row in rows)
    }


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
