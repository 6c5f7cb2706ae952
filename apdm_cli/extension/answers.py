"""What a family of somebody else answers: it is named where it fails, and its types are checked."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import FunctionType
from typing import Any

from torch import Tensor

from apdm_cli.diffusion.condition import Condition
from apdm_cli.diffusion.family import Family
from apdm_cli.diffusion.latents import LatentDistribution
from apdm_cli.diffusion.process import NoiseProcess
from apdm_cli.errors import ApdmError
from apdm_cli.extension.containment import MENDING, blamed

HOUSE = "apdm_families"  # whose bugs keep their traceback
RETURNS: dict[str, type] = {
    "open": dict,
    "open_file": dict,
    "process": NoiseProcess,
    "resolution": int,
    "latent_shape": tuple,
    "embed": Condition,
    "predict": Tensor,
    "encode": LatentDistribution,
    "decode": Tensor,
    "sample": Tensor,
}


def guarded(family: Family) -> Family:
    """`family`, of which every method raises `ApdmError` where it fails or returns something else.

    The methods are called from everywhere, also between a thousand steps of the house's own loops:
    nobody there has to expect what foreign code may raise. Families of the house are as they were.
    """
    kind = type(family)
    if kind.__module__.partition(".")[0] == HOUSE:
        return family
    who = f"the family {family.name}"

    def answering(name: str) -> Callable[..., Any]:
        expected = RETURNS.get(name)

        @functools.wraps(getattr(Family, name), updated=())  # not that it is abstract
        def answer(self: Family, *given: Any, **named: Any) -> Any:
            with blamed(who):
                found = getattr(super(own, self), name)(*given, **named)
            if expected is not None and not isinstance(found, expected):
                returned = type(found).__name__
                raise ApdmError(
                    f"{who} returned a {returned} from {name}, not a {expected.__name__}", MENDING
                )
            return found

        return answer

    names = [name for name, value in vars(Family).items() if isinstance(value, FunctionType)]
    body: dict[str, Any] = {name: answering(name) for name in names}
    own = type(kind.__name__, (kind,), {**body, "__module__": kind.__module__})
    own.__doc__ = kind.__doc__
    copied: Family = object.__new__(own)
    copied.__dict__.update(vars(family))
    return copied
