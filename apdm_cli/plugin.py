"""Everything that the author of a plugin imports, in one place.

    from apdm_cli.plugin import Attack, Metric, hookimpl

The names are those of docs/write-an-attack.md and docs/write-a-family.md; contract tests are in
`apdm_cli.testing`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from apdm_cli.diffusion.family import (
    AdapterTargets,
    Components,
    Drawing,
    Family,
    FamilyDefaults,
)
from apdm_cli.extension.attack import (
    Artifact,
    Attack,
    AttackConfig,
    Bench,
    Personalization,
    Trainable,
)
from apdm_cli.extension.hooks import hookimpl
from apdm_cli.extension.image_protection import ImageProtection, ImageProtectionConfig
from apdm_cli.extension.metric import Backend, Metric, MetricUnavailable, Pictures, Score
from apdm_cli.extension.protection import Inputs, Kind, Protection, ProtectionBench
from apdm_cli.extension.protection_config import AdaptableConfig, ProtectionConfig

if TYPE_CHECKING:
    from apdm_cli.diffusion.condition import Condition
    from apdm_cli.diffusion.latents import LatentDistribution
    from apdm_cli.diffusion.process import Diffusion, FlowMatching, NoiseProcess

__all__ = [
    "AdaptableConfig",
    "AdapterTargets",
    "Artifact",
    "Attack",
    "AttackConfig",
    "Backend",
    "Bench",
    "Components",
    "Condition",
    "Diffusion",
    "Drawing",
    "Family",
    "FamilyDefaults",
    "FlowMatching",
    "ImageProtection",
    "ImageProtectionConfig",
    "Inputs",
    "Kind",
    "LatentDistribution",
    "Metric",
    "MetricUnavailable",
    "NoiseProcess",
    "Personalization",
    "Pictures",
    "Protection",
    "ProtectionBench",
    "ProtectionConfig",
    "Score",
    "Trainable",
    "hookimpl",
]

# These need torch, which takes seconds: imported when somebody asks for them.
_WITH_TORCH = {
    "Condition": "condition",
    "Diffusion": "process",
    "FlowMatching": "process",
    "LatentDistribution": "latents",
    "NoiseProcess": "process",
}


def __getattr__(name: str) -> Any:
    if name in _WITH_TORCH:
        return getattr(import_module(f"apdm_cli.diffusion.{_WITH_TORCH[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
