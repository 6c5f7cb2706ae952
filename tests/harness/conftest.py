"""A tiny run that the harness's tests attack."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.tiny import make_photos, make_tiny_pipeline, make_tiny_run


class Place(NamedTuple):
    """Where things are: the runs' root, the original model, the photos."""

    root: Path
    model: Path
    photos: Path


@pytest.fixture(scope="session")
def _template(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("harness")
    model = make_tiny_pipeline(folder / "pipeline", channels=(32, 32), text_layers=1)
    photos = make_photos(folder / "photos")
    make_tiny_run(folder / "runs", model, photos)
    return Place(folder / "runs", model, photos)


@pytest.fixture
def place(_template: Place, tmp_path: Path) -> Place:
    """A run called `run` in a root of its own."""
    shutil.copytree(_template.root, tmp_path / "runs")
    return _template._replace(root=tmp_path / "runs")
