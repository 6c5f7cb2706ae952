"""Protection as an adapter on other families: saved both ways, and fused by plain diffusers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

from apdm_cli.extension.family import load_model
from tests.families.desk import Desk
from tests.families.tiny_chat import make_tiny_z_image
from tests.families.tiny_flow import make_tiny_flux, make_tiny_sd3
from tests.families.tiny_xl import make_tiny_xl
from tests.families.toy_flow import make_toy_flow

ADAPTER = ("train=adapter", "adapter.rank=2", "steps_outer=2", "attackers.kind=persistent")
PLUGIN = str(Path(__file__).with_name("toy_flow.py"))


def protected(desk: Desk, name: str, *more: str) -> Path:
    """The saved model of a protection as an adapter."""
    arguments = (str(desk.photos), "--class", "person", "--model", str(desk.model), *desk.plugin)
    desk.run("protect", *arguments, "--name", name, "--device", "cpu", *more, settings=SETTINGS)
    return desk.runs / name / "model"


SETTINGS = (*ADAPTER, "prior_pictures=3", "sampler_steps=2", "learning_rate=1e-2", "steps_inner=1")


@pytest.mark.parametrize(
    ("make", "trained"),
    [
        (make_tiny_xl, "unet"),
        *((make, "transformer") for make in (make_tiny_flux, make_tiny_sd3, make_tiny_z_image)),
    ],
    ids=["sdxl", "flux", "sd3", "z-image"],
)
def test_the_adapter_fused_by_plain_diffusers_is_the_merged_model(
    make: Callable[[Path], Path], trained: str, tmp_path: Path
) -> None:
    desk = Desk(tmp_path, make(tmp_path / "model"), "unused")
    merged = protected(desk, "merged")
    alone = protected(desk, "alone", "--save", "adapter")
    assert sorted(path.name for path in alone.iterdir()) == [
        "base.json",
        "pytorch_lora_weights.safetensors",
    ]
    file = f"{trained}/diffusion_pytorch_model.safetensors"
    before, after = load_file(desk.model / file), load_file(merged / file)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    pipe = DiffusionPipeline.from_pretrained(desk.model)
    pipe.load_lora_weights(alone)
    pipe.fuse_lora(components=[trained])
    pipe.unload_lora_weights()
    plain = getattr(pipe, trained).state_dict()
    opened = load_model(str(alone), torch.device("cpu")).trained.state_dict()
    for name, weight in after.items():
        assert torch.allclose(plain[name], weight, atol=1e-6), name
        assert torch.allclose(opened[name], weight, atol=1e-6), name


def test_a_family_of_a_plugin_keeps_its_adapter_in_pefts_layout(tmp_path: Path) -> None:
    desk = Desk(tmp_path, make_toy_flow(tmp_path / "model"), "unused", PLUGIN)
    merged = load_file(protected(desk, "merged") / "transformer" / "model.safetensors")
    protected(desk, "alone", "--save", "adapter")
    desk.name = "alone"
    sets = ("steps=2", "prior_pictures=2", "sampler_steps=2", "lora.rank=2")
    desk.attack("--plugin", "lora", "--device", "cpu", settings=sets)
    from apdm_cli.extension.manager import build_plugin_manager, families

    known = families(build_plugin_manager([Path(PLUGIN)]))
    opened = load_model(str(desk.runs / "alone" / "model"), torch.device("cpu"), known=known)
    for name, weight in opened.trained.state_dict().items():
        assert torch.allclose(merged[name], weight, atol=1e-6), name
