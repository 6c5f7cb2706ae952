"""AdamW whose moments lie in main memory and visit the card for a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

BUCKET = 2**24  # elements: 64 MiB in float32, long enough for the bus to reach its full rate
SLOTS = 2  # one bucket on its way in while another is on its way out
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Bucket:
    """Weights whose moments travel together.

    Attributes:
        weights: on the device, of one dtype.
        moments: both, each in one flat tensor in main memory (pinned for a card); the state of
            the optimizer has views of them.
    """

    weights: list[nn.Parameter]
    moments: tuple[Tensor, Tensor]

    def views(self, flat: Tensor) -> list[Tensor]:
        """`flat`, in which the weights lie one behind the other, in their shapes and strides."""
        parts = flat.split([weight.numel() for weight in self.weights])
        return [
            part.as_strided(weight.shape, weight.stride(), part.storage_offset())
            for part, weight in zip(parts, self.weights, strict=True)
        ]


class StreamedAdamW(torch.optim.AdamW):
    """The fused AdamW, bit for bit, in the device memory of a few buckets of moments.

    A step takes about as long as both moments need over the bus in one direction, because the
    other direction is used at the same time. State dicts are those of the ordinary AdamW.

    Args:
        parameters: all of one dtype, on one device.
        bucket: elements of a bucket; a larger weight has one of its own.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        bucket: int = BUCKET,
    ) -> None:
        super().__init__(parameters, lr=lr, betas=betas, weight_decay=weight_decay, fused=True)
        self._buckets = [_bucket(weights) for weights in _together(parameters, bucket)]
        for each in self._buckets:
            views = zip(*map(each.views, each.moments), strict=True)
            for weight, moments in zip(each.weights, views, strict=True):
                self.state[weight] = {
                    "step": torch.zeros((), dtype=torch.float32, device=weight.device),
                    **dict(zip(MOMENTS, moments, strict=True)),
                }

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Take one step; `closure` is not used. Afterwards the moments may be read."""
        device = self._buckets[0].weights[0].device
        travel = _Travel(device, max(len(each.moments[0]) for each in self._buckets), self._buckets)
        for each, moments in travel:
            self._step(each, *map(each.views, moments))
        travel.end()

    def _step(self, bucket: Bucket, first: list[Tensor], second: list[Tensor]) -> None:
        moving = [number for number, weight in enumerate(bucket.weights) if weight.grad is not None]
        weights = [bucket.weights[number] for number in moving]
        (group,) = self.param_groups
        adamw(
            weights,  # type: ignore[arg-type]
            [weight.grad for weight in weights if weight.grad is not None],
            [first[number] for number in moving],
            [second[number] for number in moving],
            [],
            [self.state[weight]["step"] for weight in weights],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go back to the state of this or of an ordinary AdamW, in place: nothing else moves."""
        (group,), (saved,) = self.param_groups, state_dict["param_groups"]
        group.update({name: value for name, value in saved.items() if name != "params"})
        for number, weight in zip(saved["params"], group["params"], strict=True):
            found = state_dict["state"].get(number, {})  # none where no step was taken
            for name, tensor in self.state[weight].items():
                tensor.copy_(found[name]) if found else tensor.zero_()


def bytes_on_device(parameters: Sequence[nn.Parameter]) -> int:
    """What a `StreamedAdamW` of `parameters` takes of the device's memory during a step."""
    sizes = [sum(map(Tensor.numel, together)) for together in _together(parameters, BUCKET)]
    return min(SLOTS, len(sizes)) * len(MOMENTS) * max(sizes) * parameters[0].element_size()


class _Travel:
    """Brings the moments of one bucket after the other to the device, and back from there.

    Iterating yields every bucket with its moments on the device, to be changed in place. On a
    card the bus works beside it in both directions, with `SLOTS` buckets on the device.
    """

    def __init__(self, device: torch.device, largest: int, buckets: Sequence[Bucket]) -> None:
        self.buckets, self.card = buckets, device.type == "cuda"
        dtype = buckets[0].moments[0].dtype
        self._slots = torch.empty(min(SLOTS, len(buckets)), 2, largest, dtype=dtype, device=device)
        if self.card:
            self._current = torch.cuda.current_stream(device)
            self._inward, self._outward = (torch.cuda.Stream(device) for _ in range(2))
            self._inward.wait_stream(self._current)  # whoever had the memory before is done then
            self._free: list[torch.cuda.Event | None] = [None] * len(self._slots)

    def __iter__(self) -> Iterator[tuple[Bucket, tuple[Tensor, Tensor]]]:
        for number, bucket in enumerate(self.buckets):
            slot = number % len(self._slots)
            first, second = self._slots[slot, :, : len(bucket.moments[0])]
            here = (first, second)
            self._bring(slot, here, bucket.moments)
            yield bucket, here
            self._take_back(slot, here, bucket.moments)

    def end(self) -> None:
        """Wait until everything is back."""
        if self.card:
            self._outward.synchronize()

    def _bring(self, slot: int, here: Sequence[Tensor], away: Sequence[Tensor]) -> None:
        if not self.card:
            _copy(here, away)
            return
        with torch.cuda.stream(self._inward):
            free = self._free[slot]
            if free is not None:
                self._inward.wait_event(free)
            _copy(here, away)
        self._current.wait_stream(self._inward)

    def _take_back(self, slot: int, here: Sequence[Tensor], away: Sequence[Tensor]) -> None:
        if not self.card:
            _copy(away, here)
            return
        self._outward.wait_stream(self._current)
        with torch.cuda.stream(self._outward):
            _copy(away, here)
            self._free[slot] = self._outward.record_event()


def _copy(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source, non_blocking=True)


def _bucket(weights: list[nn.Parameter]) -> Bucket:
    size, pinned = sum(weight.numel() for weight in weights), weights[0].device.type == "cuda"
    first, second = (torch.zeros(size, dtype=weights[0].dtype, pin_memory=pinned) for _ in range(2))
    return Bucket(weights, (first, second))


def _together(weights: Sequence[nn.Parameter], largest: int) -> Iterator[list[nn.Parameter]]:
    """Consecutive weights of at most `largest` elements in all, or single ones that are larger."""
    found: list[nn.Parameter] = []
    size = 0
    for weight in weights:
        if found and size + weight.numel() > largest:
            yield found
            found, size = [], 0
        found.append(weight)
        size += weight.numel()
    if found:
        yield found
