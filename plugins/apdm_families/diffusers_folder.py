"""From a diffusers folder to a pipeline, part by part, so that an error names the part."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, PreTrainedModel
from transformers.utils import logging as transformers_logging

from apdm_cli.errors import ApdmError, first_sentence
from apdm_cli.runs.manifest import read_json
from apdm_families.checks import (
    check_embeddings,
    check_finite,
    check_folder,
    check_tokenizer,
    variant_of,
)


@dataclass(frozen=True)
class Layout:
    """Which parts a pipeline is opened with.

    Attributes:
        pipeline: its class in diffusers.
        networks: name → class of every part with weights.
        tokenizers: name of every tokenizer → the text encoder that reads its tokens.
        without: options with which the pipeline is opened without its other parts.
        optional: parts that may be absent; they are None then.
    """

    pipeline: Any
    networks: Mapping[str, Any]
    tokenizers: Mapping[str, str]
    without: Mapping[str, Any] = field(default_factory=dict)
    optional: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[str, ...]:
        """Of the folder; every one is needed but the optional ones."""
        return (*self.networks, *self.tokenizers, "scheduler")


STABLE_DIFFUSION = Layout(
    StableDiffusionPipeline,
    {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel},
    {"tokenizer": "text_encoder"},
    {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False},
)
STABLE_DIFFUSION_XL = Layout(
    StableDiffusionXLPipeline,
    {
        "unet": UNet2DConditionModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection,
    },
    {"tokenizer": "text_encoder", "tokenizer_2": "text_encoder_2"},
    {"image_encoder": None, "feature_extractor": None, "add_watermarker": False},
)
FOLDER_HINT = "Point --model at a whole diffusers folder, such as save_pretrained writes."
LOADING_ERRORS = (
    OSError,
    ValueError,
    RuntimeError,
    KeyError,
    TypeError,
    AttributeError,
    SafetensorError,
    ImportError,
    ArithmeticError,
    AssertionError,
    IndexError,
    NotImplementedError,
    RecursionError,
)


def load_folder(folder: Path, layout: Layout) -> Any:
    """Open a pipeline around a U-Net from local files, in float32 on the CPU.

    Raises:
        ApdmError: a part is missing, its tensors do not fit, or configurations contradict.
    """
    _parts_there(folder, layout, {})
    check_folder(folder, tuple(layout.tokenizers.values()))
    pipeline = open_pipeline(folder, layout)
    check_pipeline(pipeline, str(folder), layout)
    return pipeline


def open_pipeline(folder: Path, layout: Layout, given: Mapping[str, Any] | None = None) -> Any:
    """Open a pipeline of `layout` from local files, networks in float32 on the CPU.

    Args:
        given: networks that are opened already: their folders are not looked at.

    Raises:
        ApdmError: the part is named that is missing, broken or pickled.
    """
    given = dict(given or {})
    there = _parts_there(folder, layout, given)
    parts = {**given, **{name: None for name in layout.optional if name not in there}}
    with QuietLibraries():
        for name, kind in layout.networks.items():
            if name in there and name not in given:
                parts[name] = _load_part(folder / name, kind)
        try:
            return layout.pipeline.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, **layout.without, **parts
            )
        except LOADING_ERRORS as error:
            raise ApdmError(
                f"{folder} cannot be loaded: {first_sentence(error)}", FOLDER_HINT
            ) from error


def _parts_there(folder: Path, layout: Layout, given: Mapping[str, Any]) -> set[str]:
    """The parts that are opened; ApdmError where one is missing that is needed."""
    index = read_json(folder / "model_index.json", foreign=True)
    named = {name for name, value in index.items() if isinstance(value, list) and value[0]}
    absent = {name for name in layout.optional if name not in named or not (folder / name).is_dir()}
    there = set(layout.parts) - absent
    missing = [
        name
        for name in layout.parts
        if name in there - given.keys() and not (folder / name).is_dir()
    ]
    if missing:
        raise ApdmError(f"{folder} lacks its part {', '.join(missing)}", FOLDER_HINT)
    return there


def load_part(part: Path, kind: Any) -> nn.Module:
    """One network of the class `kind` from its folder, in float32 on the CPU.

    Raises:
        ApdmError: it is pickled, tensors are missing, or their shapes are not the configuration's.
    """
    with QuietLibraries():
        return _load_part(part, kind)


def check_parts_are_whole(pipeline: Any, source: Path, layout: Layout) -> None:
    """Refuse a pipeline with tensors for which `source` had no values."""
    for name in layout.networks:
        empty = [
            key for key, tensor in getattr(pipeline, name).state_dict().items() if tensor.is_meta
        ]
        if empty:
            raise ApdmError(f"{source} lacks tensors of its {name}: {_listed(empty)}", FOLDER_HINT)


def _load_part(part: Path, kind: Any) -> nn.Module:
    if not any(part.glob("*.safetensors")) and any(part.glob("*.bin")):
        raise ApdmError(
            f"{part} has no safetensors, only pickled weights",
            "Pickled weights can run code when opened: convert them to safetensors first.",
        )
    # transformers says less about sizes when it refuses them by itself.
    tolerant = {"ignore_mismatched_sizes": True} if issubclass(kind, PreTrainedModel) else {}
    try:
        model, found = kind.from_pretrained(
            part,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            variant=variant_of(part),
            **tolerant,
        )
    except LOADING_ERRORS as error:
        raise ApdmError(f"{part} cannot be loaded: {first_sentence(error)}", FOLDER_HINT) from error
    missing = sorted(found["missing_keys"])
    if missing:
        raise ApdmError(f"{part} lacks tensors: {_listed(missing)}", FOLDER_HINT)
    wrong = sorted(key[0] for key in found["mismatched_keys"])
    if wrong:
        raise ApdmError(
            f"{part} has tensors of wrong shapes: {_listed(wrong)}",
            "Its config.json belongs to other weights. " + FOLDER_HINT,
        )
    return model.eval()


def check_pipeline(pipeline: Any, source: str, layout: Layout) -> None:
    """Refuse what opens and cannot work: a tokenizer that does not fit, weights that are NaN."""
    for name, encoder in layout.tokenizers.items():
        positions = int(getattr(pipeline, encoder).config.max_position_embeddings)
        check_tokenizer(getattr(pipeline, name), positions, source, name)
    check_weights(pipeline, source, layout)


def check_weights(pipeline: Any, source: str, layout: Layout) -> None:
    """Refuse weights that are NaN, and tokenizers that know more words than their encoders."""
    for name, encoder in layout.tokenizers.items():
        tokenizer = getattr(pipeline, name)
        if tokenizer is not None:
            words = int(getattr(pipeline, encoder).get_input_embeddings().num_embeddings)
            check_embeddings(tokenizer, words, source)
    for name in layout.networks:
        if getattr(pipeline, name) is not None:
            check_finite(getattr(pipeline, name), name, source)


def _listed(names: list[str], most: int = 3) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


class QuietLibraries:
    """Silence diffusers' and transformers' loading bars and reports while it is entered."""

    def __enter__(self) -> None:
        self._verbosity = (
            diffusers_logging.get_verbosity(),
            transformers_logging.get_verbosity(),
        )
        # They log as errors what they then raise as well.
        diffusers_logging.set_verbosity(logging.CRITICAL)
        transformers_logging.set_verbosity(logging.CRITICAL)
        diffusers_logging.disable_progress_bar()
        transformers_logging.disable_progress_bar()

    def __exit__(self, *exc: object) -> None:
        diffusers_logging.set_verbosity(self._verbosity[0])
        transformers_logging.set_verbosity(self._verbosity[1])
