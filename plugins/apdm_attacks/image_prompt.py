"""Pictures as prompts: an IP-Adapter's files, what they make of photos, and drawing with that."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apdm_cli.errors import ApdmError, first_sentence
from apdm_cli.plugin import Artifact

if TYPE_CHECKING:
    from torch import Tensor

    from apdm_cli.diffusion.family import Family
    from apdm_cli.diffusion.model import DiffusionModel
    from apdm_cli.plugin import Bench

KIND = "ip-adapter"
ADAPTER, PROMPT = "ip_adapter.safetensors", "image_embeds.safetensors"
ENCODER = "image_encoder"
HINT = (
    "For Stable Diffusion 1.5 download from huggingface.co/h94/IP-Adapter the file "
    "models/ip-adapter-plus-face_sd15.safetensors and the folder models/image_encoder (2.6 GB), "
    "put both into one folder, and give it with --set ip-adapter.weights=FOLDER."
)


def read_files(folder: Path | None, name: str = "") -> list[Path]:
    """The adapter's file in `folder`, and those of its image encoder.

    Args:
        name: of the adapter's file; may be empty where there is only one.

    Raises:
        ApdmError: what is missing, and where to get it.
    """
    if folder is None:
        raise ApdmError("ip-adapter has no weights: apdm brings none", HINT)
    folder = folder.expanduser()
    found = sorted(folder.glob("*.safetensors"))
    if name:
        found = [file for file in found if file.name == name]
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise ApdmError(
            f"ip-adapter.weights: {folder} holds several adapters ({names})",
            f"Choose one: --set ip-adapter.file={found[0].name}",
        )
    encoder = sorted((folder / ENCODER).glob("*.safetensors"))
    config = folder / ENCODER / "config.json"
    for there, what in (
        (found, name or "adapter (*.safetensors)"),
        (encoder and config.is_file(), f"{ENCODER}/ with config.json and *.safetensors"),
    ):
        if not there:
            raise ApdmError(f"ip-adapter.weights: {folder} has no {what}", HINT)
    return [found[0], config, *encoder]


def save_prompt(bench: Bench, config: Any) -> Artifact:
    """Write the adapter and what its image encoder makes of the bench's photos.

    Guidance needs the encoder's answer to no picture as well: the tensor "image_embeds" has both,
    (2, N, ...) for N photos, as diffusers takes them. The scale is in the adapter's values.
    """
    import torch
    from PIL import Image
    from safetensors.torch import load_file, save_file

    from apdm_cli.diffusion.pictures import from_unit

    (file, *_) = read_files(Path(config.weights) if config.weights else None, config.file)
    adapter = load_file(file)
    _check(bench.base, file, adapter)
    pipeline = _with_adapter(bench.base.private_copy(text_encoders=False), file, ENCODER)
    pixels = from_unit(bench.subject.photos.pixels / 2 + 0.5)
    photos = [Image.fromarray(photo.numpy()) for photo in pixels]
    with torch.no_grad():
        (embeds,) = pipeline.prepare_ip_adapter_image_embeds(
            [photos], None, bench.base.device, 1, True
        )
    scaled = {
        name: value * config.scale if name.endswith(".to_v_ip.weight") else value
        for name, value in adapter.items()
    }
    save_file(scaled, bench.artifact_folder / ADAPTER)
    save_file({"image_embeds": embeds.float().cpu()}, bench.artifact_folder / PROMPT)
    return Artifact(KIND, bench.artifact_folder)


def open_prompted(model: DiffusionModel, folder: Path) -> DiffusionModel:
    """`model` with the adapter in `folder`; a copy that draws from the kept photos."""
    from safetensors.torch import load_file

    private = model.private_copy()
    _with_adapter(private, folder / ADAPTER, None)
    embeds = load_file(folder / PROMPT)["image_embeds"].to(model.device)
    return replace(private, family=_prompted(private.family, embeds), recorder=None)


def _with_adapter(model: DiffusionModel, file: Path, encoder: str | None) -> Any:
    """The pipeline around `model`, whose network gets the adapter, in place."""
    family: Any = model.family
    try:
        return family.load_ip_adapter(model.components, file, encoder)
    except (RuntimeError, ValueError, KeyError) as error:
        raise ApdmError(
            f"{file.name} does not fit the model: {first_sentence(error)}",
            "Take an adapter that was made for a model of this architecture.",
        ) from error


def _check(model: DiffusionModel, file: Path, adapter: dict[str, Tensor]) -> None:
    """ApdmError for a model that takes no such adapter, and for one that reads no pictures."""
    known = hasattr(model.family, "load_ip_adapter") and hasattr(model.pipeline, "load_ip_adapter")
    if not known or "unet" not in model.components:
        raise ApdmError(f"{model.family.title} has no IP-Adapter in diffusers")
    parts = {name.partition(".")[0] for name in adapter}
    if not {"image_proj", "ip_adapter"} <= parts:
        raise ApdmError(f"{file.name} is no IP-Adapter", HINT)
    # As diffusers tells them apart: FaceID's projection begins with two layers and a norm.
    face = "image_proj.proj.0.weight" in adapter and "image_proj.proj.3.weight" not in adapter
    if face:
        raise ApdmError(
            f"{file.name} reads the embeddings of a face recognizer (FaceID), not pictures",
            "Take one that reads pictures, such as ip-adapter-plus-face_sd15.safetensors.",
        )


def _prompted(family: Family, embeds: Tensor) -> Family:
    """`family`, whose pipelines are given `embeds` (2, N, ...) beside every prompt."""
    kind: Any = type(family)

    def draw(self: Any, pipeline: Any, drawing: Any, side: int, **what: Any) -> Any:
        shown = embeds if drawing.guidance > 1 else embeds[1:]  # without guidance no negative one
        what["ip_adapter_image_embeds"] = [shown]
        return super(own, self).draw(pipeline, drawing, side, **what)

    own: Any = type(kind.__name__, (kind,), {"draw": draw, "__module__": kind.__module__})
    prompted = copy.copy(family)
    prompted.__class__ = own
    return prompted
