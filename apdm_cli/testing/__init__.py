"""Contract tests for the authors of plugins. Four lines make a test module:

    from apdm_cli.testing import AttackContract

    class TestMine(AttackContract):
        attack = MyAttack()

Attacks, metrics and protections run on the embedded pocket model; override the fixture `model` for
another one. A family brings a small model of its own, in the fixture `folder`.
"""

from apdm_cli.testing.attack import AttackContract
from apdm_cli.testing.family import FamilyContract
from apdm_cli.testing.material import synthetic_photos
from apdm_cli.testing.metric import MetricContract
from apdm_cli.testing.protection import ImageProtectionContract, ProtectionContract

__all__ = [
    "AttackContract",
    "FamilyContract",
    "ImageProtectionContract",
    "MetricContract",
    "ProtectionContract",
    "synthetic_photos",
]
