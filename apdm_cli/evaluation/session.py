"""What one evaluation works with: both models, the sampler, and where pictures are kept."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.picture_cache import Order, gallery, is_kept
from apdm_cli.diffusion.sampling import SamplerSettings
from apdm_cli.errors import ApdmError
from apdm_cli.evaluation.cells import AttackCell, Stop
from apdm_cli.evaluation.profiles import EvaluationSettings, sampler_of
from apdm_cli.evaluation.utility import SEEDS_ATTACK, seeds
from apdm_cli.extension.attack import Attack
from apdm_cli.extension.manager import PluginManager, attacks, build_plugin_manager
from apdm_cli.harness.arms import ArmName, Arms
from apdm_cli.harness.artifacts import load_attacked
from apdm_cli.harness.stops import read_stop
from apdm_cli.progress import Progress, Silent
from apdm_cli.runs.names import slug
from apdm_cli.runs.precision import name_of

CACHE = "_cache"


@dataclass(frozen=True)
class PictureSet:
    """Pictures of one model, and where they are kept.

    Attributes:
        cell: whose attacked model draws them; None is the model of `arm` itself.
    """

    order: Order
    folder: Path
    arm: ArmName
    cell: AttackCell | None = None

    @property
    def shared(self) -> bool:
        """Whether other runs draw into the folder, too; then its name holds the order's key."""
        return self.arm == "original"

    def require_drawable(self) -> None:
        """ApdmError where pictures of another order would give way to what cannot be drawn."""
        if self.cell is not None and not is_kept(self.order, self.folder):
            _ = self.cell.artifact


@dataclass
class Session:
    """One evaluation of one run.

    Attributes:
        root: folder of all runs.
        arms: the original (unknown for a model that was protected elsewhere) and the protected
            model of the run that is evaluated.
        plugins: where metrics and attacks come from.
    """

    root: Path
    arms: Arms
    settings: EvaluationSettings
    progress: Progress = field(default_factory=Silent)
    plugins: PluginManager = field(default_factory=build_plugin_manager)

    @property
    def model(self) -> DiffusionModel:
        """The original where it is known: what the pictures' metrics and sampler follow."""
        return self.arms.load(self.first)

    @property
    def first(self) -> ArmName:
        """The original's arm where that is known."""
        return "original" if self.arms.has_original else "protected"

    def verified(self, who: str, arm: ArmName | None = None) -> DiffusionModel:
        """The model of an arm (else `model`), loaded again where `who`, a plugin, changed it.

        What is drawn with it is kept under the digest of its weights.
        """
        try:
            self.arms.require_unchanged(who)
        except ApdmError as error:
            self.progress.said(f"{error.what}; it is loaded again")
        return self.arms.load(arm or self.first)

    @cached_property
    def _attacks(self) -> dict[str, Attack]:
        return attacks(self.plugins)

    @cached_property
    def sampler(self) -> SamplerSettings:
        """How every picture of this evaluation is drawn."""
        return sampler_of(self.settings, self.model)

    def of_model(
        self, arm: ArmName, prompts: Sequence[str], numbers: Sequence[int], label: str
    ) -> PictureSet:
        """Pictures of θ or θ̂ itself. Those of θ serve every run, and are θ̂'s where it is θ."""
        arm = self.arms.weights_of(arm)
        return PictureSet(*self.place_of_model(arm, prompts, numbers, label), arm)

    def of_cell(self, cell: AttackCell, stop: Stop, prompts: Sequence[str]) -> PictureSet:
        """Pictures of an attacked model that can be drawn from its artifact."""
        return PictureSet(*self.place_of_cell(cell, stop, prompts), cell.arm, cell)

    def opened(self, wanted: PictureSet) -> DiffusionModel:
        """The model that `wanted` is drawn with."""
        model = self.verified("a metric", wanted.arm)
        if wanted.cell is None:
            return model
        return load_attacked(model, wanted.cell.artifact, self._attacks)

    def draw(self, wanted: PictureSet) -> tuple[Tensor, str]:
        """The pictures, and their folder; what is missing is drawn."""
        wanted.require_drawable()
        pictures = gallery(
            wanted.order,
            wanted.folder,
            lambda: self.opened(wanted),
            self.progress.advance,
            keyed=wanted.shared,
        )
        return pictures, self.relative(wanted.folder)

    def draw_model(
        self, arm: ArmName, prompts: Sequence[str], numbers: Sequence[int], label: str
    ) -> tuple[Tensor, str]:
        """Pictures of θ or θ̂ itself, and their folder."""
        return self.draw(self.of_model(arm, prompts, numbers, label))

    def place_of_model(
        self, arm: ArmName, prompts: Sequence[str], numbers: Sequence[int], label: str
    ) -> tuple[Order, Path]:
        """What `draw_model` draws, and where it is kept."""
        arm = self.arms.weights_of(arm)
        origin = {"model": self.arms.ref(arm).digest}
        order = Order(origin, tuple(prompts), tuple(numbers), self.sampler, self.arms.dtype)
        if arm == "original":
            return order, self.root / CACHE / "pictures" / order.key
        return order, self.arms.run.evaluation / "images" / slug(label)

    def draw_cell(self, cell: AttackCell, stop: Stop, prompts: Sequence[str]) -> tuple[Tensor, str]:
        """Pictures of an attacked model, and their folder; both arms get the same seeds.

        Those before the last budget were drawn by `apdm attack`; ApdmError where it drew others.
        """
        if stop.pictures is None:
            return self.draw(self.of_cell(cell, stop, prompts))
        order, folder = self.place_of_cell(cell, stop, prompts)
        there = read_stop(folder, order)
        self.progress.advance(len(prompts))
        return there, self.relative(folder)

    def place_of_cell(
        self, cell: AttackCell, stop: Stop, prompts: Sequence[str]
    ) -> tuple[Order, Path]:
        """The pictures of an attacked model, and where they are kept, or were by `apdm attack`."""
        numbers = seeds(SEEDS_ATTACK, len(prompts), self.settings.seed)
        if stop.pictures is not None:
            # Version 0.2.0 kept a precision for the cell only, and not with its pictures.
            mine = name_of(self.arms.dtype)
            other = {} if (cell.manifest.get("dtype") or mine) == mine else {"cell": cell.name}
            order = Order(other, tuple(prompts), numbers, self.sampler, self.arms.dtype)
            return order, stop.pictures
        order = Order(cell.origin, tuple(prompts), numbers, self.sampler, self.arms.dtype)
        if cell.arm == "original":  # shared by every run with the same original and photos
            return order, cell.folder / "images" / order.key
        return order, self.arms.run.evaluation / "images" / cell.name

    def relative(self, folder: Path) -> str:
        """`folder` as seen from the run's folder, with forward slashes."""
        return Path(os.path.relpath(folder, self.arms.run.path)).as_posix()

    def describe_sampler(self) -> dict[str, Any]:
        """For scores.json. The batch size changes no picture."""
        return {
            **self.sampler.model_dump(exclude={"batch_size"}),
            "seed": self.settings.seed,
        }
