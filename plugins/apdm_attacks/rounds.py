"""Several personalizations, one after another."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from apdm_attacks.parts import POCKET, Components
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.extension.attack import Artifact, Attack, AttackConfig
from apdm_cli.harness.workbench import Workbench
from apdm_cli.subject import Subject


class RoundsConfig(AttackConfig):
    """DreamBooth's options, per round."""

    rounds: int = Field(3, ge=1, le=10, description="personalizations of `steps` steps each")


class Rounds(Attack):
    """Personalizes again and again, with a fresh optimizer and fresh noise every round.

    Whether a protection holds over several rounds is an open question of the paper. The artifact
    of every round stays beside the last one (`rounds/1`, ...), so that a curve can be drawn.
    """

    name = "rounds"
    Config = RoundsConfig
    profiles: ClassVar = {"pocket": POCKET}

    def trainable(self, model: DiffusionModel, subject: Subject, config: Any) -> Components:
        """All weights of the denoiser."""
        return Components(model, subject)

    def run(self, bench: Workbench, config: Any) -> Artifact:
        """`rounds` phases on the same weights."""
        trainable = self.trainable(bench.model, bench.subject, config)
        series = []
        for index in range(1, config.rounds + 1):
            bench.personalize(
                trainable,
                config,
                lambda step: self.learning_rate(step, config),
                label=f"round {index}",
            )
            name = f"rounds/{index}"
            kept = trainable.save(bench.new_folder(name))
            series.append({"label": f"round {index}", "kind": kept.kind, "path": name})
        bench.results["series"] = series
        return trainable.save(bench.artifact_folder)
