"""From a `DiffusionModel` back to a diffusers folder: what was not trained stays as it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from apdm_cli.diffusion.family import Components, Family
from apdm_cli.diffusion.low_rank import LowRankDifference, fuse_lora
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.digests import file_digest, folder_digest
from apdm_cli.errors import ApdmError
from apdm_cli.runs.manifest import write_json_atomic

BASE = "base.json"  # beside a network, or a difference, that was saved alone: what it belongs to
INDEX = "model_index.json"
# Other precisions and whole-checkpoint copies: a second time the same weights.
SECOND_COPIES = ("*.fp16.*", "*.fp16-*", "*.non_ema.*", "v1-*.safetensors", "v2-*.safetensors")
HALVES = {"F16": torch.float16, "BF16": torch.bfloat16}  # as safetensors calls them
PICKLED = (".bin", ".ckpt", ".pt", ".pth", ".msgpack", ".h5")


def save_pipeline(model: DiffusionModel, folder: Path, *, trained_only: bool = False) -> None:
    """Write `model` as a diffusers folder of safetensors that plain diffusers opens.

    The trained component is written from memory. Everything else is copied byte by byte from the
    folder that the model was opened from: its scheduler, so that plain diffusers draws with the
    same sampler as before, safety checker, feature extractor, tokenizer, text encoder and
    autoencoder. Of a model that came in a single file with all of that, they are read from the
    file again, because those in memory are rounded to the compute precision, and written in the
    file's own. What is not there any more, or is not what was opened, is written from memory.

    With `trained_only` just the trained component is written, with `base.json` naming the model it
    belongs to.

    Raises:
        ApdmError: a weight is NaN or infinite; nothing is written then.
    """
    require_finite_weights(model)
    name, origin = model.family.trained, model.origin
    if trained_only:
        model.family.save_component(model.trained, folder / name)
        write_json_atomic(folder / BASE, vars(model.ref))
    elif origin is None or _digest(origin) != model.origin_digest:
        model.family.save_all(model.components, folder)
    elif origin.is_dir():
        model.family.save_component(model.trained, folder / name)
        _copy_untrained(origin, folder, name)
    else:
        model.family.save_all({**model.components, **_read_again(model, origin)}, folder)


def save_difference(model: DiffusionModel, difference: LowRankDifference, folder: Path) -> None:
    """Write `difference` alone, as a LoRA, with `base.json` naming the model it belongs to.

    Plain diffusers: `pipe.load_lora_weights(folder)`, then `pipe.fuse_lora()`.

    Raises:
        ApdmError: a weight is NaN or infinite; nothing is written then.
    """
    for name, weights in difference.state_dict().items():
        _require_finite({f"{name}.{key}": weight for key, weight in weights.items()})
    name = model.family.trained
    adapted = {**model.components, name: difference.as_lora()}
    model.family.save_lora(adapted, [name], folder, "diffusers")
    write_json_atomic(folder / BASE, vars(model.ref))


def holds_difference(folder: Path, family: Family) -> bool:
    """Whether what was saved alone in `folder` is a difference, and no whole network."""
    network = folder / family.trained
    return not network.is_dir() or (network / "adapter_config.json").is_file()


def add_difference(family: Family, components: Components, folder: Path) -> None:
    """Add what `save_difference` wrote to the weights of `components`, in place."""
    family.load_lora(components, folder)
    fuse_lora(components[family.trained])


def require_finite_weights(model: DiffusionModel) -> None:
    """Refuse a trained component that is not finite: its last step went too far."""
    _require_finite(model.trained.state_dict())


def _require_finite(weights: Mapping[str, Tensor]) -> None:
    for key, weight in weights.items():
        if weight.is_floating_point() and not torch.isfinite(weight).all():
            raise ApdmError(
                f"the training ended with weights that are not finite (the first is {key})",
                "Lower the learning rate. Nothing was saved.",
            )


def _digest(origin: Path) -> str | None:
    """Of a folder or a single file; None where there is nothing."""
    if origin.is_dir():
        return folder_digest(origin)
    return file_digest([origin]) if origin.is_file() else None


def _read_again(model: DiffusionModel, file: Path) -> Components:
    """The networks that are not trained, on the CPU in the precision of `file`.

    What the configuration beside the file says may have changed: only networks that still have
    the configuration in memory are among them.
    """
    try:
        components = model.family.open_file(file)
    except ApdmError:
        return {}
    found = {
        name: components[name]
        for name, network in model.networks().items()
        if name != model.family.trained and _alike(network, components.get(name))
    }
    _as_stored(found, file)
    return found


def _alike(network: nn.Module, other: Any) -> bool:
    """Whether `other` is a network of the same configuration and tensors, whatever they hold."""
    if type(other) is not type(network) or _configuration(other) != _configuration(network):
        return False
    one, two = network.state_dict(), other.state_dict()
    shapes = {name: tensor.shape for name, tensor in one.items()}
    return shapes == {name: tensor.shape for name, tensor in two.items()}


def _configuration(network: nn.Module) -> dict[str, Any]:
    config: Any = getattr(network, "config", None)
    entries = config.to_dict() if hasattr(config, "to_dict") else config
    if not isinstance(entries, Mapping):
        return {}
    # Where it was read from, and in which precision, is no property of the network.
    return {
        name: value
        for name, value in entries.items()
        if not name.startswith("_") and name not in ("dtype", "torch_dtype")
    }


def _as_stored(components: Components, file: Path) -> None:
    """Narrow every network, in place, to the precision of `file` that holds all of it exactly."""
    with safe_open(file, framework="pt") as opened:
        names = list(opened.keys())
        found = {opened.get_slice(name).get_dtype() for name in names}
    for network in components.values():
        if isinstance(network, nn.Module):
            for stored, dtype in HALVES.items():
                if stored in found and _holds(dtype, network):
                    nn.Module.to(network, dtype)  # diffusers' own warns of half precision
                    break


def _holds(dtype: torch.dtype, network: nn.Module) -> bool:
    weights = (weight for weight in network.state_dict().values() if weight.is_floating_point())
    return all(torch.equal(weight.to(dtype).to(weight.dtype), weight) for weight in weights)


def _copy_untrained(source: Path, target: Path, trained: str) -> None:
    """Copy the index of `source` and the folder of every component in it but `trained`.

    A component that the index names and that is not there (a safety checker that was never
    downloaded) is written as absent, which is how it was loaded.
    """
    index: dict[str, Any] = json.loads((source / INDEX).read_text(encoding="utf-8"))
    named = [name for name, value in index.items() if isinstance(value, list) and value[0]]
    absent = [name for name in named if not (source / name).is_dir()]
    target.mkdir(parents=True, exist_ok=True)
    if absent:
        index |= {name: [None, None] for name in absent}
        if "safety_checker" in absent:
            index["requires_safety_checker"] = False
        (target / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")
    else:
        shutil.copyfile(source / INDEX, target / INDEX)
    for name in named:
        if name != trained and name not in absent:
            shutil.copytree(
                source / name, target / name, ignore=_unneeded, copy_function=shutil.copyfile
            )
            _give_plain_names(target / name)


def _give_plain_names(folder: Path) -> None:
    """Weights that came as a variant only are what plain diffusers should open without asking.

    Large ones come in shards ("model.fp16-00001-of-00002.safetensors"), whose names stand in an
    index ("model.safetensors.index.fp16.json").
    """
    for file in folder.glob("*.fp16[.-]*safetensors"):
        file.rename(file.with_name(_plain_name(file.name)))
    for file in folder.glob("*.index.fp16.json"):
        index = json.loads(file.read_text(encoding="utf-8"))
        shards = index["weight_map"]
        index["weight_map"] = {key: _plain_name(shard) for key, shard in shards.items()}
        file.with_name(_plain_name(file.name)).write_text(json.dumps(index), encoding="utf-8")
        file.unlink()


def _plain_name(name: str) -> str:
    return name.replace(".fp16.", ".").replace(".fp16-", "-")


def is_second_copy(name: str) -> bool:
    """Whether a file of this name has weights that another one has as well, as a rule."""
    return any(fnmatch(name, pattern) for pattern in SECOND_COPIES)


def _unneeded(folder: str, names: list[str]) -> list[str]:
    """Second copies of the same weights; pickled ones count where safetensors lie beside them."""
    second = [name for name in names if is_second_copy(name)]
    if not any(name.endswith(".safetensors") and name not in second for name in names):
        second = [name for name in second if ".fp16" not in name]  # these are the only ones
    if any(name.endswith(".safetensors") and name not in second for name in names):
        second += [name for name in names if name.endswith(PICKLED)]
    return second
