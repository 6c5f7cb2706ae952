"""The paper's metrics: what computes each here, and which extractor the published numbers have.

Sources: the evaluation protocol of arXiv 2511.01307's published code. DINO is facebook/dino-vits16,
BRISQUE the PyPI package `brisque` (its machine is not LIVE's, so the two give different numbers),
FID pytorch-fid's Inception, CLIP OpenAI's ViT-L/14.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PaperMetric:
    """A column of the paper.

    Attributes:
        ours: names for `apdm evaluate --metrics`; the first that has a score is taken.
        backend: how the name of the paper's extractor begins.
        digits: behind the point, as published.
    """

    ours: tuple[str, ...]
    backend: str
    digits: int


METRICS = {
    "dino": PaperMetric(("dino",), "dino-vits16", 4),
    "brisque": PaperMetric(("brisque-paper", "brisque"), "brisque-package-", 2),
    "fid": PaperMetric(("fid",), "inception-pytorch-fid", 2),
    "clip": PaperMetric(("clip-t",), "open_clip/ViT-L-14:openai", 4),
    # Question answering and object detection: apdm has no such metric.
    "tifa": PaperMetric((), "", 2),
    "geneval": PaperMetric((), "", 4),
}
