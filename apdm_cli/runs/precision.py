"""The precision that a result was computed in: in its key, and in the command that repeats it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_SPELLED = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


def name_of(dtype: torch.dtype) -> str:
    """As records have it: "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def spelled(name: str) -> str:
    """What `--dtype` calls the precision that a record names: "bf16" for "bfloat16"."""
    return _SPELLED.get(name, name)


def in_key(dtype: torch.dtype) -> dict[str, str]:
    """The entry of `dtype` in the description of a result: `{"dtype": "bfloat16"}`.

    float32 has none: it is what every result is in whose description says nothing.
    """
    name = name_of(dtype)
    return {} if name == "float32" else {"dtype": name}


def to_name(record: Mapping[str, Any]) -> str | None:
    """What a command that repeats what `record` tells of has to say after `--dtype`.

    None for float32, which goes without saying but on a card, where `auto` can be another.

    Args:
        record: a manifest, with "dtype" and "device".
    """
    dtype = spelled(str(record.get("dtype") or "float32"))
    on_card = str(record.get("device")).startswith("cuda")
    return dtype if dtype != "fp32" or on_card else None
