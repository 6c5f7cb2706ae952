"""Python and the packages: what is installed, what is needed, and what was tested."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from importlib.resources import files
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version

from apdm_cli.doctor.findings import Finding, note, ok, problem

TESTED_PYTHONS = ((3, 11), (3, 12), (3, 13))
CONSTRAINTS = "constraints.txt"
# What people may want of them.
EXTRAS = ("adam8bit", "faces", "heif", "insightface", "paper", "prodigy", "tensorboard")
REINSTALL = "Install them again: pip install --upgrade apdm --constraint constraints.txt"


def python() -> Iterator[Finding]:
    """The interpreter."""
    version = platform.python_version()
    where = f"Python {version} on {platform.system()} {platform.machine()}"
    data = {"version": version, "platform": platform.platform(), "executable": sys.executable}
    if sys.version_info[:2] in TESTED_PYTHONS:
        yield ok("python", where, **data)
    else:
        tested = ", ".join(f"{major}.{minor}" for major, minor in TESTED_PYTHONS)
        yield note("python", f"{where}, which was not tested", f"Tested are {tested}.", **data)


def packages() -> Iterator[Finding]:
    """What `apdm` depends on: missing and too old is a problem, untested worth a note."""
    tested = tested_versions()
    optional: list[str] = []
    same: dict[str, str] = {}
    for requirement in requirements():
        name = requirement.name
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            if any(requirement.marker.evaluate({"extra": extra}) for extra in EXTRAS):
                optional.append(name)
            continue
        installed = version_of(name)
        known = tested.get(canonical(name))
        data = {"package": name, "installed": installed, "tested": known}
        if installed is None:
            yield problem("packages", f"{name} is not installed", REINSTALL, **data)
        elif not requirement.specifier.contains(installed, prereleases=True):
            says = f"{name} {installed} does not fit {requirement.specifier}"
            yield problem("packages", says, REINSTALL, **data)
        elif known and not _same(installed, known):
            yield note("packages", f"{name} {installed}, tested with {known}", "", **data)
        else:
            same[name] = installed
    if same:
        what = "packages have their tested versions" if tested else "packages fit"
        yield ok("packages", f"{len(same)} {what}", installed=same)
    missing = [name for name in dict.fromkeys(optional) if version_of(name) is None]
    if missing:
        yield note("packages", f"optional and not installed: {', '.join(missing)}", missing=missing)


def requirements() -> list[Requirement]:
    """What the installed distribution `apdm` asks for; none when it runs from a source tree."""
    try:
        texts = metadata.requires("apdm") or []
    except metadata.PackageNotFoundError:
        return []
    found = []
    for text in texts:
        try:
            found.append(Requirement(text))
        except InvalidRequirement:
            continue
    return found


def tested_versions() -> dict[str, str]:
    """Package → version of constraints.txt, which is shipped with the package."""
    inside = files("apdm_cli") / CONSTRAINTS
    beside = Path(str(files("apdm_cli"))).parent / CONSTRAINTS  # in a source tree
    for file in (inside, beside):
        if file.is_file():
            lines = file.read_text(encoding="utf-8").splitlines()
            pairs = (line.split("#")[0].strip().partition("==") for line in lines)
            return {canonical(name): version for name, equals, version in pairs if equals}
    return {}


def version_of(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def canonical(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def _same(installed: str, tested: str) -> bool:
    """Local parts (`+cpu`, `+cu130`) name a build of the same version."""
    try:
        return Version(installed).public == Version(tested).public
    except InvalidVersion:
        return installed == tested
