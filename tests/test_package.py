"""What a wheel carries: the packages, their data, the console script, and nothing else."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "apdm_cli": ROOT / "apdm_cli",
    "apdm_attacks": ROOT / "plugins" / "apdm_attacks",
    "apdm_families": ROOT / "plugins" / "apdm_families",
    "apdm_metrics": ROOT / "plugins" / "apdm_metrics",
}
SIZE_LIMIT = 40 * 1000**2  # bytes: the whole wheel, weights included


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, timeout=300)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_every_file_of_every_package_is_inside(names: set[str]) -> None:
    expected = {
        f"{package}/{path.relative_to(folder).as_posix()}"
        for package, folder in PACKAGES.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }
    assert "apdm_cli/cli/main.py" in expected
    assert expected - names == set()


def test_nothing_else_is_inside(names: set[str]) -> None:
    top_level = {name.split("/")[0] for name in names}
    (info,) = (name for name in top_level if name.endswith(".dist-info"))
    assert top_level - {info} <= set(PACKAGES)
    assert not any("__pycache__" in name for name in names)


def test_weights_photos_and_data_files_are_inside(names: set[str]) -> None:
    # Tied to what the source tree has, so that this fails when the rules of the wheel drop a kind.
    for pattern in ("*.safetensors", "*.toml", "*.json", "*.png", "*.j2", "*.html"):
        for path in (ROOT / "apdm_cli").rglob(pattern):
            assert path.relative_to(ROOT).as_posix() in names


def test_size(wheel: Path) -> None:
    assert wheel.stat().st_size <= SIZE_LIMIT


def test_console_script_and_entry_points(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        text = archive.read(name).decode()
    assert "apdm = apdm_cli.cli.main:main" in text
    assert "attacks = apdm_attacks" in text
    assert "families = apdm_families" in text
    assert "metrics = apdm_metrics" in text


def test_installed_entry_points_load() -> None:
    found = {point.name: point for point in importlib.metadata.entry_points(group="apdm")}
    for name in ("attacks", "metrics"):
        assert found[name].load().__name__ == f"apdm_{name}"


def test_constraints_are_names_and_versions_that_cover_the_dependencies() -> None:
    lines = [
        line
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    for line in lines:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line), line
    pinned = {normalized(line.partition("==")[0]) for line in lines}
    required = importlib.metadata.requires("apdm") or []
    needed = {
        normalized(re.match(r"[A-Za-z0-9._-]+", requirement).group())  # type: ignore[union-attr]
        for requirement in required
        if "adam8bit" not in requirement
    }
    assert needed - pinned == set()
    # These follow from torch on the systems that have them; a pin would break all others.
    assert not any(name.startswith(("nvidia", "cuda", "triton")) for name in pinned)


def normalized(name: str) -> str:
    """Package names compare without case, dots and underscores."""
    return name.lower().replace("_", "-").replace(".", "-")
