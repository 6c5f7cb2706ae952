"""Quality of a picture without a reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from apdm_cli.extension.metric import Metric, MetricUnavailable, Pictures, Score
from apdm_metrics.brisque_svm import PACKAGE, Regressor, load_live, load_package
from apdm_metrics.lookup import given
from apdm_metrics.scores import Better, mean_score, nothing_to_score
from apdm_metrics.usable import usable

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from apdm_cli.diffusion.model import DiffusionModel


class Brisque(Metric):
    """BRISQUE of piq's features; lower is a better picture (so higher protects better).

    Scored by LIVE's machine when it is here, else by that of the PyPI package; the backend names
    which. `--weights brisque=FILE` gives LIVE's, `--weights brisque=pypi` chooses the package's.
    """

    name = "brisque"
    better: ClassVar[Literal["lower", "higher"]] = "higher"
    needs: ClassVar[frozenset[str]] = frozenset()
    regressor: Regressor

    def prepare(self, model: DiffusionModel, device: torch.device) -> None:
        self._device = device
        if self.weights.get("brisque") in {"pypi", PACKAGE}:
            self.regressor = load_package()
            return
        path = given(self.weights, "brisque")
        try:
            self.regressor = load_live(path)
        except MetricUnavailable as live:
            if path is not None:
                raise
            try:
                self.regressor = load_package()
            except MetricUnavailable as package:
                raise MetricUnavailable(f"{live}; and {package}") from package

    def score(self, pictures: Pictures) -> Score:
        import torch

        found = [
            natural_scene_statistics(picture.to(self._device))
            for picture in pictures.images[usable(pictures.images)]
        ]
        features = [row for row in found if row is not None]
        skipped = len(pictures.images) - len(features)
        if not features:
            return nothing_to_score(self, self.regressor.backend, skipped)
        values = self.regressor(torch.stack(features))
        # A bad picture of the subject protects; where nobody is meant to be in it, it harms.
        better: Better = "higher" if pictures.photos is not None else "lower"
        return mean_score(self, values, skipped, self.regressor.backend, better)


def natural_scene_statistics(picture: Tensor) -> Tensor | None:
    """piq's 36 BRISQUE features of uint8 (H, W, 3); None where piq cannot compute them.

    piq computes them inside `piq.brisque`, which would download LIVE's machine; so its two steps
    are called here, with the preprocessing of that function (luma rounded as MATLAB does).
    """
    import torch
    from piq.brisque import _natural_scene_statistics
    from piq.functional import imresize, rgb2yiq

    luma = torch.round(rgb2yiq(picture.permute(2, 0, 1)[None].float())[:, :1])
    features = []
    try:
        for _ in range(2):
            features.append(_natural_scene_statistics(luma, 7, 7 / 6))
            luma = imresize(luma, sizes=(luma.shape[2] // 2, luma.shape[3] // 2))
    except AssertionError:  # no variance, or none on one side: nearly constant pictures
        return None
    row = torch.cat(features, dim=-1)[0]
    return row if row.isfinite().all() else None
