"""The metrics that come with `apdm`, through the same door as anybody else's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apdm_cli.extension.hooks import hookimpl

if TYPE_CHECKING:
    from apdm_cli.extension.metric import Metric


@hookimpl
def apdm_metrics() -> list[Metric]:
    """One object of every metric here; each loads its backend only in `prepare`."""
    from apdm_metrics.clip import ClipImage, ClipText
    from apdm_metrics.distances import Fid, Kid
    from apdm_metrics.identity import FaceDetectionFailureRate, Identity
    from apdm_metrics.perceptual import Lpips
    from apdm_metrics.quality import Brisque, BrisquePaper
    from apdm_metrics.similarity import Dino, Diversity, SameSeed

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
        FaceDetectionFailureRate(),
    ]
