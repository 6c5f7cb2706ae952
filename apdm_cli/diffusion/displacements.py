"""What simulated attackers have moved, kept as differences of low rank.

    <run>/displacements/<subject>/<number>.safetensors     one attacker's δ = θ′ − θ
        <weight>:up (m, r), <weight>:down (r, n)           up @ down, of a weight of m × n numbers
        <weight>                                           δ itself, where that is no larger

No photo and no latent is in them. But an attacker has learnt the subject, so that δ draws the
subject, on θ and also on the original, as far as rank r holds what it has learnt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from apdm_cli.errors import ApdmError

UP, DOWN = ":up", ":down"


@dataclass(frozen=True)
class Displacement:
    """δ of an attacker.

    Attributes:
        parts: as in its file.
    """

    parts: Mapping[str, Tensor]

    @classmethod
    @torch.no_grad()
    def nearest(cls, moved: Mapping[str, Tensor], rank: int) -> Displacement:
        """The nearest to `moved` of at most `rank`, weight by weight (Eckart and Young, 1936).

        Args:
            moved: name of a weight → its δ.
        """
        parts = {}
        for name, difference in moved.items():
            matrix = difference.float().reshape(len(difference), -1)
            m, n = matrix.shape
            if difference.dim() < 2 or rank * (m + n) >= m * n:
                parts[name] = difference.float().cpu().contiguous()
                continue
            left, values, right = torch.linalg.svd(matrix, full_matrices=False)
            root = values[:rank].sqrt()
            parts[name + UP] = (left[:, :rank] * root).cpu().contiguous()
            parts[name + DOWN] = (root[:, None] * right[:rank]).cpu().contiguous()
        return cls(parts)

    @classmethod
    def read(cls, file: Path) -> Displacement:
        """What `write` has written; ApdmError where that is damaged."""
        try:
            return cls(load_file(file))
        except (OSError, SafetensorError) as error:
            raise ApdmError(
                f"{file} cannot be read: {error}", "Set preservation.displaced=0 to do without it."
            ) from error

    def write(self, file: Path) -> None:
        """As safetensors; ApdmError where there is no room."""
        try:
            save_file(dict(self.parts), file)
        except SafetensorError as error:
            raise ApdmError(
                f"{file} cannot be written: {error}",
                "Free some space, then run the same command again.",
            ) from error

    def of(self, name: str) -> Tensor | None:
        """δ of a weight, flat where it has a low rank; None where it was not moved."""
        if name + UP in self.parts:
            return self.parts[name + UP] @ self.parts[name + DOWN]
        return self.parts.get(name)

    @torch.no_grad()
    def place(self, network: nn.Module, base: nn.Module) -> None:
        """Make the weights of `network` those of `base`, displaced by δ.

        Raises:
            ApdmError: `base` has no such weights.
        """
        names = {part.removesuffix(UP).removesuffix(DOWN) for part in self.parts}
        mine = dict(network.named_parameters())
        for name, weight in base.named_parameters():
            own = mine[name]
            own.copy_(weight)
            difference = self.of(name)
            if difference is None:
                continue
            if difference.numel() != own.numel():
                raise _of_another_model(name)
            own.add_(difference.to(own.device).view_as(own))
            names.discard(name)
        if names:
            raise _of_another_model(min(names))


def _of_another_model(name: str) -> ApdmError:
    return ApdmError(
        f"The displacements of earlier attackers do not fit the model, which has no such {name}",
        "Set preservation.displaced=0 to do without them.",
    )


def save_displacements(moved: Sequence[Mapping[str, Tensor]], rank: int, folder: Path) -> None:
    """Write what every attacker of one subject has moved into `folder`, which is made."""
    folder.mkdir(parents=True)
    for number, one in enumerate(moved):
        Displacement.nearest(one, rank).write(folder / f"{number}.safetensors")


def open_displacements(folder: Path) -> tuple[Displacement, ...]:
    """Those of one subject, in the order in which they were saved; none without `folder`."""
    files = sorted(folder.glob("*.safetensors"), key=lambda file: int(file.stem))
    return tuple(Displacement.read(file) for file in files)
