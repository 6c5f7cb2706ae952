"""The first-party attacks. They enter through the same door as anybody else's.

Lists, settings and completion read what is declared here; torch, diffusers and peft take seconds to
import, so that only functions import them, or what needs them.
"""

from apdm_attacks.adaptive import Adaptive
from apdm_attacks.adaptive_lr import AdaptiveLR
from apdm_attacks.adaptive_objective import AdaptiveObjective
from apdm_attacks.custom_diffusion import CustomDiffusion
from apdm_attacks.dreambooth import DreamBooth
from apdm_attacks.dreambooth_text import DreamBoothText
from apdm_attacks.heal import Heal
from apdm_attacks.ip_adapter import IPAdapter
from apdm_attacks.lora import Lora
from apdm_attacks.pivotal_tuning import PivotalTuning
from apdm_attacks.rounds import Rounds
from apdm_attacks.textual_inversion import TextualInversion
from apdm_cli.plugin import Attack, hookimpl


@hookimpl
def apdm_attacks() -> list[Attack]:
    """One instance of each."""
    return [
        DreamBooth(),
        DreamBoothText(),
        Lora(),
        TextualInversion(),
        CustomDiffusion(),
        PivotalTuning(),
        Adaptive(),
        AdaptiveLR(),
        AdaptiveObjective(),
        Heal(),
        Rounds(),
        IPAdapter(),
    ]
