"""A family from one file goes through all four commands: nothing outside knows what it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from apdm_cli.extension.family import load_model
from apdm_cli.extension.manager import build_plugin_manager, families
from tests.families import toy_flow
from tests.families.desk import Desk
from tests.families.toy_flow import make_toy_flow


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """All four commands have run."""
    folder = tmp_path_factory.mktemp("toy")
    desk = Desk(folder, make_toy_flow(folder / "model"), "toy", toy_flow.__file__)
    options = ("min_snr_gamma=5", "lora.text_encoder=true", "timestep_range=[0.0, 0.8]")
    desk.all_four(("dreambooth", "lora", "dreambooth-text"), options)
    return desk


def test_protection_trains_its_transformer_and_keeps_the_rest(desk: Desk) -> None:
    model = desk.runs / "toy" / "model"
    for name in ("model_index.json", "text_encoder/model.safetensors", "notes/notes.txt"):
        assert (model / name).read_bytes() == (desk.model / name).read_bytes()
    before, after = (
        load_file(folder / "transformer" / "model.safetensors") for folder in (desk.model, model)
    )
    assert before.keys() == after.keys()
    assert all(not torch.equal(before[name], after[name]) for name in before if "time" not in name)


def test_both_arms_of_every_attack_are_drawn_with_its_own_sampler(desk: Desk) -> None:
    scores = desk.read("evaluation/scores.json")
    assert {key: scores["sampler"][key] for key in ("sampler", "steps", "guidance")} == {
        "sampler": "euler",
        "steps": 4,
        "guidance": 2.0,
    }
    rows = [row for row in scores["rows"] if row["role"] == "attack"]
    assert {(row["attack"], row["arm"]) for row in rows} == {
        (attack, arm)
        for attack in ("dreambooth", "lora", "dreambooth-text")
        for arm in ("original", "protected")
    }
    assert all(score["n"] == 3 for row in rows for score in row["scores"])
    assert any(row["role"] == "utility" for row in scores["rows"])


def test_the_comparison_has_every_attack(desk: Desk) -> None:
    (run,) = desk.read("comparison.json")["runs"]
    attacked = {line["attack"] for line in run["lines"] if line["role"] == "attack"}
    assert attacked == {"dreambooth", "lora", "dreambooth-text"}
    assert (desk.runs / "toy" / "report.html").stat().st_size > 1000


def test_an_attack_that_does_not_fit_the_family_says_so(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    for error in desk.refusals(capsys, ("textual-inversion", {}), ("custom-diffusion", {})):
        assert "toy flow" in error and "Error" not in error


def test_without_the_plugin_the_model_is_refused_by_name(desk: Desk) -> None:
    from apdm_cli.errors import ApdmError

    with pytest.raises(ApdmError, match="ToyFlowPipeline: not supported yet") as caught:
        load_model(str(desk.model), torch.device("cpu"))
    assert "Stable Diffusion" in caught.value.hint


def test_the_network_alone_is_saved_and_opened_again(desk: Desk, tmp_path: Path) -> None:
    from apdm_cli.diffusion.saving import save_pipeline

    known = families(build_plugin_manager([Path(toy_flow.__file__)]))
    model = load_model(str(desk.model), torch.device("cpu"), known=known)
    with torch.no_grad():
        next(model.trained.parameters()).add_(1.0)
    save_pipeline(model, tmp_path / "alone", trained_only=True)
    again = load_model(str(tmp_path / "alone"), torch.device("cpu"), known=known)
    pairs = zip(model.trained.parameters(), again.trained.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
