"""What a key says of the precision that its result was computed in."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def in_key(dtype: torch.dtype) -> dict[str, str]:
    """The entry of `dtype` in the description of a result: `{"dtype": "bfloat16"}`.

    float32 has none: it is what every result is in whose description says nothing.
    """
    name = str(dtype).removeprefix("torch.")
    return {} if name == "float32" else {"dtype": name}
