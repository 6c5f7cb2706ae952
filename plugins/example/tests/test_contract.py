"""Three lines make a test of everything that apdm expects."""

from typing import ClassVar

from apdm_example.cross_attention import CrossAttention
from apdm_example.palette import Palette
from apdm_example.sharpness import Sharpness

from apdm_cli.testing import AttackContract, MetricContract


class TestCrossAttention(AttackContract):
    attack: ClassVar = CrossAttention()


class TestSharpness(MetricContract):
    metric: ClassVar = Sharpness()


class TestPalette(MetricContract):
    metric: ClassVar = Palette()
