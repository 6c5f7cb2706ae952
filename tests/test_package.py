"""What a wheel carries: the five packages, their data, the console script, and nothing else."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import shutil
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
    "apdm_protections": ROOT / "plugins" / "apdm_protections",
}
DOORS = ("attacks", "families", "metrics", "protections")
SIZE_LIMIT = 40 * 1000**2  # bytes: the whole wheel, weights included


def build(folder: Path) -> Path:
    """A wheel of this checkout, built into `folder`."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, timeout=300)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_two_builds_are_one_file(wheel: Path, tmp_path: Path) -> None:
    assert build(tmp_path).read_bytes() == wheel.read_bytes()


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


def test_what_is_installed_imports_nothing_that_is_not() -> None:
    for folder in PACKAGES.values():
        for path in folder.rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found = {
                name.split(".")[0]
                for node in ast.walk(tree)
                for name in (
                    [alias.name for alias in node.names]
                    if isinstance(node, ast.Import)
                    else [node.module or ""]
                    if isinstance(node, ast.ImportFrom)
                    else []
                )
            }
            assert not found & {"pocket_training", "benchmarks", "tests"}, path


def test_weights_photos_and_data_files_are_inside(names: set[str]) -> None:
    # Tied to what the source tree has, so that this fails when the rules of the wheel drop a kind.
    for pattern in ("*.safetensors", "*.toml", "*.json", "*.png", "*.j2", "*.html"):
        for path in (ROOT / "apdm_cli").rglob(pattern):
            assert path.relative_to(ROOT).as_posix() in names


def test_the_tested_versions_are_inside(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        shipped = archive.read("apdm_cli/constraints.txt")
    assert shipped == (ROOT / "constraints.txt").read_bytes()


def test_another_build_of_the_same_files_has_the_same_bytes(wheel: Path, tmp_path: Path) -> None:
    """Neither the place nor the time of the files enters, nor who may read them."""
    shutil.copytree(ROOT, tmp_path / "copy", ignore=_not_built, copy_function=_copy_as_new)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, check=True, timeout=300, cwd=tmp_path / "copy", capture_output=True)
    (again,) = tmp_path.glob("*.whl")
    assert again.name == wheel.name and again.read_bytes() == wheel.read_bytes()


def _not_built(folder: str, names: list[str]) -> set[str]:
    """What is no part of a distribution; `runs` is one in the package, and results beside it."""
    at_top = {".venv", ".git", "runs", "dist", "build"} if Path(folder) == ROOT else set()
    return {name for name in names if name in at_top or name.endswith(("__pycache__", "_cache"))}


def _copy_as_new(source: str, target: str) -> str:
    shutil.copyfile(source, target)
    Path(target).chmod(0o600)
    return target


def test_no_address_is_made_up(wheel: Path) -> None:
    """The project has no page yet: metadata names none rather than one that leads nowhere."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        text = archive.read(name).decode().partition("\n\n")[0]
    assert "URL" not in text and "Home-page" not in text


def test_the_citation_names_this_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    version = re.search(r'^version = "(.+)"$', project, re.MULTILINE)
    assert version and f"\nversion: {version[1]}\n" in citation


def test_size(wheel: Path) -> None:
    assert wheel.stat().st_size <= SIZE_LIMIT


def test_console_script_and_entry_points(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        text = archive.read(name).decode()
    assert "apdm = apdm_cli.__main__:main" in text
    for door in DOORS:
        assert f"{door} = apdm_{door}" in text


def test_installed_entry_points_load() -> None:
    found = {point.name: point for point in importlib.metadata.entry_points(group="apdm")}
    for name in DOORS:
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
