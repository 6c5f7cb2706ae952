"""Suites: lists of attacks as TOML, shipped and home-made."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from apdm_cli.config import Settings, read_toml, resolve
from apdm_cli.errors import UsageError
from apdm_cli.subject import Crop

# Below a hundredth nothing is learnt; above a hundred it is another attack.
Budget = Annotated[float, Field(ge=0.01, le=100)]


class SuiteEntry(Settings):
    """One attack of a suite."""

    name: str = Field("dreambooth", description="of the attack")
    variant: str = Field("", description="label in tables; empty is made from the rest")
    set: dict[str, Any] = Field(default_factory=dict, description="its configuration")
    identifier: str | None = Field(None, description="another identifier than the command's")
    transforms: tuple[str, ...] = Field((), description="flip, blur, crop, jpeg, noise")
    # No null in its place: TOML's word for that is "none", which is a crop.
    crop: Literal["usual", "center", "face", "none"] = Field(
        "usual", description="how its photos are cut; usual is as without this word"
    )
    budgets: tuple[Budget, ...] = Field((), description="its own instead of the suite's")
    suite: str | None = Field(None, description="the suite that it stands in, set by `load_suite`")

    @property
    def own_crop(self) -> Crop | None:
        """How its photos are cut, where it says so."""
        return None if self.crop == "usual" else self.crop


class Suite(Settings):
    """A list of attacks."""

    description: str = Field("", description="one line")
    budgets: tuple[Budget, ...] = Field((1.0,), description="multiples of each attack's steps")
    attack: tuple[SuiteEntry, ...] = Field((), description="what to run, in this order")


def suite_names() -> list[str]:
    """The shipped suites, the shortest first."""
    names = [file.name.removesuffix(".toml") for file in _folder().iterdir()]
    return sorted(names, key=lambda name: (len(load_suite(name).attack), name))


def load_suite(name: str) -> Suite:
    """A shipped suite by its name, or the suite in a TOML file.

    Raises:
        UsageError: no such suite, unknown keys, or no attack in it.
    """
    if name.endswith(".toml"):
        table = read_toml(Path(name))
    elif shipped := [file for file in _folder().iterdir() if file.name == f"{name}.toml"]:
        import tomllib

        table = tomllib.loads(shipped[0].read_text(encoding="utf-8"))
    else:
        raise UsageError(
            f"There is no suite {name!r}.",
            f"Known are: {', '.join(suite_names())}; or give a TOML file.",
        )
    try:
        suite = resolve(Suite, table)
    except UsageError as error:
        raise UsageError(f"Suite {name}: {error.what}", error.hint) from None
    if not suite.attack:
        raise UsageError(f"Suite {name} holds no attack.", "Add [[attack]] tables to it.")
    entries = (entry.model_copy(update={"suite": name}) for entry in suite.attack)
    return suite.model_copy(update={"attack": tuple(entries)})


def parse_budgets(text: str) -> tuple[float, ...]:
    """`0.5,1,3` → (0.5, 1.0, 3.0). UsageError for what is no multiple of an attack's steps."""
    try:
        budgets = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        budgets = []
    if not budgets or not all(0.01 <= budget <= 100 for budget in budgets):
        raise UsageError(
            f"--budgets {text}: expected multiples of the attack's steps from 0.01 to 100",
            "Example: --budgets 0.5,1,3",
        )
    return tuple(sorted(set(budgets)))


def _folder() -> Any:
    return files(__package__) / "suites"
