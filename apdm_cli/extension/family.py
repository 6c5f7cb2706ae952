"""From a path, a single file or a hub id to a `DiffusionModel`, by the family that knows it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from apdm_cli.devices import limit_threads
from apdm_cli.diffusion.eight_bits import eight_bit_layers, hold_in_eight_bits
from apdm_cli.diffusion.family import AdapterTargets, Components, Drawing, Family, FamilyDefaults
from apdm_cli.diffusion.model import DiffusionModel, ModelRef
from apdm_cli.diffusion.recording import LAYOUT, recorder
from apdm_cli.diffusion.saving import (
    BASE,
    INDEX,
    SECOND_COPIES,
    add_difference,
    holds_difference,
    is_second_copy,
)
from apdm_cli.diffusion.source import FOLDER_HINT, check_source
from apdm_cli.digests import file_digest, folder_digest
from apdm_cli.errors import ApdmError, first_sentence
from apdm_cli.extension.answers import guarded
from apdm_cli.extension.containment import asked
from apdm_cli.extension.manager import build_plugin_manager, families
from apdm_cli.pocket.profile import SOURCE as POCKET
from apdm_cli.pocket.profile import pocket_folder, profile_of, same_model
from apdm_cli.runs.manifest import read_json, read_record
from apdm_cli.runs.records import ModelRecord

__all__ = ["AdapterTargets", "Components", "Drawing", "Family", "FamilyDefaults", "load_model"]

# Weights beside model_index.json are the same once more, in one file of another layout.
WANTED_FILES = ["*.json", "*.txt", "*.jinja", "*/*.safetensors"]
# Where Stable Diffusion 3 has its text encoders a second time, and XL an earlier autoencoder.
ELSEWHERE = ["text_encoders/*", "vae_1_0/*"]
# How the classes of well-known architectures begin, a piece of a tensor's name that only they
# have in a single file, and what people call them.
KNOWN_CLASSES = {
    "StableDiffusion3": "Stable Diffusion 3",
    "Flux2": "FLUX.2",
    "Flux": "FLUX",
    "QwenImage": "Qwen-Image",
    "ZImage": "Z-Image",
}
KNOWN_TENSORS = {
    "lora_": "a LoRA, which is no whole model",
    "joint_blocks.": "Stable Diffusion 3",
    "double_blocks.": "FLUX",
}


def load_model(
    source: str,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
    known: Mapping[str, Family] | None = None,
    *,
    frozen: bool = False,
    eight_bits: bool = False,
) -> DiffusionModel:
    """Load a model of any family. On a processor a small one sets torch's threads to one.

    Args:
        source: "pocket", a diffusers folder, a folder that `save_pipeline` wrote with
            `trained_only`, one that `save_difference` wrote, a single `.safetensors` checkpoint, or
            a hub id.
        device, dtype: where and in which precision to compute. The trained network is always held
            in float32; autocast lowers it while computing.
        revision: hub revision; for a hub id only.
        known: families by name; those of the installed plugins, if None.
        frozen: hold the trained network in `dtype` too: nothing but a difference is trained.
        eight_bits: hold the layers of a frozen network in 8 bits.

    Raises:
        ApdmError: nothing there, no network for a hub id, a part is missing, tensors of wrong
            shapes, an architecture that no family opens, or one without layers for 8 bits.
    """
    if known is None:
        known = families(build_plugin_manager())
    family, components, digest, origin, origin_digest = _open(source, revision, known)
    family = guarded(family)
    try:
        with asked(f"the family {family.name}"):
            placed = dict(components)
            if frozen:  # never in float32 on the device, which may have no room for that
                network = placed.pop(family.trained).requires_grad_(False)
                if eight_bits:  # of the weights as the files have them
                    _quantize(network, family)
                nn.Module.to(network, device, dtype)  # diffusers' own warns of half precision
            family.place(placed, device, dtype)
            process = family.process(components).to(device)
    except ApdmError as error:
        raise ApdmError(f"{source}: {error.what}", error.hint) from error
    ref = ModelRef(source, revision, digest)
    profile = profile_of(source, digest)
    model = DiffusionModel(
        family,
        components,
        process,
        ref,
        device,
        dtype,
        origin,
        origin_digest,
        profile,
        recorder(family, device, dtype),
    )
    if model.recorder is not None:  # weights as their copies, which are brought up to date often
        nn.Module.to(model.trained, memory_format=LAYOUT)
    limit_threads(device, sum(weight.numel() for weight in model.trained.parameters()))
    return model


def _quantize(network: nn.Module, family: Family) -> None:
    hold_in_eight_bits(network)
    if not eight_bit_layers(network):
        raise ApdmError(
            f"{family.title} has no linear layers or convolutions in numbered blocks, which alone "
            "are held in 8 bits",
            "Leave --set adapter.base=int8 out.",
        )


Opened = tuple[Family, Components, str, Path, str]


def _open(
    source: str, revision: str | None, known: Mapping[str, Family], named_in: Path | None = None
) -> Opened:
    """Family, components on the CPU, digest, and what has all but the trained one, with its digest.

    Args:
        named_in: the base.json that names `source`, which then has to be whole: of parts that
            name each other, or themselves, there would be no end.
    """
    check_source(source, revision)
    path = pocket_folder() if source == POCKET else Path(source).expanduser()
    if path.is_file():
        family = _family_of_file(path, known)
        with asked(f"the family {family.name}"):
            components = guarded(family).open_file(path)
            beside = guarded(family).beside(path)
        digest = file_digest([path])
        if beside is None:
            return family, components, digest, path, digest
        return family, components, digest, beside, folder_digest(beside)
    folder = path if path.is_dir() else _download(source, revision)
    if (folder / BASE).is_file():
        if named_in is not None:
            raise ApdmError(
                f"{named_in} names {source}, which is no whole model either",
                "It should name the model that the U-Net here was trained from.",
            )
        return _open_with_base(folder, known)
    family = _family_of_folder(folder, known)
    with asked(f"the family {family.name}"):
        components = guarded(family).open(folder)
    digest = folder_digest(folder)
    return family, components, digest, folder, digest


def _open_with_base(folder: Path, known: Mapping[str, Family]) -> Opened:
    base = read_record(folder / BASE, ModelRecord)
    source, revision, digest = base["source"], base.get("revision"), base["digest"]
    family, components, found, origin, pinned = _open(source, revision, known, folder / BASE)
    if not same_model(found, digest):
        raise ApdmError(
            f"{folder} holds a part of {source}, which has changed since",
            f"Its digest was {digest[:12]}... and is now {found[:12]}...: bring the old one back.",
        )
    name = family.trained
    if holds_difference(folder, family):
        add_difference(guarded(family), components, folder)
    else:
        components[name] = guarded(family).reopen(components[name], folder / name)
    return family, components, folder_digest(folder), origin, pinned


def trained_again(model: DiffusionModel, known: Mapping[str, Family] | None) -> nn.Module:
    """The trained network of `model` as its files have it, in float32 on the CPU.

    Raises:
        ApdmError: they are not those any more that it was loaded from.
    """
    if known is None:
        known = families(build_plugin_manager())
    source, digest = model.ref.source, model.ref.digest
    family, components, found, *_ = _open(source, model.ref.revision, known)
    if found != digest:
        raise ApdmError(
            f"{source} has changed since it was loaded, and its weights are needed once more",
            f"Its digest was {digest[:12]}... and is now {found[:12]}...: bring the old one back, "
            "then run the same command again.",
        )
    network: nn.Module = components[family.trained]
    return network


def stored_dtype(model: DiffusionModel) -> torch.dtype:
    """In which the files of `model` have most weights of its trained network."""
    from safetensors import safe_open

    source = Path(model.ref.source).expanduser()
    if source.is_file():
        files = [source]
    else:
        places = [place / model.family.trained for place in (source, model.origin) if place]
        found = [sorted(place.glob("*.safetensors")) for place in places]
        files = next((files for files in found if files), [])
    counts: Counter[str] = Counter()
    for file in [f for f in files if not is_second_copy(f.name)] or files:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                tensor = opened.get_slice(name)
                counts[tensor.get_dtype()] += math.prod(tensor.get_shape())
    most = counts.most_common(1)[0][0] if counts else ""
    return {"F16": torch.float16, "BF16": torch.bfloat16}.get(most, torch.float32)


def _family_of_folder(folder: Path, known: Mapping[str, Family]) -> Family:
    file = folder / INDEX
    if not file.is_file():
        raise ApdmError(
            f"{folder} is not a diffusers folder: it has no model_index.json", FOLDER_HINT
        )
    try:
        index: Mapping[str, Any] = read_json(file, foreign=True)
        name = str(index["_class_name"])
    except (ApdmError, KeyError) as error:
        raise ApdmError(f"{file} is broken: {first_sentence(error)}", FOLDER_HINT) from error
    for family in known.values():
        if _answers(family, lambda family: family.opens(index)):
            return family
    spoken = [title for start, title in KNOWN_CLASSES.items() if name.startswith(start)]
    raise _unsupported(folder, f"{spoken[0]} ({name})" if spoken else name, known)


def _family_of_file(file: Path, known: Mapping[str, Family]) -> Family:
    from safetensors import SafetensorError, safe_open

    if file.suffix != ".safetensors":
        raise ApdmError(
            f"{file} is not a .safetensors file",
            "Pickled checkpoints can run code when opened: convert them to safetensors first.",
        )
    try:
        with safe_open(file, framework="pt") as opened:
            names = list(opened.keys())
    except (OSError, SafetensorError) as error:
        raise ApdmError(
            f"{file} cannot be read: {first_sentence(error)}", "Copy it again from its source."
        ) from error
    for family in known.values():
        if _answers(family, lambda family: family.opens_file(names)):
            return family
    for mark, title in KNOWN_TENSORS.items():
        if any(mark in name for name in names):
            raise _unsupported(file, title, known)
    raise _unsupported(file, "no checkpoint in the original layout of a known model", known)


def _answers(family: Family, question: Callable[[Family], bool]) -> bool:
    """Whether a family says yes: every one is asked, whoever the model belongs to.

    One that fails instead has said no, and costs nobody else.
    """
    try:
        with asked(f"the family {family.name}"):
            return bool(question(family))
    except ApdmError:
        return False


def _unsupported(place: Path, what: str, known: Mapping[str, Family]) -> ApdmError:
    titles = "; ".join(family.title for family in known.values()) or "no family is installed"
    return ApdmError(
        f"{place} holds {what}: not supported yet",
        f"Supported are: {titles}. See docs/models.md; how to write a family for another kind of "
        "model is in docs/write-a-family.md.",
    )


def _download(source: str, revision: str | None) -> Path:
    """Folder of a hub model, from the cache or the hub. HF_HUB_OFFLINE is respected."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    def fetched(second_copies: Collection[str]) -> Path:
        return Path(
            snapshot_download(
                source,
                revision=revision,
                allow_patterns=WANTED_FILES,
                ignore_patterns=[*second_copies, *ELSEWHERE],
            )
        )

    try:
        folder = fetched(SECOND_COPIES)
        if any(not any(config.parent.glob("*.safetensors")) for config in _networks(folder)):
            # Its halves are no second copies: there are no others.
            folder = fetched([pattern for pattern in SECOND_COPIES if "fp16" not in pattern])
        return folder
    except GatedRepoError as error:
        raise ApdmError(
            f"{source} is given by the hub only to who has accepted its license, and it was not "
            "given to you",
            f"Accept it at https://huggingface.co/{source}, log in with `hf auth login`, then run "
            "the same command again.",
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ApdmError(
            f"The hub has no {source}" + (f" of revision {revision}" if revision else ""),
            "Check the name; a private model needs `hf auth login` first.",
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise ApdmError(
            f"{source} is no folder here and not in the hub cache, and the hub was not reached "
            f"({first_sentence(error)})",
            "Put its model_index.json and the folders that it names (unet/ or transformer/, vae/, "
            "text_encoder/, tokenizer/, scheduler/) into one folder and point --model at that.",
        ) from error


def _networks(folder: Path) -> list[Path]:
    """The configurations of the parts that have weights."""
    return sorted(folder.glob("*/config.json"))
