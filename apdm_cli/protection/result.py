"""From what a protection has trained to the model that is saved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from apdm_cli.diffusion.eight_bits import eight_bit_layers
from apdm_cli.diffusion.low_rank import Rounding, merge, off_eight_bits
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.saving import save_difference, save_pipeline
from apdm_cli.errors import ApdmError
from apdm_cli.extension.family import stored_dtype, trained_again
from apdm_cli.protection.bench import Bench
from apdm_cli.protection.request import ProtectRequest

LEAST_KEPT = 0.9  # of the difference; below half a unit in the last place it falls to 0 at once


class EndsTheSame(ApdmError):
    """Going on with the run would come to the same end."""


class Result:
    """θ as it will be saved: as it was trained, or a difference that is merged for that.

    Merging is done in float32 on weights as the model's files have them, and what is saved has
    their precision, so that a model in half precision stays one.

    Attributes:
        rounding: what merging has kept of the difference; None where nothing was merged.
        base: what is kept of one that was trained on weights in 8 bits, on the model's own; None
            for others.
    """

    def __init__(self, bench: Bench, request: ProtectRequest) -> None:
        self.bench, self.request = bench, request
        self.base: Rounding | None = None
        self.rounding, self.model = self._merged()

    @property
    def problem(self) -> ApdmError | None:
        """Why it should not be saved like this."""
        if self.base is not None and abs(self.base.kept - 1) > 1 - LEAST_KEPT:
            return EndsTheSame(
                "the difference that protects was trained on weights in 8 bits, and their rounding "
                f"is too large a part of it: on the model's own weights {self.base.kept:.0%} of it "
                "would be there",
                "Begin again under another --name without --set adapter.base=int8, or with a "
                "higher learning rate.",
            )
        if self.rounding is None or self.rounding.kept >= LEAST_KEPT:
            return None
        return ApdmError(
            f"the files of the model are in {self.rounding.dtype}, and rounding to that would keep "
            f"only {max(self.rounding.kept, 0):.0%} of the difference that protects",
            "Use --save adapter, which keeps it whole.",
        )

    def save(self, folder: Path) -> None:
        """Write it into the empty folder `folder`."""
        if self.request.adapter_only and self.bench.difference is not None:
            save_difference(self.model, self.bench.difference, folder)
        else:
            save_pipeline(self.model, folder, trained_only=self.request.trained_only)

    def _merged(self) -> tuple[Rounding | None, DiffusionModel]:
        difference, model = self.bench.difference, self.bench.model
        if difference is None:
            return None, model
        exact = None
        if eight_bit_layers(model.trained):
            exact = trained_again(model, self.request.known)
            self.base = off_eight_bits(difference, exact)
        if self.request.adapter_only:
            return None, model
        dtype = stored_dtype(model)
        held = next(model.trained.parameters()).dtype
        if exact is not None:
            network = exact
        elif held in (dtype, torch.float32):
            difference.detach()
            network = nn.Module.to(model.trained, "cpu", torch.float32)
        else:
            network = trained_again(model, self.request.known)
        rounding = merge(network, difference, dtype)
        components = {**model.components, model.family.trained: network}
        return rounding, replace(model, components=components)


def said_of_base(base: Rounding) -> str:
    """A sentence for the user."""
    return (
        "The difference was trained on weights in 8 bits and goes to the model's own, which are "
        f"{base.noise:.1%} of its norm away: {base.kept:.1%} of it is there."
    )


def said_of(rounding: Rounding) -> str:
    """A sentence for the user."""
    return (
        f"The difference was added to the model's weights, which are in {rounding.dtype}: rounding "
        f"keeps {rounding.kept:.1%} of it, and adds noise of {rounding.noise:.1%} of its norm."
    )
