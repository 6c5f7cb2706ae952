"""The trained part of pivotal tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apdm_attacks.tokens import Embedding
from apdm_cli.plugin import Artifact

if TYPE_CHECKING:
    from torch import nn

    from apdm_attacks.adapters import Adapter


@dataclass
class Pivot(Embedding):
    """A new word and adapters."""

    adapter: Adapter

    def parameters(self) -> Sequence[nn.Parameter]:
        """The adapters' weights and the word's vectors."""
        return [*self.adapter.parameters(), *self.new.parameters()]

    def begin_again(self) -> None:
        """The adapters'."""
        self.adapter.begin_again()

    def groups(self) -> list[dict[str, Any]]:
        """The adapters', of which the first has the vectors, too."""
        first, *others = self.adapter.groups()
        return [{**first, "params": [*first["params"], *self.new.parameters()]}, *others]

    def save(self, folder: Path) -> Artifact:
        """What `load_lora_weights` opens and, in `tokens`, what `load_textual_inversion` does."""
        artifact = self.adapter.save(folder)
        self.new.save(folder / "tokens")
        return artifact
