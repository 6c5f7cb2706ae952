"""Everything that the author of a plugin imports, in one place.

    from apdm_cli.plugin import Attack, Metric, hookimpl

The names are those of docs/write-an-attack.md and its neighbours; contract tests are in
`apdm_cli.testing`.
"""

from apdm_cli.diffusion.family import AdapterTargets, Family, FamilyDefaults
from apdm_cli.extension.attack import (
    Artifact,
    Attack,
    AttackConfig,
    Bench,
    Personalization,
    Trainable,
)
from apdm_cli.extension.hooks import hookimpl
from apdm_cli.extension.metric import Backend, Metric, MetricUnavailable, Pictures, Score
from apdm_cli.extension.protection import (
    Inputs,
    Kind,
    Protection,
    ProtectionBench,
    ProtectionConfig,
)

__all__ = [
    "AdapterTargets",
    "Artifact",
    "Attack",
    "AttackConfig",
    "Backend",
    "Bench",
    "Family",
    "FamilyDefaults",
    "Inputs",
    "Kind",
    "Metric",
    "MetricUnavailable",
    "Personalization",
    "Pictures",
    "Protection",
    "ProtectionBench",
    "ProtectionConfig",
    "Score",
    "Trainable",
    "hookimpl",
]
