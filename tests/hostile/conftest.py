"""A tiny model, runs on it, and `apdm` as tests of plugins and cells use it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from apdm_cli.cli.main import main
from tests.hostile.commands import Said, attack, outcome
from tests.metrics.material import make_vit
from tests.tiny import make_photos, make_tiny_pipeline, make_tiny_run


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugins")
    make_tiny_pipeline(folder / "model", channels=(32, 32), text_layers=1)
    make_photos(folder / "photos")
    make_vit(folder / "vit")
    return folder


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    make_tiny_run(tmp_path / "runs", made / "model", made / "photos")
    return tmp_path / "runs"


@pytest.fixture(scope="session")
def clean(made: Path) -> Path:
    """Runs that dreambooth attacked, no plugin file near."""
    root = made / "clean"
    make_tiny_run(root, made / "model", made / "photos")
    with pytest.raises(SystemExit) as ended:
        main(attack(root, None, "dreambooth"))
    assert not ended.value.code
    return root


@pytest.fixture
def attacked(clean: Path, tmp_path: Path) -> Path:
    """A copy of `clean` that a test may damage."""
    return Path(shutil.copytree(clean, tmp_path / "runs"))


@pytest.fixture
def apdm(capfd: pytest.CaptureFixture[str]) -> Said:
    return lambda *arguments: outcome([str(argument) for argument in arguments], capfd, 900)
