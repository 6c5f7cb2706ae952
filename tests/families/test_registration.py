"""Families come through the hook `apdm_families`, and a broken one costs nobody else anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from apdm_cli.diffusion.family import Family, FamilyDefaults
from apdm_cli.errors import ApdmError
from apdm_cli.extension.family import load_model
from apdm_cli.extension.hooks import hookimpl
from apdm_cli.extension.manager import build_plugin_manager, families, registered_families
from tests.families.toy_flow import ToyFlow
from tests.tiny import make_tiny_pipeline


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


def with_(**declared: Any) -> Family:
    found: Family = type("Other", (ToyFlow,), {"__doc__": "One line.", **declared})()
    return found


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (NoSampler(), "its default 'heun' is none of its samplers"),
        (NoTrained(), "it has no trained"),
        (BadName(), "'Toy Flow'"),
        (with_(exact="sizes"), "family toy-flow: exact must be a tuple of names, not 'sizes'"),
        (with_(samplers="euler"), "samplers must be a tuple of names"),
        (with_(text_encoders="text_encoder"), "text_encoders must be a tuple of names"),
        (with_(tokenizers=None), "tokenizers must be a tuple of names"),
        (with_(lora_layouts=(1,)), "lora_layouts must be a tuple of names"),
        (with_(recordable="no"), "recordable must be True or False"),
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


class Raising(ToyFlow):
    """Fails at every model that it is shown, before or after ours in the alphabet."""

    def opens(self, index: Any) -> bool:
        raise KeyError("_class_name")

    def opens_file(self, names: Any) -> bool:
        raise SystemExit(0)


def test_a_family_that_fails_at_a_model_of_others_costs_nobody(tmp_path: Path) -> None:
    ours = families(build_plugin_manager())["stable-diffusion"]
    known = {"toy-flow": Raising(), "stable-diffusion": ours}
    folder = make_tiny_pipeline(tmp_path / "model")
    assert load_model(str(folder), torch.device("cpu"), known=known).family is ours
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(1)}, file)
    with pytest.raises(ApdmError, match="not supported yet"):
        load_model(str(file), torch.device("cpu"), known=known)


class Opening(Raising):
    """Says that it opens everything, and cannot."""

    def opens(self, index: Any) -> bool:
        return True

    def open(self, folder: Path) -> Any:
        raise SystemExit(0)


def test_a_family_that_cannot_open_its_model_is_named(tmp_path: Path) -> None:
    folder = make_tiny_pipeline(tmp_path / "model")
    with pytest.raises(ApdmError, match="the family toy-flow left with SystemExit"):
        load_model(str(folder), torch.device("cpu"), known={"toy-flow": Opening()})


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
