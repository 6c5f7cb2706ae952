"""DreamBooth, arXiv 2208.12242."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from apdm_attacks.components import POCKET, Components
from apdm_cli.plugin import Attack

if TYPE_CHECKING:
    from apdm_cli.diffusion.model import DiffusionModel
    from apdm_cli.subject import Subject


class DreamBooth(Attack):
    """Fine-tunes the whole denoiser, with prior preservation: the paper's own attack.

    Defaults: the evaluation protocol of the published APDM code (800 steps, 5e-6, batch 1, 200
    class pictures).
    """

    name = "dreambooth"
    profiles: ClassVar = {"pocket": POCKET}

    def trainable(self, model: DiffusionModel, subject: Subject, config: Any) -> Components:
        """All weights of the denoiser."""
        return Components(model, subject)
