"""The metrics that come with `apdm`, through the same door as anybody else's."""

from __future__ import annotations

from apdm_cli.extension.hooks import hookimpl
from apdm_cli.extension.metric import Metric


@hookimpl
def apdm_metrics() -> list[Metric]:
    """One object of every metric here; each loads its backend only in `prepare`."""
    from apdm_metrics.brisque import Brisque
    from apdm_metrics.brisque_paper import BrisquePaper
    from apdm_metrics.clip_i import ClipImage
    from apdm_metrics.clip_t import ClipText
    from apdm_metrics.dino import Dino
    from apdm_metrics.diversity import Diversity
    from apdm_metrics.fid import Fid
    from apdm_metrics.identity import Identity
    from apdm_metrics.kid import Kid
    from apdm_metrics.lpips import Lpips
    from apdm_metrics.same_seed import SameSeed

    return [
        Dino(),
        Brisque(),
        BrisquePaper(),
        Fid(),
        Kid(),
        SameSeed(),
        Diversity(),
        ClipText(),
        ClipImage(),
        Lpips(),
        Identity(),
    ]
