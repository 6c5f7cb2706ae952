"""An attacker who undoes function-preserving rescaling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from torch import nn

from apdm_attacks.rebalancing import rebalance
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.errors import ApdmError
from apdm_cli.extension.family import load_model
from tests.tiny import make_tiny_pipeline


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> DiffusionModel:
    folder: Path = tmp_path_factory.mktemp("tiny") / "pipeline"
    make_tiny_pipeline(folder, channels=(32, 32), text_layers=1)
    return load_model(str(folder), torch.device("cpu"))


@torch.no_grad()
def inflate(network: nn.Module, factor: float) -> None:
    """What a defender does: no picture changes, and small steps are no steps any more."""
    for block in network.modules():
        if isinstance(block, BasicTransformerBlock):
            attention, hidden = block.attn2, block.ff.net[2].in_features
            attention.to_q.weight.mul_(factor)
            attention.to_k.weight.div_(factor)
            attention.to_v.weight.div_(factor)
            attention.to_out[0].weight.mul_(factor)
            block.ff.net[0].proj.weight[:hidden].mul_(factor)
            block.ff.net[0].proj.bias[:hidden].mul_(factor)
            block.ff.net[2].weight.div_(factor)
            block.norm1.weight.mul_(factor)
            block.norm1.bias.mul_(factor)
            for name in ("to_q", "to_k", "to_v"):
                getattr(block.attn1, name).weight.div_(factor)


@torch.no_grad()
def answer(model: DiffusionModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    noisy = torch.randn(2, *model.latent_shape, generator=generator)
    condition = model.encode_text(["a photo of sks person", "a photo of dog"])
    return model.denoiser.predict(noisy, torch.tensor([3, 700]), condition)


def test_what_was_inflated_is_found_again_and_draws_the_same(model: DiffusionModel) -> None:
    plain, inflated = model.private_copy(), model.private_copy()
    inflate(inflated.trained, 30.0)
    for each in (plain, inflated):
        rebalance(each.trained)
        assert torch.allclose(answer(each), answer(model), atol=1e-4)
    pairs = zip(plain.trained.parameters(), inflated.trained.parameters(), strict=True)
    assert all(torch.allclose(one, other, rtol=1e-3, atol=1e-5) for one, other in pairs)

    def size(each: DiffusionModel) -> float:
        weights = each.trained.parameters()
        return sum(float(weight.detach().square().sum()) for weight in weights)

    assert size(plain) < size(model), "the smallest of those that draw the same"


def test_a_network_without_such_blocks_is_refused() -> None:
    other: Any = nn.Linear(2, 2)
    with pytest.raises(ApdmError, match="blocks of a U-Net"):
        rebalance(other)
