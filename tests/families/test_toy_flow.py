"""A family from one file goes through all four commands: nothing outside knows what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from apdm_cli.cli.main import main
from apdm_cli.extension.family import load_model
from apdm_cli.extension.manager import build_plugin_manager, families
from tests.families import toy_flow
from tests.families.toy_flow import make_toy_flow
from tests.metrics.material import make_vit
from tests.tiny import make_photos

PLUGIN = ("--plugin-file", toy_flow.__file__)
PROTECT = (
    *("steps_outer=3", "steps_inner=2", "prior_pictures=3", "sampler_steps=2", "batch_size=2"),
    *("learning_rate=1e-2", "timestep_range=[0.0, 0.6]", "preservation.kind=distill"),
    *("preservation.class_samples=3", "preservation.caption_samples=2"),
)
ATTACK = ("steps=2", "prior_pictures=2", "sampler_steps=2", "learning_rate=1e-2")


class Desk:
    """A model, photos and runs, on which commands work one after another."""

    def __init__(self, folder: Path) -> None:
        self.model = make_toy_flow(folder / "model")
        self.photos = make_photos(folder / "photos")
        self.vit = make_vit(folder / "vit")
        self.runs = folder / "runs"

    def run(self, command: str, *arguments: str, settings: tuple[str, ...] = ()) -> None:
        chosen = [word for setting in settings for word in ("--set", setting)]
        with pytest.raises(SystemExit) as ended:
            main([command, *arguments, *chosen, "--out", str(self.runs)])
        assert not ended.value.code, f"apdm {command} ended with {ended.value.code}"

    def read(self, name: str) -> Any:
        return json.loads((self.runs / "toy" / name).read_text())


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """All four commands have run."""
    desk = Desk(tmp_path_factory.mktemp("toy"))
    device = ("--device", "cpu")
    protect = (str(desk.photos), "--class", "person", "--model", str(desk.model), "--name", "toy")
    desk.run("protect", *protect, *PLUGIN, *device, settings=PROTECT)
    names = ("--plugin", "dreambooth", "--plugin", "lora", "--plugin", "dreambooth-text")
    options = ("min_snr_gamma=5", "lora.text_encoder=true", "timestep_range=[0.0, 0.8]")
    desk.run("attack", "toy", *names, *PLUGIN, *device, settings=(*ATTACK, *options))
    drawing = ("--images", "3", "--class-images", "4")
    weights = ("--metrics", "dino,fid,same-seed", "--weights", f"pocket-vit={desk.vit}")
    desk.run("evaluate", "toy", *drawing, *weights, *PLUGIN, *device)
    desk.run("compare", "toy")
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


@pytest.mark.parametrize("attack", ["textual-inversion", "custom-diffusion"])
def test_an_attack_that_does_not_fit_the_family_says_so(
    attack: str, desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        options = ("--no-control", "--device", "cpu", "--json", "--out", str(desk.runs))
        main(["attack", "toy", "--plugin", attack, *PLUGIN, *options])
    assert ended.value.code == 1
    (cell,) = json.loads(capsys.readouterr().out)["cells"]
    assert "toy flow" in cell["error"] and "Error" not in cell["error"]


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
