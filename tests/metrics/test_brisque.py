"""BRISQUE's two machines against their own packages, and what the score does."""

from __future__ import annotations

import builtins
import importlib.util
import math
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.extension.metric import Backend, MetricUnavailable, Pictures
from apdm_metrics import quality
from apdm_metrics.quality import Brisque, BrisquePaper, natural_scene_statistics
from tests.metrics.material import noisy, photograph, pictures

CPU = torch.device("cpu")


def package_models() -> Path:
    spec = importlib.util.find_spec("brisque")
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip("the package brisque is not installed (extra paper)")
    return Path(next(iter(spec.submodule_search_locations))) / "models"


def live_weights() -> tuple[torch.Tensor, torch.Tensor]:
    """Random tensors in the layout of the file that piq downloads: coefficients, vectors."""
    generator = torch.Generator().manual_seed(0)
    return (
        200 * torch.randn(50, 1, generator=generator),
        torch.rand(50, 36, generator=generator) * 2 - 1,
    )


@pytest.fixture
def live_file(tmp_path: Path) -> Path:
    coefficients, vectors = live_weights()
    save_file({"sv_coef": coefficients, "sv": vectors}, tmp_path / "live.safetensors")
    return tmp_path / "live.safetensors"


def test_live_variant_is_piqs_brisque(
    live_file: Path, tiny_model: DiffusionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features, ranges and machine at once: piq's own function with the same tensors."""
    import piq
    from piq import brisque as module  # noqa: F401  (the function hides the module's name)

    source = importlib.import_module("piq.brisque")
    monkeypatch.setattr(source, "load_url", lambda *_, **__: live_weights())
    images = torch.cat([photograph(96), noisy(photograph(96), 20), pictures(2, 96)])
    metric = Brisque()
    metric.weights = {"brisque": str(live_file)}
    metric.prepare(tiny_model, CPU)

    score = metric.score(Pictures(images))

    expected = [
        float(piq.brisque(image.permute(2, 0, 1)[None] / 255, data_range=1.0)) for image in images
    ]
    assert score.per_picture == pytest.approx(expected, rel=1e-3, abs=1e-2)
    assert score.backend.name == "brisque-live"


def test_package_machine_predicts_what_libsvm_does() -> None:
    svmutil = pytest.importorskip("libsvm.svmutil")
    machine = svmutil.svm_load_model(str(package_models() / "svm.txt"))
    regressor = quality.load_package()
    scaled = torch.rand(8, 36, generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    features = (scaled + 1) / 2 * (regressor.high - regressor.low) + regressor.low
    rows = [dict(enumerate(row.tolist(), 1)) for row in scaled]
    expected, *_ = svmutil.svm_predict([0.0] * 8, rows, machine, "-q")
    assert regressor(features).tolist() == pytest.approx(expected, rel=1e-6)
    assert np.std(expected) > 1
    assert regressor.rho == -155.845


def test_ranges_of_the_package_are_read_without_unpickling() -> None:
    file = package_models() / "normalize.pickle"
    with file.open("rb") as stream:
        expected = pickle.load(stream)  # the installed package's own file, in a test
    regressor = quality.load_package()
    assert regressor.low.tolist() == expected["min_"]
    assert regressor.high.tolist() == expected["max_"]


def test_the_package_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """It needs OpenCV, and imports a great deal."""
    package_models()
    original = builtins.__import__

    def watched(name: str, *rest: Any) -> Any:
        assert name.split(".")[0] not in ("brisque", "libsvm"), f"{name} was imported"
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", watched)
    assert quality.load_package().vectors.shape == (770, 36)


def test_the_two_variants_have_two_names_and_two_values(
    live_file: Path, tiny_model: DiffusionModel
) -> None:
    package_models()
    scores = []
    for choice in (str(live_file), "pypi"):
        metric = Brisque()
        metric.weights = {"brisque": choice}
        metric.prepare(tiny_model, CPU)
        scores.append(metric.score(Pictures(photograph(96))))
    assert {score.backend.name for score in scores} == {"brisque-live", "brisque-pypi"}
    assert scores[0].backend.digest != scores[1].backend.digest
    assert scores[0].value != pytest.approx(scores[1].value, abs=1)


@pytest.fixture
def packaged(tiny_model: DiffusionModel) -> Brisque:
    package_models()
    metric = Brisque()
    metric.weights = {"brisque": "pypi"}
    metric.prepare(tiny_model, CPU)
    return metric


def test_noise_added_step_by_step_raises_brisque(packaged: Brisque) -> None:
    clean = photograph()
    values = [
        packaged.score(Pictures(noisy(clean, strength) if strength else clean)).value
        for strength in (0, 10, 25, 60)
    ]
    assert values == sorted(values)
    assert values[-1] > values[0] + 20


def test_order_changes_nothing_and_direction_follows_who_is_in_the_picture(
    packaged: Brisque,
) -> None:
    images = torch.cat([noisy(photograph(64), strength) for strength in (1, 10, 30)])
    score, turned = (packaged.score(Pictures(shown)) for shown in (images, images.flip(0)))
    assert turned.value == pytest.approx(score.value)
    assert (turned.low, turned.high) == pytest.approx((score.low, score.high))
    assert turned.per_picture == pytest.approx(score.per_picture[::-1])
    assert packaged.meaning.direction("utility") == "lower"
    assert packaged.meaning.direction("attack") == "higher"


def test_pictures_that_piq_refuses_are_skipped_and_counted(packaged: Brisque) -> None:
    black = torch.zeros(2, 64, 64, 3, dtype=torch.uint8)
    dot = black[:1].clone()
    dot[0, 0, 0] = 1  # not constant, and yet no statistics
    images = torch.cat([black, photograph(64), dot])
    score = packaged.score(Pictures(images))
    assert score.n + score.skipped == 4
    assert score.n >= 1
    assert math.isfinite(score.value)
    assert natural_scene_statistics(black[0]) is None
    nothing = packaged.score(Pictures(black))
    assert math.isnan(nothing.value)
    assert nothing.skipped == 2


def test_missing_machines_are_named(
    tiny_model: DiffusionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MetricUnavailable, match=r"brisque_svm_weights\.pt.*apdm\[paper\]"):
        Brisque().prepare(tiny_model, CPU)


def test_the_published_package_is_used_as_is_or_says_why_not(tiny_model: DiffusionModel) -> None:
    """Every reason is for the user to act on: OpenCV is missing, or numpy is too new."""
    metric: Any = BrisquePaper()
    package_models()
    try:
        metric.prepare(tiny_model, CPU)
    except MetricUnavailable as reason:
        assert any(word in str(reason) for word in ("OpenCV", "numpy"))
        pytest.skip(str(reason))
    from brisque import BRISQUE

    picture = photograph(64)
    expected = float(BRISQUE(url=False).score(picture[0].numpy()))
    assert metric.score(Pictures(picture)).value == pytest.approx(expected)


PACKAGE = """
import numpy

class BRISQUE:
    def __init__(self, url):
        assert not url, "it would take pictures for addresses"

    def score(self, picture):
        assert picture.dtype == numpy.uint8 and picture.shape[-1] == 3
        return picture.mean()
"""


@pytest.fixture
def made_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package `brisque` with a machine of two vectors, in the place of PyPI's."""
    package = tmp_path / "site" / "brisque"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text(PACKAGE)
    (package / "models" / "svm.txt").write_text(
        "svm_type epsilon_svr\nkernel_type rbf\ngamma 0.25\nnr_class 2\ntotal_sv 2\nrho -7.5\n"
        "SV\n2 1:0.5 36:-1 \n-3 2:1 \n"
    )
    ranges = {"min_": [0.5] * 36, "max_": [float(place) for place in range(1, 37)]}
    (package / "models" / "normalize.pickle").write_bytes(pickle.dumps(ranges))
    information = package.with_name("brisque-9.1.dist-info")
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: brisque\nVersion: 9.1\n")
    kept = {name: sys.modules.pop(name) for name in ("brisque",) if name in sys.modules}
    monkeypatch.syspath_prepend(package.parent)
    yield package
    sys.modules.pop("brisque", None)
    sys.modules.update(kept)


def test_a_machine_computes_what_its_files_say(made_package: Path) -> None:
    regressor = quality.load_package()
    features = torch.stack([regressor.high, (regressor.high + regressor.low) / 2])
    first = torch.zeros(36).double()
    first[0], first[35] = 0.5, -1
    second = torch.zeros(36).double()
    second[1] = 1
    expected = [
        2 * math.exp(-0.25 * (scaled - first).square().sum())
        - 3 * math.exp(-0.25 * (scaled - second).square().sum())
        + 7.5
        for scaled in (torch.ones(36).double(), torch.zeros(36).double())
    ]
    assert regressor(features).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("svm.txt", None, "lacks svm.txt or normalize.pickle"),
        ("normalize.pickle", pickle.dumps({"min_": [0.0] * 36}), "ranges of 36 features"),
        ("normalize.pickle", pickle.dumps({"min_": [0.5], "max_": [1.5]}), "ranges of 36 features"),
    ],
)
def test_a_package_with_other_files_is_not_used(
    made_package: Path, file: str, content: bytes | None, said: str
) -> None:
    path = made_package / "models" / file
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(MetricUnavailable, match=said):
        quality.load_package()


def test_a_given_file_that_cannot_be_read_is_not_replaced_by_the_package(
    made_package: Path, tiny_model: DiffusionModel, tmp_path: Path
) -> None:
    (tmp_path / "live.pt").write_bytes(b"no tensors")
    metric = Brisque()
    metric.prepare(tiny_model, CPU)
    assert metric.regressor.backend.name == "brisque-pypi"
    metric.weights = {"brisque": str(tmp_path / "live.pt")}
    with pytest.raises(MetricUnavailable, match=r"live\.pt"):
        metric.prepare(tiny_model, CPU)


def test_the_packages_own_score_is_the_mean_over_usable_pictures(
    made_package: Path, tiny_model: DiffusionModel
) -> None:
    metric = BrisquePaper()
    metric.prepare(tiny_model, CPU)
    images = pictures(3)
    images[1] = 0
    score = metric.score(Pictures(images))
    each = [float(images[place].float().mean()) for place in (0, 2)]
    assert score.per_picture == pytest.approx(each)
    assert score.value == pytest.approx(sum(each) / 2)
    assert (score.n, score.skipped) == (2, 1)
    assert score.backend == Backend("brisque-package-9.1", quality.load_package().backend.digest)
    nothing = metric.score(Pictures(images[1:2]))
    assert math.isnan(nothing.value) and (nothing.n, nothing.skipped) == (0, 1)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise ImportError('OpenCV is required\\nmore')", r"^OpenCV is required \(pip install"),
        (
            "class BRISQUE:\n    def __init__(self, url): pass\n"
            "    def score(self, picture): return float([0])",
            r"brisque 9\.1 does not work with numpy",
        ),
    ],
)
def test_why_the_package_cannot_score_here(
    made_package: Path, tiny_model: DiffusionModel, code: str, said: str
) -> None:
    (made_package / "__init__.py").write_text(code)
    with pytest.raises(MetricUnavailable, match=said):
        BrisquePaper().prepare(tiny_model, CPU)
