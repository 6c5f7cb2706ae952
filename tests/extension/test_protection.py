"""A protection that says only what it must, and what makes one unusable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from pydantic import Field

from apdm_cli.errors import UsageError
from apdm_cli.extension.hooks import hookimpl
from apdm_cli.extension.image_protection import ImageProtection
from apdm_cli.extension.manager import build_plugin_manager, protections
from apdm_cli.extension.protection import Inputs, Protection
from apdm_cli.extension.protection_config import ProtectionConfig


class Plain(Protection):
    """Does nothing."""

    name = "plain"

    def steps(self, bench: Any, config: Any) -> Iterator[Mapping[str, float]]:
        raise NotImplementedError


def test_what_is_not_said_has_a_default() -> None:
    plain, config = Plain(), ProtectionConfig(prior_pictures=7)
    assert (plain.summary, plain.titles(config)) == ("Does nothing.", {})
    assert plain.preset("default") == {}
    assert plain.preset_for("pocket") == plain.preset_for("") == "default"
    with pytest.raises(UsageError, match="no preset 'pocket'") as caught:
        plain.preset("pocket")
    assert caught.value.hint == "Known are: default."
    assert plain.inputs(None, config) == Inputs(class_pictures=7)  # type: ignore[arg-type]
    assert plain.shortened(config) == (config, 1.0)
    summary = {"photos": 0.12345, "drift": 1e-5, "steps": 3, "verdict": "good"}
    assert plain.result(summary, config) == "photos 0.123, drift 1e-05"


def test_a_plain_protection_has_the_weights_the_reference_and_an_optimizer_in_memory() -> None:
    """θ, its gradient and AdamW's two moments are four copies; φ lies beside them in half."""
    bench: Any = SimpleNamespace(trained_copies=lambda: 4, reference_copies=0.5)
    assert Plain().memory_copies(bench, ProtectionConfig()) == 4.5


class NoPreset(Plain):
    presets: Sequence[str] = ()


class WrongPreset(Plain):
    """Its preset has a setting that it has not."""

    presets: Sequence[str] = ("default", "strong")

    def preset(self, name: str) -> dict[str, Any]:
        return {"strength": 3} if name == "strong" else {}


class NoDefault(Plain):
    class Config(ProtectionConfig):
        """One setting has no default."""

        strength: float = Field(description="how much")


class NoSwitch(Plain):
    several: ClassVar[Any] = "yes"


class OfPhotosWithoutBound(ImageProtection):
    name = "photos"
    Config: ClassVar[Any] = ProtectionConfig

    def steps(self, bench: Any, config: Any) -> Iterator[Mapping[str, float]]:
        raise NotImplementedError


class BadName(Plain):
    name = "Plain Protection"


@pytest.mark.parametrize(
    ("item", "error"),
    [
        (Plain, "Plain is not a Protection instance"),
        (3, "int is not a Protection instance"),
        (BadName(), "'Plain Protection'"),
        (NoDefault(), "protection plain: strength of its Config has no default"),
        (OfPhotosWithoutBound(), "Config must be a subclass of ImageProtectionConfig"),
        (NoPreset(), "protection plain: it has no preset"),
        (NoSwitch(), "protection plain: several must be True or False"),
        (WrongPreset(), "protection plain: preset strong: strength: unknown setting"),
    ],
)
def test_an_unusable_protection_costs_only_itself(item: Any, error: str) -> None:
    class Good(Plain):
        name = "good"

    class Plugin:
        @hookimpl
        def apdm_protections(self) -> list[Any]:
            return [item, Good()]

    manager = build_plugin_manager()
    manager.register(Plugin(), "mine")
    ours = {"apdm", "naive", "erase", "imma", "sophon", "self-destruct", "anti-dreambooth"}
    assert set(protections(manager)) == {*ours, "good"}
    (broken,) = manager.broken.values()
    assert broken.origin.plugin == "mine" and error in broken.error
