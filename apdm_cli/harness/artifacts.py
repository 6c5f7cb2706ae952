"""Put what an attack left onto the model that it attacked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.errors import ApdmError
from apdm_cli.extension.attack import Artifact

HINT = "Give the model that was attacked; apdm finds it by the manifest of the cell."


def load_attacked(model: DiffusionModel, artifact: Artifact) -> DiffusionModel:
    """A model of its own with `artifact` applied; `model` stays as it is.

    Every kind is opened with diffusers' (or peft's) own loader where there is one, so that the
    pictures are those a user of plain diffusers gets.

    Raises:
        ApdmError: nothing is there, or it was made for a model of another architecture.
    """
    if not artifact.path.is_dir() or not any(artifact.path.iterdir()):
        raise ApdmError(f"There is no artifact in {artifact.path}", "Run the attack again.")
    try:
        return LOADERS[artifact.kind](model, artifact.path)
    except KeyError as error:
        if artifact.kind not in LOADERS:
            raise ApdmError(f"{artifact.kind!r} is no kind of artifact") from error
        raise _misfit(artifact, error) from error
    except (OSError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        raise _misfit(artifact, error) from error


def _pipeline(model: DiffusionModel, folder: Path) -> DiffusionModel:
    components = dict(model.components)
    for part in sorted(path for path in folder.iterdir() if path.is_dir()):
        current = components.get(part.name)
        if current is None:
            continue
        loaded = model.family.reopen(current, part)
        if isinstance(loaded, nn.Module):
            if _shapes(loaded) != _shapes(current):
                raise ValueError(f"{part.name} has other shapes than the model's")
            first = next(current.parameters())
            loaded = loaded.to(first.device, first.dtype).eval()
        components[part.name] = loaded
    return replace(model, components=components)


def _lora(model: DiffusionModel, folder: Path) -> DiffusionModel:
    private = model.private_copy()
    private.family.load_lora(private.components, folder)
    return private


def _peft(model: DiffusionModel, folder: Path) -> DiffusionModel:
    from peft import PeftModel

    private = model.private_copy()
    # Injects its layers into the network in place; the wrapper itself is not needed.
    PeftModel.from_pretrained(private.trained, folder)
    return private


def _embedding(model: DiffusionModel, folder: Path) -> DiffusionModel:
    private = model.private_copy()
    for file in sorted(folder.glob("*.safetensors")):
        private.pipeline.load_textual_inversion(file.parent, weight_name=file.name)
    return private


def _custom_diffusion(model: DiffusionModel, folder: Path) -> DiffusionModel:
    private = _embedding(model, folder / "tokens") if (folder / "tokens").is_dir() else None
    private = private or model.private_copy()
    (file,) = folder.glob("*.safetensors")
    # Without `_pipeline` this version of diffusers reads the file and then does nothing with it.
    network: Any = private.trained
    network.load_attn_procs(folder, weight_name=file.name, _pipeline=private.pipeline)
    return private


LOADERS = {
    "pipeline": _pipeline,
    "lora": _lora,
    "peft": _peft,
    "embedding": _embedding,
    "custom-diffusion": _custom_diffusion,
}


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in module.named_parameters()}


def _misfit(artifact: Artifact, error: Exception) -> ApdmError:
    lines = str(error).strip().splitlines()
    reason = lines[0][:200] if lines else type(error).__name__
    return ApdmError(
        f"The artifact {artifact.path} ({artifact.kind}) does not fit the model: {reason}", HINT
    )
