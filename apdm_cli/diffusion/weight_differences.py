"""What a fine-tuning has moved, kept as differences to the weights that it started from.

<component>.safetensors    name of a weight → its difference, bfloat16; unmoved weights are left out

bfloat16 keeps a difference to 2⁻⁹ of itself, whatever its size, so that half of the room of the
float32 weights (or less, where few were moved) holds them to a much smaller part of the weights.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from apdm_cli.diffusion.model import DiffusionModel


def save_differences(attacked: DiffusionModel, base: DiffusionModel, folder: Path) -> None:
    """Write what `attacked` differs in from `base` into `folder`, a file for each component.

    Raises:
        ValueError: the models differ in more than the values of floating-point weights.
    """
    networks = attacked.networks()
    for name, network in base.networks().items():
        moved = _moved(name, networks[name], network)
        if moved:
            whole = {key: tensor.contiguous() for key, tensor in moved.items()}
            save_file(whole, folder / f"{name}.safetensors")


def open_differences(model: DiffusionModel, folder: Path) -> DiffusionModel:
    """A model of its own, with the differences added to the weights of `model`.

    Raises:
        ValueError: a component or weight is unknown, or has another shape.
    """
    components = dict(model.components)
    for file in sorted(folder.glob("*.safetensors")):
        before = model.networks().get(file.stem)
        if before is None:
            raise ValueError(f"the model has no {file.stem}")
        components[file.stem] = network = copy.deepcopy(before)
        weights = network.state_dict()
        for key, difference in load_file(file).items():
            weight = weights.get(key)
            if weight is None or weight.shape != difference.shape:
                raise ValueError(f"the model has no such weight {key} in its {file.stem}")
            with torch.no_grad():
                weight.copy_(weight.float() + difference.to(weight.device).float())
    return replace(model, components=components)


def _moved(name: str, after: nn.Module, before: nn.Module) -> dict[str, Tensor]:
    """Key → difference of every weight of a component that was moved."""
    old, new = before.state_dict(), after.state_dict()
    if {key: value.shape for key, value in old.items()} != {
        key: value.shape for key, value in new.items()
    }:
        raise ValueError(f"{name} has other weights than the model's")
    moved = {}
    for key, value in new.items():
        if torch.equal(value, old[key]):
            continue
        if not value.is_floating_point():
            raise ValueError(f"{name} differs in {key}, which is no floating-point weight")
        difference = value.float() - old[key].float()
        moved[key] = difference.to(torch.bfloat16).cpu().contiguous()
    return moved
