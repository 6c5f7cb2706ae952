"""`apdm.toml`: a user's own defaults for options that are the same in every command.

Later ones win: what is built in, the file in the user's configuration folder, the file in the
current folder, the command line. The environment variable APDM_CONFIG names one file in the place
of both; empty, it means none.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from apdm_cli.config import Settings, read_toml, resolve
from apdm_cli.errors import UsageError
from apdm_cli.folders import config_folder

NAME = "apdm.toml"
VARIABLE = "APDM_CONFIG"


class UserSettings(Settings):
    """What may stand in an `apdm.toml`. Everything that is left out stays as it is built in."""

    out: Path | None = Field(
        None, description="folder that holds all runs; a relative one is meant from the file"
    )
    device: str | None = Field(None, description="auto, cpu, cuda, cuda:1, cuda:0,cuda:1 or mps")
    dtype: Literal["auto", "fp32", "bf16", "fp16"] | None = Field(
        None, description="compute precision"
    )
    weights: dict[str, str] = Field(
        {}, description="weights of metrics, NAME = PATH as for evaluate --weights"
    )


@dataclass(frozen=True)
class UserConfig:
    """What the files say together.

    Attributes:
        values: merged.
        origin: option → the file that its value comes from.
    """

    values: UserSettings = field(default_factory=UserSettings)
    origin: Mapping[str, Path] = field(default_factory=dict)

    def defaults(self) -> dict[str, Any]:
        """Parameter → default, for the parameters that commands share."""
        values = {name: getattr(self.values, name) for name in ("out", "device", "dtype")}
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in values.items()
            if value is not None
        }

    def blame(self, message: str) -> str:
        """A sentence for the hint of an error about an option that a file has set, or ""."""
        for option, file in self.origin.items():
            if f"--{option} " in message:
                return f"--{option} comes from {file}."
        return ""


def config_files() -> list[Path]:
    """The files that count here, the weakest first; those that do not exist are left out.

    Raises UsageError when the file that APDM_CONFIG names does not exist.
    """
    named = os.environ.get(VARIABLE)
    if named is not None:
        if not named:
            return []
        file = Path(named).expanduser()
        if not file.is_file():
            raise UsageError(f"{VARIABLE}: {file} does not exist.", "Correct or unset it.")
        return [file]
    # Absolute, because an error message should say which of the two files it means.
    return [file for file in (config_folder() / NAME, Path.cwd() / NAME) if file.is_file()]


def load_config() -> UserConfig:
    """Read and merge the files. Raises UsageError that names the file with the mistake."""
    merged: dict[str, Any] = {}
    origin: dict[str, Path] = {}
    for file in config_files():
        given = _read(file).model_dump(exclude_unset=True, exclude_none=True)
        weights = {**merged.get("weights", {}), **given.get("weights", {})}
        merged |= given
        origin |= dict.fromkeys(given, file)
        if weights:
            merged["weights"] = weights
    return UserConfig(UserSettings(**merged), origin)


def _read(file: Path) -> UserSettings:
    try:
        settings = resolve(UserSettings, read_toml(file))
    except UsageError as error:
        what = error.what if str(file) in error.what else f"{file}: {error.what}"
        raise UsageError(what, error.hint) from None
    here = file.parent
    changed: dict[str, Any] = {}
    if settings.out is not None:
        changed["out"] = here / settings.out.expanduser()
    if settings.weights:
        changed["weights"] = {
            name: _weights_path(file, name, text) for name, text in settings.weights.items()
        }
    return settings.model_copy(update=changed)


def _weights_path(file: Path, name: str, text: str) -> str:
    """A path is meant from the file; what is no path (`ViT-L-14:openai`) is left as it is."""
    path = file.parent / Path(text).expanduser()
    if path.exists():
        return str(path)
    if text.startswith(("/", "~", ".")):
        raise UsageError(f"{file}: weights.{name}: {path} does not exist.", "Correct the path.")
    return text
