"""Nested state (optimizers, generators, counters) as JSON beside tensors, and exactly back."""

from __future__ import annotations

from typing import Any

import torch

_TENSOR, _TUPLE, _ITEMS = "$tensor", "$tuple", "$items"


def pack(state: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """Split `state` into a JSON-able skeleton and its tensors, named by their place.

    Dicts with any simple keys, lists, tuples, tensors, and str/int/float/bool/None come back
    from `unpack` exactly: types, dtypes (bf16 and uint8 too), bits, NaN, int keys, empty dicts.
    Raises `TypeError` for anything else: it would otherwise be lost without a word.
    """
    tensors: dict[str, torch.Tensor] = {}
    return _pack(state, "", tensors), tensors


def unpack(skeleton: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """The `state` that `pack` split."""
    if isinstance(skeleton, list):
        return [unpack(item, tensors) for item in skeleton]
    if not isinstance(skeleton, dict):
        return skeleton
    if _TENSOR in skeleton:
        return tensors[skeleton[_TENSOR]]
    if _TUPLE in skeleton:
        return tuple(unpack(item, tensors) for item in skeleton[_TUPLE])
    if _ITEMS in skeleton:
        return {key: unpack(item, tensors) for key, item in skeleton[_ITEMS]}
    return {key: unpack(item, tensors) for key, item in skeleton.items()}


def _pack(value: Any, place: str, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        name = place or "~"  # the state is this one tensor; no other place is called so
        tensors[name] = value.detach()
        return {_TENSOR: name}
    if isinstance(value, dict):
        items = [(key, _pack(item, _below(place, key), tensors)) for key, item in value.items()]
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return dict(items)
        if not all(type(key) in (str, int) for key in value):  # a bool key would come back as is,
            raise TypeError(f"{place or 'state'}: keys must be str or int")  # but others would not
        return {_ITEMS: [[key, item] for key, item in items]}
    if type(value) in (list, tuple):
        packed = [_pack(item, _below(place, index), tensors) for index, item in enumerate(value)]
        return packed if type(value) is list else {_TUPLE: packed}
    if value is None or type(value) in (str, int, float, bool):
        return value
    raise TypeError(f"{place or 'state'}: a {type(value).__name__} cannot be kept in a checkpoint")


def place_of(*keys: str) -> str:
    """What the names of the tensors below `keys` of nested dicts begin with."""
    place = ""
    for key in keys:
        place = _below(place, key)
    return place


def _below(place: str, key: object) -> str:
    # As a JSON pointer (RFC 6901), because "/" occurs in keys ("attack/noise"). The mark of
    # numbers keeps {1: ...} and {"1": ...} apart: no two places share a name.
    if isinstance(key, int):
        return f"{place}/#{key}"
    return f"{place}/" + str(key).replace("~", "~0").replace("/", "~1").replace("#", "~2")
