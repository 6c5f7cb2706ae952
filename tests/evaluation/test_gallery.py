"""Pictures are drawn once, alone or in company, and again when anything about them changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.sampling import SamplerSettings
from apdm_cli.evaluation.gallery import Order, drawn
from apdm_cli.extension.family import load_model
from tests.tiny import make_tiny_pipeline

SAMPLER = SamplerSettings(sampler="ddim", steps=2, guidance=3.0, batch_size=4)
ORDER = Order({"model": "a"}, ("a photo of person", "a photo of dog") * 3, tuple(range(6)), SAMPLER)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> DiffusionModel:
    return load_model(str(make_tiny_pipeline(tmp_path_factory.mktemp("m"))), torch.device("cpu"))


def never() -> NoReturn:
    raise AssertionError("the model was asked for")


def test_finished_pictures_are_read_and_the_model_is_not_loaded(
    model: DiffusionModel, tmp_path: Path
) -> None:
    seen: list[int] = []
    first = drawn(ORDER, tmp_path / "g", lambda: model, seen.append)
    assert first.shape == (6, 32, 32, 3)
    assert sum(seen) == 6
    assert torch.equal(drawn(ORDER, tmp_path / "g", never), first)
    names = sorted(file.name for file in (tmp_path / "g").glob("*.png"))
    assert names == [f"{i:04d}.png" for i in range(6)]


def test_an_interrupted_set_goes_on_with_the_missing_pictures(
    model: DiffusionModel, tmp_path: Path
) -> None:
    whole = drawn(ORDER, tmp_path / "g", lambda: model)
    kept = (tmp_path / "g" / "0000.png").stat().st_mtime_ns
    for index in (1, 4, 5):
        (tmp_path / "g" / f"{index:04d}.png").unlink()
    (tmp_path / "g" / ".tmp-deadbeef").write_bytes(b"torn")
    assert torch.equal(drawn(ORDER, tmp_path / "g", lambda: model), whole)
    assert (tmp_path / "g" / "0000.png").stat().st_mtime_ns == kept
    assert not (tmp_path / "g" / ".tmp-deadbeef").exists()


def test_batch_size_changes_no_picture(model: DiffusionModel, tmp_path: Path) -> None:
    alone = replace(ORDER, sampler=SAMPLER.model_copy(update={"batch_size": 1}))
    assert alone.key == ORDER.key
    a, b = (
        drawn(order, tmp_path / str(i), lambda: model) for i, order in enumerate((ORDER, alone))
    )
    assert (a.int() - b.int()).abs().max() <= 1


@pytest.mark.parametrize(
    "changed",
    [
        replace(ORDER, origin={"model": "b"}),
        replace(ORDER, seeds=tuple(range(1, 7))),
        replace(ORDER, prompts=("a photo of cat",) * 6),
        replace(ORDER, sampler=SAMPLER.model_copy(update={"guidance": 1.0})),
    ],
)
def test_another_order_in_the_same_folder_is_drawn_anew(
    changed: Order, model: DiffusionModel, tmp_path: Path
) -> None:
    drawn(ORDER, tmp_path / "g", lambda: model)
    with pytest.raises(AssertionError, match="was asked for"):
        drawn(changed, tmp_path / "g", never)
    assert changed.key != ORDER.key


def test_fewer_pictures_leave_no_others_behind(model: DiffusionModel, tmp_path: Path) -> None:
    drawn(ORDER, tmp_path / "g", lambda: model)
    fewer = replace(ORDER, prompts=ORDER.prompts[:2], seeds=ORDER.seeds[:2])
    assert len(drawn(fewer, tmp_path / "g", lambda: model)) == 2
    assert len(list((tmp_path / "g").glob("*.png"))) == 2
