"""Hook specifications. Hooks only register; behaviour lives in the objects they return."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from apdm_cli.diffusion.family import Family
    from apdm_cli.extension.attack import Attack
    from apdm_cli.extension.metric import Metric
    from apdm_cli.extension.protection import Protection

GROUP = "apdm"
hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@hookspec
def apdm_attacks() -> list[Attack]:  # type: ignore[empty-body]
    """Attacks that this plugin brings."""


@hookspec
def apdm_metrics() -> list[Metric]:  # type: ignore[empty-body]
    """Metrics that this plugin brings."""


@hookspec
def apdm_families() -> list[Family]:  # type: ignore[empty-body]
    """Families of models that this plugin brings."""


@hookspec
def apdm_protections() -> list[Protection]:  # type: ignore[empty-body]
    """Protections that this plugin brings."""
