"""The first-party protections. They enter through the same door as anybody else's."""

from apdm_cli.extension.hooks import hookimpl
from apdm_cli.extension.protection import Protection
from apdm_protections.anti_dreambooth import AntiDreamBooth
from apdm_protections.apdm import APDM
from apdm_protections.erase import Erase
from apdm_protections.imma import Imma
from apdm_protections.naive import Naive
from apdm_protections.self_destruct import SelfDestruct
from apdm_protections.sophon import Sophon


@hookimpl
def apdm_protections() -> list[Protection]:
    """One instance of each: the method, and what it is compared with."""
    return [APDM(), Naive(), Erase(), Imma(), Sophon(), SelfDestruct(), AntiDreamBooth()]
