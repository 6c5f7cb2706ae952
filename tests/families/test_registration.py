"""Families come through the hook `apdm_families`, and a broken one costs nobody else anything."""

from __future__ import annotations

from typing import Any

import pytest

from apdm_cli.diffusion.family import Family, FamilyDefaults
from apdm_cli.errors import ApdmError
from apdm_cli.extension.hooks import hookimpl
from apdm_cli.extension.manager import build_plugin_manager, families, registered_families
from tests.families.toy_flow import ToyFlow


class Plugin:
    """Brings whatever it is made with."""

    def __init__(self, *items: Any) -> None:
        self.items = items

    @hookimpl
    def apdm_families(self) -> list[Any]:
        return list(self.items)


def test_the_first_party_families_are_there_with_their_origin() -> None:
    found = registered_families(build_plugin_manager())
    for name in ("stable-diffusion", "flux"):
        assert found[name].origin.distribution == "apdm"


class NoSampler(ToyFlow):
    """Its default is none of its samplers."""

    defaults = FamilyDefaults("heun", steps=4, guidance=2.0, class_sampler="euler")


class NoTrained(ToyFlow):
    """Does not say what is trained."""

    trained = ""


class BadName(ToyFlow):
    """Its name cannot be typed."""

    name = "Toy Flow"


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (NoSampler(), "its default 'heun' is none of its samplers"),
        (NoTrained(), "it has no trained"),
        (BadName(), "'Toy Flow'"),
        (ToyFlow, "not a Family instance"),
        (object(), "not a Family instance"),
    ],
)
def test_a_broken_family_is_reported_and_left_out(item: Any, words: str) -> None:
    manager = build_plugin_manager()
    others = set(families(manager))
    manager.register(Plugin(item, ToyFlow()), "mine")
    assert set(families(manager)) == {*others, "toy-flow"}
    (broken,) = manager.broken.values()
    assert broken.origin.plugin == "mine" and words in broken.error


def test_two_families_of_one_name_are_refused() -> None:
    manager = build_plugin_manager()
    manager.register(Plugin(ToyFlow()), "one")
    manager.register(Plugin(ToyFlow()), "other")
    with pytest.raises(ApdmError, match="Two plugins bring a family called toy-flow"):
        families(manager)


def test_a_family_has_to_say_everything() -> None:
    class Half(Family):
        """Opens nothing."""

        name = "half"

    with pytest.raises(TypeError, match="abstract"):
        Half()  # type: ignore[abstract]
