"""One way from Python values to JSON, for manifests, logs and cell keys alike."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Set
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel


def jsonable(value: Any) -> Any:
    """`value` in JSON's own types: NaN and infinities become null, sets sorted lists.

    Raises `TypeError` for what has no obvious form in JSON (a tensor, for one).
    """
    if isinstance(value, BaseModel):
        return jsonable(value.model_dump())
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: jsonable(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, Set):
        return sorted((jsonable(item) for item in value), key=canonical_json)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):  # bool is an int
        return value
    raise TypeError(f"no JSON for {type(value).__name__}: {value!r}")


def canonical_json(value: Any) -> str:
    """The one JSON text of `value`: sorted keys, no blanks, ASCII. Equal values, equal text."""
    return json.dumps(jsonable(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
