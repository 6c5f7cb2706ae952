"""One way from Python values to JSON, for manifests, logs and cell keys alike."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Set
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel

LONGEST_INTEGER = 40  # digits, with the sign; twice what 64 bits need


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


def parse_json(text: str | bytes, *, foreign: bool = False) -> Any:
    """The value of JSON `text`. Raises `ValueError` for everything that `jsonable` never writes.

    Python's own parser takes NaN and infinities, numbers that no float holds, and fails with
    other errors on deep nesting and on bytes that are no UTF-8.

    Args:
        foreign: take NaN and infinities, which other libraries do write (diffusers, for one).
    """
    constant = None if foreign else _no_constant
    try:
        return json.loads(text, parse_constant=constant, parse_int=_integer, parse_float=_real)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _integer(digits: str) -> int:
    if len(digits) > LONGEST_INTEGER:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _real(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is no number that can be held")
    return number


def canonical_json(value: Any) -> str:
    """The one JSON text of `value`: sorted keys, no blanks, ASCII. Equal values, equal text."""
    return json.dumps(jsonable(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
