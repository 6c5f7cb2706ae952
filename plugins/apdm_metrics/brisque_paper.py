"""The published protocol's own BRISQUE, as is."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from apdm_cli.extension.metric import Backend, Metric, MetricUnavailable, Pictures, Score
from apdm_metrics.scores import Better, mean_score, nothing_to_score
from apdm_metrics.usable import usable

if TYPE_CHECKING:
    import torch

    from apdm_cli.diffusion.model import DiffusionModel


class BrisquePaper(Metric):
    """BRISQUE by the PyPI package `brisque` itself, features and machine (extra `paper`)."""

    name = "brisque-paper"
    better: ClassVar[Literal["lower", "higher"]] = "higher"
    needs: ClassVar[frozenset[str]] = frozenset()
    optional = True

    def prepare(self, model: DiffusionModel, device: torch.device) -> None:
        self._scorer = load_scorer()
        self._backend = Backend(f"brisque-package-{metadata.version('brisque')}", _machine_digest())

    def score(self, pictures: Pictures) -> Score:
        import torch

        kept = usable(pictures.images)
        skipped = int((~kept).sum())
        if not kept.any():
            return nothing_to_score(self, self._backend, skipped)
        values = torch.tensor(
            [float(self._scorer.score(picture.numpy())) for picture in pictures.images[kept]],
            dtype=torch.float64,
        )
        better: Better = "higher" if pictures.photos is not None else "lower"
        return mean_score(self, values, skipped, self._backend, better)


def load_scorer() -> Any:
    """`brisque.BRISQUE()`, tried on one picture; MetricUnavailable with the reason otherwise."""
    import numpy as np

    try:
        from brisque import BRISQUE

        scorer = BRISQUE(url=False)
        picture = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        scorer.score(picture)
    except ImportError as error:
        raise MetricUnavailable(
            f"{str(error).splitlines()[0]} (pip install 'apdm[paper]' opencv-python-headless)"
        ) from error
    except TypeError as error:
        raise MetricUnavailable(
            f"brisque {metadata.version('brisque')} does not work with numpy {np.__version__} "
            f"({error}); numpy 2.3 is the newest that it works with"
        ) from error
    return scorer


def _machine_digest() -> str:
    from apdm_metrics.brisque_svm import load_package

    return load_package().backend.digest
