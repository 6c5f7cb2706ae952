"""Which pictures can be scored at all: a broken model draws black ones."""

from __future__ import annotations

from torch import Tensor


def usable(pictures: Tensor) -> Tensor:
    """Mask (N,): True where uint8 (N, H, W, 3) is not one colour all over.

    NaN pixels have become black by the time a picture is uint8, so they are found here too.
    """
    flat = pictures.flatten(1, 2)
    return (flat.amax(1) != flat.amin(1)).any(-1)
