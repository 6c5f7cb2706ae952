"""What a prompt becomes for a model: everything its denoiser is conditioned on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from apdm_cli.devices import sent


@dataclass(frozen=True)
class Condition:
    """A batch of conditions as named tensors, whose first dimension is the batch.

    Stable Diffusion has one tensor, `Condition({"text": embeddings (B, L, D)})`; other families
    add pooled embeddings, sizes or positions. Losses and loops pass conditions on and never look
    inside: only the model's family knows the names.

    Attributes:
        tensors: name → tensor (B, ...), at least one; B is the same in all of them.
    """

    tensors: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        if len({len(tensor) for tensor in self.tensors.values()}) != 1:
            shapes = {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}
            raise ValueError(f"a condition needs tensors of one batch size: {shapes}")

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, name: str) -> Tensor:
        """The tensor called `name`, (B, ...)."""
        return self.tensors[name]

    def expand(self, count: int) -> Condition:
        """A batch of one, seen as a batch of `count`, without a copy."""
        return self._each(lambda tensor: tensor.expand(count, *tensor.shape[1:]))

    def index(self, indices: Tensor | Sequence[int]) -> Condition:
        """The rows `indices`, in their order; a row may come several times."""
        if not isinstance(indices, Tensor):
            return self._each(lambda tensor: tensor[indices])
        return self._each(lambda tensor: tensor[sent(indices, tensor.device)])

    def where(self, mask: Tensor, other: Condition) -> Condition:
        """These rows, but for `other`, a batch of one, where `mask` (B,) is true."""

        def replaced(name: str) -> Tensor:
            mine = self.tensors[name]
            rows = sent(mask, mine.device).view(-1, *[1] * (mine.dim() - 1))
            return torch.where(rows, other[name], mine)

        return Condition({name: replaced(name) for name in self.tensors})

    def split(self, sizes: int | list[int]) -> list[Condition]:
        """The batch in pieces of `sizes` rows, as `Tensor.split` counts them."""
        pieces = {name: tensor.split(sizes) for name, tensor in self.tensors.items()}
        rows = zip(*pieces.values(), strict=True)
        return [Condition(dict(zip(pieces, row, strict=True))) for row in rows]

    def detach(self) -> Condition:
        """The same values without their gradients."""
        return self._each(lambda tensor: tensor.detach())

    def to(self, device: torch.device) -> Condition:
        """The same values on `device`."""
        return self._each(lambda tensor: tensor.to(device))

    @classmethod
    def cat(cls, conditions: Sequence[Condition]) -> Condition:
        """One batch of several, of the same names and shapes."""
        return cls(
            {name: torch.cat([c[name] for c in conditions]) for name in conditions[0].tensors}
        )

    def _each(self, change: Callable[[Tensor], Tensor]) -> Condition:
        return Condition({name: change(tensor) for name, tensor in self.tensors.items()})
