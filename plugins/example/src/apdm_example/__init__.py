"""What this plugin brings. Hooks only register: nothing is computed here."""

from apdm_cli.plugin import Attack, Metric, hookimpl
from apdm_example.cross_attention import CrossAttention
from apdm_example.palette import Palette
from apdm_example.sharpness import Sharpness


@hookimpl
def apdm_attacks() -> list[Attack]:
    """One attack."""
    return [CrossAttention()]


@hookimpl
def apdm_metrics() -> list[Metric]:
    """Two metrics: one of quality, and a similarity that the verdict may rest on."""
    return [Sharpness(), Palette()]
