"""Quality of a picture without a reference: BRISQUE (Mittal et al. 2012), by two machines."""

from __future__ import annotations

import importlib.util
import pickletools
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apdm_cli.extension.metric import Backend, Metric, MetricUnavailable, Pictures, Score
from apdm_metrics.lookup import given, torch_file
from apdm_metrics.scores import mean_score, nothing_to_score, usable

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from apdm_cli.diffusion.model import DiffusionModel

FEATURES = 36
LIVE_URL = (
    "https://github.com/photosynthesis-team/piq/releases/download/v0.4.0/brisque_svm_weights.pt"
)
LIVE, PACKAGE = "brisque-live", "brisque-pypi"


class Brisque(Metric):
    """BRISQUE of piq's features; lower is a better picture (so higher protects better).

    Scored by LIVE's machine when it is here, else by that of the PyPI package; the backend names
    which. `--weights brisque=FILE` gives LIVE's, `--weights brisque=pypi` chooses the package's.
    """

    name = "brisque"
    title = "Picture quality"
    explanation = (
        "A no-reference quality score: higher is worse pictures, so higher is what the paper "
        "counts as protection. Broken pictures score high whoever is in them."
    )
    kind = "quality"
    better = "higher"  # a bad picture of the subject protects
    better_for_others = "lower"
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
        return mean_score(self, values, skipped, self.regressor.backend)


class BrisquePaper(Metric):
    """BRISQUE by the PyPI package `brisque` itself, features and machine (extra `paper`)."""

    name = "brisque-paper"
    title = Brisque.title
    explanation = Brisque.explanation
    kind = "quality"
    better = "higher"  # a bad picture of the subject protects
    better_for_others = "lower"
    optional = True
    reads = ()

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
        return mean_score(self, values, skipped, self._backend)


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


@dataclass(frozen=True)
class Regressor:
    """An epsilon-SVR with a Gaussian kernel.

    Attributes:
        vectors (S, 36), coefficients (S,), gamma, rho: of the machine, float64.
        low, high: (36,), the range of each feature that is scaled to [-1, 1].
    """

    backend: Backend
    vectors: Tensor
    coefficients: Tensor
    gamma: float
    rho: float
    low: Tensor
    high: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """BRISQUE (N,) of features (N, 36); lower is a better picture."""
        import torch

        scaled = 2 * (features.double().cpu() - self.low) / (self.high - self.low) - 1
        distances = torch.cdist(scaled, self.vectors).square()
        return torch.exp(-self.gamma * distances) @ self.coefficients - self.rho


def load_live(path: Path | None = None) -> Regressor:
    """LIVE's own machine (rho −153.591), as piq downloads it; MetricUnavailable without it."""
    import torch

    from apdm_cli.digests import file_digest

    tensors, file = torch_file(LIVE_URL, "brisque", path)
    if isinstance(tensors, dict):  # a .safetensors copy
        tensors = tensors["sv_coef"], tensors["sv"]
    coefficients, vectors = (part.double() for part in tensors)
    return Regressor(
        Backend(LIVE, file_digest([file])),
        vectors.reshape(-1, FEATURES),
        coefficients.flatten(),
        gamma=0.05,
        rho=-153.591,
        low=torch.tensor([low for low, _ in LIVE_RANGES], dtype=torch.float64),
        high=torch.tensor([high for _, high in LIVE_RANGES], dtype=torch.float64),
    )


def load_package() -> Regressor:
    """The machine inside PyPI's `brisque` (rho −155.845), read without importing the package."""
    import torch

    from apdm_cli.digests import file_digest

    spec = importlib.util.find_spec("brisque")
    if spec is None or not spec.submodule_search_locations:
        raise MetricUnavailable("the package brisque is not installed: pip install 'apdm[paper]'")
    models = Path(next(iter(spec.submodule_search_locations))) / "models"
    files = [models / "svm.txt", models / "normalize.pickle"]
    if not all(file.is_file() for file in files):
        raise MetricUnavailable(f"{models} lacks svm.txt or normalize.pickle")
    header, vectors, coefficients = _read_libsvm(files[0])
    low, high = _read_ranges(files[1])
    return Regressor(
        Backend(PACKAGE, file_digest(files)),
        torch.tensor(vectors, dtype=torch.float64),
        torch.tensor(coefficients, dtype=torch.float64),
        gamma=float(header["gamma"]),
        rho=float(header["rho"]),
        low=torch.tensor(low, dtype=torch.float64),
        high=torch.tensor(high, dtype=torch.float64),
    )


def _read_libsvm(file: Path) -> tuple[dict[str, str], list[list[float]], list[float]]:
    """Header, vectors and coefficients of libsvm's text format (its README, "svm_save_model")."""
    top, _, body = file.read_text().partition("\nSV\n")
    header = dict(line.split(" ", 1) for line in top.splitlines())
    vectors, coefficients = [], []
    for line in body.splitlines():
        coefficient, *entries = line.split()
        vector = [0.0] * FEATURES  # entries that are zero are not written
        for entry in entries:
            index, value = entry.split(":")
            vector[int(index) - 1] = float(value)
        coefficients.append(float(coefficient))
        vectors.append(vector)
    return header, vectors, coefficients


def _read_ranges(file: Path) -> tuple[list[float], list[float]]:
    """The 36 minima and maxima in a pickle, from its opcodes: nothing in it is executed."""
    lists: dict[str, list[float]] = {}
    numbers: list[float] = []
    for opcode, argument, _ in pickletools.genops(file.read_bytes()):
        if opcode.name == "SHORT_BINUNICODE":
            numbers = lists.setdefault(str(argument), [])
        elif opcode.name == "BINFLOAT" and isinstance(argument, float):
            numbers.append(argument)
    if {len(lists.get(name, ())) for name in ("min_", "max_")} != {FEATURES}:
        raise MetricUnavailable(f"{file} does not hold the ranges of {FEATURES} features")
    return lists["min_"], lists["max_"]


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
    return load_package().backend.digest


# Ranges of LIVE's release, as in piq's `_scale_features` (which keeps them inside the function).
LIVE_RANGES = (
    (0.338, 10), (0.017204, 0.806612), (0.236, 1.642), (-0.123884, 0.20293),
    (0.000155, 0.712298), (0.001122, 0.470257), (0.244, 1.641), (-0.123586, 0.179083),
    (0.000152, 0.710456), (0.000975, 0.470984), (0.249, 1.555), (-0.135687, 0.100858),
    (0.000174, 0.684173), (0.000913, 0.534174), (0.258, 1.561), (-0.143408, 0.100486),
    (0.000179, 0.685696), (0.000888, 0.536508), (0.471, 3.264), (0.012809, 0.703171),
    (0.218, 1.046), (-0.094876, 0.187459), (1.5e-05, 0.442057), (0.001272, 0.40803),
    (0.222, 1.042), (-0.115772, 0.162604), (1.6e-05, 0.444362), (0.001374, 0.40243),
    (0.227, 0.996), (-0.117188, 0.098323), (3e-05, 0.531903), (0.001122, 0.369589),
    (0.228, 0.99), (-0.12243, 0.098658), (2.8e-05, 0.530092), (0.001118, 0.370399),
)  # fmt: skip
