"""Nested state goes through JSON and tensors and comes back exactly."""

import json
import math
from typing import Any

import pytest
import torch

from apdm_cli.runs.checkpoints import save_checkpoint
from apdm_cli.runs.packing import pack, unpack


def through_json(state: Any) -> Any:
    skeleton, tensors = pack(state)
    return unpack(json.loads(json.dumps(skeleton)), tensors)


def same(a: Any, b: Any) -> bool:
    """Equal in type, dtype and every bit (NaN equals itself)."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and bits(a) == bits(b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (a != a and b != b)


def bits(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.detach().contiguous().reshape(-1).view(torch.uint8).tolist())


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"a": {}, "b": [], "c": ()},
        {0: "int key", 12: {"x": 1}},
        {"1": "text", 1: "number"},
        {"betas": (0.9, 0.999), "list": [1, 2.0, True, None, "x"]},
        {"x": 0.1 + 0.2, "tiny": 5e-324, "negative zero": -0.0, "inf": math.inf, "nan": math.nan},
        {"$tensor": "not one", "$tuple": [1], "$items": []},
        {"a/b": torch.ones(1), "a": {"b": torch.zeros(1)}, "a~1b": torch.tensor(3.0)},
        {1: torch.ones(1), "#1": torch.zeros(1), "1": torch.full((1,), 2.0)},
        {"": {"x": torch.ones(1)}, "x": torch.zeros(1), "~": torch.full((1,), 2.0)},
        [torch.arange(3), (torch.tensor(True), torch.empty(0))],
        torch.ones(2),
    ],
    ids=str,
)
def test_round_trip(state):
    assert same(through_json(state), state)


def test_negative_zero_keeps_its_sign():
    assert math.copysign(1, through_json({"x": -0.0})["x"]) == -1


@pytest.mark.parametrize("state", [{"x": object()}, {"deep": [{1, 2}]}, {(1, 2): 3}, {None: 1}])
def test_what_would_be_lost_is_refused(state):
    with pytest.raises(TypeError):
        pack(state)


def test_the_place_is_named():
    with pytest.raises(TypeError, match="/inner/rows/#1: a set"):
        pack({"inner": {"rows": [0, set()]}})


def stepped(parameters: list[torch.Tensor], optimizer: torch.optim.Optimizer, seed: int) -> None:
    generator = torch.Generator()
    generator.manual_seed(seed)
    for parameter in parameters:
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.grad = noise.to(parameter.dtype)
    optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.AdamW(p, lr=1e-2, amsgrad=True),
        lambda p: torch.optim.AdamW([{"params": p[:1], "lr": 0.1}, {"params": p[1:]}]),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    ],
    ids=["adamw", "groups", "sgd"],
)
def test_an_optimizer_goes_on_bit_identically(tmp_path, dtype, make):
    first = [torch.ones(3, 2, dtype=dtype), torch.full((4,), 0.3, dtype=dtype)]
    optimizer = make(first)
    for seed in range(3):
        stepped(first, optimizer, seed)
    state = optimizer.state_dict()
    loaded = save_checkpoint(tmp_path, 3, state).load()
    assert same(loaded, state)

    second = [parameter.clone() for parameter in first]
    resumed = make(second)
    resumed.load_state_dict(loaded)
    for seed in range(3, 6):
        stepped(first, optimizer, seed)
        stepped(second, resumed, seed)
    assert all(map(torch.equal, first, second))
    assert same(resumed.state_dict(), optimizer.state_dict())
