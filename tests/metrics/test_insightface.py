"""insightface's model packs: ONNX files of the right shapes, made here, and computed by hand."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.extension.metric import MetricUnavailable, Pictures
from apdm_cli.testing import MetricContract
from apdm_metrics.faces import insightface
from apdm_metrics.faces.insightface import FACE, POINTS, PackFaces, load_pack
from apdm_metrics.identity import FaceDetectionFailureRate, Identity
from tests.metrics.material import photograph, pictures

here = pytest.mark.skipif(
    find_spec("onnx") is None or find_spec("onnxruntime") is None, reason="needs onnx, onnxruntime"
)
CPU = torch.device("cpu")
# Of a place, in strides: distances to left, top, right and bottom, and the five points.
SIDES = (2.0, 2.5, 3.0, 3.5)
MARKS = ((-1.0, -1.0), (1.25, -0.75), (0.25, 0.25), (-0.75, 1.25), (1.0, 1.5))


def make_pack(folder: Path) -> Path:
    """A detector that finds a face wherever a square of 8 pixels is red, a recognizer, and others.

    What the recognizer says of a face is the mean color of each of its quarters.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def write(
        name: str, nodes: list[Any], values: dict[str, Any], shape: list[Any], outputs: list[str]
    ) -> None:
        infos = [helper.make_tensor_value_info(one, TensorProto.FLOAT, None) for one in outputs]
        given = helper.make_tensor_value_info("picture", TensorProto.FLOAT, shape)
        tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in values.items()]
        graph = helper.make_graph(nodes, name, [given], infos, tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        onnx.save(model, str(folder / f"{name}.onnx"))

    def flat(nodes: list[Any], before: str, after: str, width: int) -> None:
        nodes.append(helper.make_node("Transpose", [before], [f"{after}_t"], perm=[0, 2, 3, 1]))
        nodes.append(helper.make_node("Reshape", [f"{after}_t", f"to{width}"], [after]))

    # Nothing but pure red is sure enough; the second of two anchors sees nothing at all.
    red = np.array([[3, -3, -3], [0, 0, 0]], np.float32).reshape(2, 3, 1, 1)
    nothing = np.zeros((2 * 4, 3, 1, 1), np.float32), np.zeros((2 * 10, 3, 1, 1), np.float32)
    values: dict[str, Any] = {
        **{"red": red, "low": np.array([-5, -9], np.float32)},
        **{"box": nothing[0], "sides": np.array(SIDES * 2, np.float32)},
        **{"five": nothing[1], "marks": np.array(MARKS * 2, np.float32).flatten()},
        **{f"to{width}": np.array([-1, width]) for width in (1, 4, 10)},
    }
    nodes: list[Any] = []
    outputs: list[str] = []
    for stride in (8, 16, 32):
        size = [stride, stride]
        nodes.append(
            helper.make_node(
                "AveragePool", ["picture"], [f"mean{stride}"], kernel_shape=size, strides=size
            )
        )
        for filters, bias, name, width in (
            ("red", "low", "score", 1),
            ("box", "sides", "corner", 4),
            ("five", "marks", "point", 10),
        ):
            made = f"{name}{stride}"
            nodes.append(helper.make_node("Conv", [f"mean{stride}", filters, bias], [f"{made}_c"]))
            if name == "score":
                nodes.append(helper.make_node("Sigmoid", [f"{made}_c"], [f"{made}_s"]))
            flat(nodes, f"{made}_s" if name == "score" else f"{made}_c", made, width)
    outputs = [f"{name}{stride}" for name in ("score", "corner", "point") for stride in (8, 16, 32)]
    write("det_tiny", nodes, values, [1, 3, "height", "width"], outputs)
    half = [FACE // 2] * 2
    pooled = [
        helper.make_node("AveragePool", ["picture"], ["quarters"], kernel_shape=half, strides=half),
        helper.make_node("Flatten", ["quarters"], ["numbers"]),
    ]
    write("w_tiny", pooled, {}, ["batch", 3, FACE, FACE], ["numbers"])
    pooled = [helper.make_node("GlobalAveragePool", ["picture"], ["age"])]
    write("age", pooled, {}, ["batch", 3, 96, 96], ["age"])
    return folder


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pack(tmp_path_factory.mktemp("pack"))


def shown(*places: tuple[int, int], width: int = 320, height: int = 240) -> Tensor:
    """A photograph with red squares of 4 pixels, which are 8 when it is searched."""
    picture = photograph(width)[0, :height].clone()
    picture[..., 0] = picture[..., 0] // 4  # nowhere else is it red
    for left, top in places:
        picture[top : top + 4, left : left + 4] = torch.tensor([255, 0, 0], dtype=torch.uint8)
    return picture


@here
def test_boxes_and_points_are_where_the_detector_says(pack: Path) -> None:
    faces = load_pack(pack)
    picture = shown((100, 60), (204, 120))
    found = sorted(faces.faces(picture), key=lambda face: face.box.left)
    assert len(found) == 2
    for face, (x, y) in zip(found, ((100, 60), (204, 120)), strict=True):
        # Places are the left upper corners of squares of 8 in the picture searched at twice its
        # size, and what the detector says is in squares.
        left, top, right, bottom = SIDES
        box = (face.box.left, face.box.top, face.box.right, face.box.bottom)
        assert box == pytest.approx((x - 4 * left, y - 4 * top, x + 4 * right, y + 4 * bottom))
        expected = torch.tensor([x, y]) + 4 * torch.tensor(MARKS)
        assert torch.allclose(face.points, expected, atol=1e-4)
        assert 0.8 < face.box.score < 1
    assert faces.faces(shown()) == []
    # A tall picture is searched at the scale of its height, which is the same here.
    halves = [shown(width=160, height=160), shown((40, 40), width=160, height=160)]
    (tall,) = faces.faces(torch.cat(halves)[:, :120])
    assert (tall.box.left, tall.box.top) == pytest.approx((40 - 4 * 2, 200 - 4 * 2.5))


@here
def test_faces_are_turned_onto_the_five_points_and_their_cosines_compared(pack: Path) -> None:
    """The similarity is that of least squares, and the warp scikit-image's."""
    transform = pytest.importorskip("skimage.transform")
    faces, picture = load_pack(pack), shown((100, 60))
    points = torch.tensor([100.0, 60.0]) + 12 * torch.tensor(MARKS)
    found = faces.describe(picture, points)
    rows = [row for x, y in points.tolist() for row in ((x, -y, 1, 0), (y, x, 0, 1))]
    (a, b, c, d), *_ = np.linalg.lstsq(np.array(rows), np.array(POINTS).flatten(), rcond=None)
    turn = transform.SimilarityTransform(np.array([[a, -b, c], [b, a, d], [0, 0, 1]]))
    warped = transform.warp(
        picture.numpy().astype(np.float64), turn.inverse, output_shape=(FACE, FACE), order=1
    )
    scaled = (warped.round() - 127.5) / 127.5
    half = FACE // 2
    expected = scaled.reshape(2, half, 2, half, 3).mean((1, 3)).transpose(2, 0, 1).flatten()
    assert np.abs(found.numpy() - expected).max() < 0.01

    known = torch.stack([found, torch.roll(found, 1)])
    likeness = faces.likeness(torch.stack([found, -found]), known)
    middle = known.mean(0)
    cosine = float(found @ middle / found.norm() / middle.norm())
    assert likeness.tolist() == pytest.approx([cosine, -cosine], abs=1e-6)


@here
def test_the_metrics_take_a_pack_and_name_it(pack: Path, tiny_model: DiffusionModel) -> None:
    images = torch.stack([shown((100, 60)), shown(), shown((100, 60), (24, 24))])
    scores = {}
    for metric in (Identity(), FaceDetectionFailureRate()):
        metric.weights = {"identity": str(pack)}
        metric.prepare(tiny_model, CPU)
        scores[metric.name] = metric.score(Pictures(images, photos=images[:1]))
    assert scores["identity"].per_picture[0] == pytest.approx(1)
    assert (scores["identity"].n, scores["identity"].skipped) == (2, 1)
    assert scores["fdfr"].value == pytest.approx(1 / 3)
    backend = scores["identity"].backend
    assert backend.name == "insightface" and len(backend.digest) == 64
    assert isinstance(load_pack(pack), PackFaces)


@here
def test_what_a_pack_lacks_is_said(pack: Path, tmp_path: Path) -> None:
    (tmp_path / "age.onnx").write_bytes((pack / "age.onnx").read_bytes())
    with pytest.raises(MetricUnavailable, match=r"none of the ONNX files .* is a detector"):
        load_pack(tmp_path)
    (tmp_path / "det.onnx").write_bytes((pack / "det_tiny.onnx").read_bytes())
    load_pack.cache_clear()
    with pytest.raises(MetricUnavailable, match=r"is a recognizer .*such as buffalo_l"):
        load_pack(tmp_path)
    (tmp_path / "w.onnx").write_bytes(b"not a model")
    load_pack.cache_clear()
    with pytest.raises(MetricUnavailable, match=r"w\.onnx cannot be opened"):
        load_pack(tmp_path)


def test_without_the_package_it_says_what_to_install(
    tmp_path: Path, tiny_model: DiffusionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "det_10g.onnx").write_bytes(b"")
    monkeypatch.setattr(insightface, "find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    metric = Identity()
    metric.weights = {"identity": str(tmp_path)}
    with pytest.raises(MetricUnavailable, match=r"onnxruntime is missing; .*apdm\[insightface\]"):
        metric.prepare(tiny_model, CPU)


@here
class TestIdentity(MetricContract):
    metric = Identity()

    @pytest.fixture
    def pictures(self) -> Pictures:
        return Pictures(pictures(2), photos=pictures(1, seed=1), pairs=pictures(2, seed=2))

    @pytest.fixture
    def model(self, tiny_model: DiffusionModel) -> DiffusionModel:
        return tiny_model

    @pytest.fixture
    def ready(self, model: DiffusionModel, pack: Path) -> Any:
        self.metric.weights = {"identity": str(pack)}
        self.metric.prepare(model, CPU)
        return self.metric
