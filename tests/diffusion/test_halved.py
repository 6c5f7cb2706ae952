"""The rounded copy that a card draws with: the same pictures, and nothing else changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch

from apdm_cli.diffusion import halved
from apdm_cli.diffusion.halved import components_to_draw_with, in_half
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.extension.family import load_model
from tests.protection import toys

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pocket() -> DiffusionModel:
    return load_model("pocket", CPU, torch.bfloat16)


def test_a_rounded_network_takes_and_gives_float32() -> None:
    network = toys.denoiser().network
    made = in_half(network, torch.bfloat16)
    draw = toys.draw(2, 0)
    given = {"encoder_hidden_states": toys.condition(0, 2)["text"], "return_dict": False}
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        (answer,) = made(draw.latents, draw.timesteps, **given)
    (exact,) = network(draw.latents, draw.timesteps, **given)
    assert answer.dtype == torch.float32
    assert {weight.dtype for weight in made.parameters()} == {torch.bfloat16}
    assert {weight.dtype for weight in network.parameters()} == {torch.float32}
    assert torch.nn.functional.cosine_similarity(answer.flatten(), exact.flatten(), 0) > 0.999


def test_timesteps_are_not_rounded() -> None:
    """Half precision would make 951 of 953."""
    seen: list[torch.dtype] = []

    class Noting(torch.nn.Bilinear):
        def forward(self, given: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
            seen.extend((given.dtype, steps.dtype))
            return given

    in_half(Noting(1, 1, 1), torch.bfloat16)(torch.ones(1, 1), torch.tensor([953.0]))
    assert seen == [torch.bfloat16, torch.float32]


def test_numbers_that_a_family_names_are_not_rounded() -> None:
    """Of a size of 1333 pixels bfloat16 would make 1336."""
    seen: list[torch.dtype] = []

    class Told(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, given: torch.Tensor, added: Mapping[str, torch.Tensor]) -> torch.Tensor:
            seen.extend(one.dtype for one in (given, *added.values()))
            return given

    added = {"pooled": torch.ones(1, 4), "sizes": torch.full((1, 6), 1333.0)}
    in_half(Told(), torch.bfloat16, ("sizes",))(torch.ones(1, 1), added=added)
    assert seen == [torch.bfloat16, torch.bfloat16, torch.float32]


def test_only_a_card_in_half_precision_draws_with_one(pocket: DiffusionModel) -> None:
    assert components_to_draw_with(pocket) is pocket.components
    card = replace(pocket, device=torch.device("cuda"))
    drawn = components_to_draw_with(card)
    assert drawn["unet"] is not pocket.trained and drawn["vae"] is pocket.components["vae"]
    exact = replace(card, dtype=torch.float32)
    assert components_to_draw_with(exact) is exact.components


def test_what_a_copy_would_lose_is_drawn_as_it_is(pocket: DiffusionModel) -> None:
    card = replace(pocket, device=torch.device("cuda")).private_copy()
    card.trained.get_submodule("conv_in").register_forward_hook(lambda layer, given, answer: answer)
    assert components_to_draw_with(card) is card.components


def test_without_memory_for_it_there_is_none(
    pocket: DiffusionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(halved, "in_half", full)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    card = replace(pocket, device=torch.device("cuda"))
    assert components_to_draw_with(card) is card.components


def test_weights_that_are_shared_stay_shared() -> None:
    """As the embeddings of some text encoders, or a transformer's in and out."""
    first, second = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    second.weight = first.weight
    made = in_half(torch.nn.Sequential(first, second), torch.bfloat16)
    assert len(list(made.parameters())) == 3
    assert made(torch.ones(1, 3)).dtype == torch.float32
    assert first.weight.requires_grad and first.weight.dtype == torch.float32
