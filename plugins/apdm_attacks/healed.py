"""What an attack leaves on a healed model: the healed network beneath its own artifact."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apdm_attacks.components import Components
from apdm_cli.plugin import Artifact, Attack, Bench, Personalization, Trainable
from apdm_cli.runs.manifest import read_json, write_json_atomic

if TYPE_CHECKING:
    from torch import nn

    from apdm_cli.diffusion.condition import Condition
    from apdm_cli.diffusion.model import DiffusionModel

KIND = "healed"
ATTACK, ABOUT = "attack", "attack.json"


@dataclass
class Healed(Trainable):
    """Another attack's trained part, on a network that was healed first.

    Attributes:
        inner: what trains.
        network: the healed network, as it was before `inner` trained.
    """

    inner: Trainable
    network: nn.Module

    def __post_init__(self) -> None:
        self.trains_text = self.inner.trains_text
        super().__post_init__()

    def parameters(self) -> Sequence[nn.Parameter]:
        """Those of the other attack."""
        return self.inner.parameters()

    def groups(self) -> list[dict[str, Any]]:
        """Those of the other attack."""
        return self.inner.groups()

    def condition(self, prompt: str) -> Condition:
        """As the other attack embeds it."""
        return self.inner.condition(prompt)

    def prompt_word(self) -> str:
        """That of the other attack."""
        return self.inner.prompt_word()

    def save(self, folder: Path) -> Artifact:
        """The healed network and, in `attack`, the other attack's artifact."""
        family = self.model.family
        family.save_component(self.network, folder / family.trained)
        (folder / ATTACK).mkdir()
        artifact = self.inner.save(folder / ATTACK)
        write_json_atomic(folder / ABOUT, {"kind": artifact.kind})
        return Artifact(KIND, folder)


def on_healed(bench: Bench, attack: Attack, config: Any) -> Personalization:
    """`attack` on the healed `bench.model`.

    One that trains all of the network saves all of it, and needs no other beneath.
    """
    network = copy.deepcopy(bench.model.trained)
    found = bench.personalization(attack, config)
    if isinstance(found.trainable, Components):
        return found
    healed = Healed(found.model, found.subject, found.trainable, network)
    return replace(found, trainable=healed)


def open_healed(model: DiffusionModel, folder: Path) -> DiffusionModel:
    """The healed network in `model`, and the attack's artifact on top."""
    from apdm_cli.diffusion.artifacts import open_components
    from apdm_cli.harness.artifacts import load_attacked

    kind = str(read_json(folder / ABOUT)["kind"])
    return load_attacked(open_components(model, folder), Artifact(kind, folder / ATTACK))
