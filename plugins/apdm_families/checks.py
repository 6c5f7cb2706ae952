"""What is wrong with a Stable Diffusion's configuration, before and after it is opened, in words.

The libraries take nearly any number and fail much later with an error that names no file, or don't
fail and draw noise. Everything here reads plain JSON or looks at tensors; nothing is imported that
takes time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apdm_cli.errors import ApdmError
from apdm_cli.runs.manifest import read_json

if TYPE_CHECKING:
    from torch import nn

HINT = "Point --model at a whole diffusers folder, such as save_pretrained writes."
MOST_SIDE = 512  # latents a side: 4096 pixels
MOST_TIMESTEPS = 100_000
SIZES = 6  # numbers that Stable Diffusion XL is given about a picture
# Channels that a U-Net gets beside the latents, and what such models are called.
OTHER_INPUTS = {
    9: "an inpainting model (its U-Net also takes a mask and a masked picture)",
    8: "a model that edits pictures (its U-Net also takes a picture)",
    5: "a depth-to-image model (its U-Net also takes a depth map)",
    7: "an upscaling model (its U-Net also takes a small picture)",
}
# How the schedulers of models begin whose noise follows no betas.
OTHER_PROCESSES = ("EDM", "FlowMatch")
ONE_ENCODER = {"cond_stage_model.": "text encoder"}
INPUT_WEIGHT = "model.diffusion_model.input_blocks.0.0.weight"
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace")


def check_folder(folder: Path, encoders: Sequence[str] = ("text_encoder",)) -> None:
    """Refuse a folder whose configuration files contradict each other or themselves.

    Args:
        encoders: its text encoders; the U-Net reads what they write, side by side.

    Raises:
        ApdmError: the file and its entry are named.
    """
    files = {
        "unet": folder / "unet" / "config.json",
        "vae": folder / "vae" / "config.json",
        **{name: folder / name / "config.json" for name in encoders},
        "scheduler": folder / "scheduler" / "scheduler_config.json",
    }
    read = {name: _Entries.of(file) for name, file in files.items() if file.is_file()}
    if "unet" in read:
        channels = _check_unet(read["unet"], read.get("vae"))
        if "vae" in read:
            _check_same(read["unet"], channels, [read["vae"]], "latent_channels", 4)
        if all(name in read for name in encoders):
            width = read["unet"].whole("cross_attention_dim", 1, 100_000, default=1280)
            _check_same(read["unet"], width, [read[name] for name in encoders], "hidden_size", 512)
    if "vae" in read:
        _check_vae(read["vae"])
    for name in encoders:
        if name in read:
            read[name].whole("max_position_embeddings", 4, 100_000, default=77)
            read[name].whole("vocab_size", 1, 10_000_000, default=49408)
    if "scheduler" in read:
        _check_scheduler(read["scheduler"])


def check_added_conditions(folder: Path) -> None:
    """Refuse a folder whose U-Net does not read what Stable Diffusion XL adds to the prompt.

    That is the pooled embedding of the second text encoder and six numbers: the sizes before and
    after cropping, and the corner.

    Raises:
        ApdmError: the file and its entry are named.
    """
    files = [folder / name / "config.json" for name in ("unet", "text_encoder_2")]
    if not all(file.is_file() for file in files):
        return  # whoever opens the folder says so
    unet, encoder = (_Entries.of(file) for file in files)
    if unet.values.get("addition_embed_type") != "text_time":
        raise unet.wrong("addition_embed_type", '"text_time", as for every Stable Diffusion XL')
    pooled = encoder.whole("projection_dim", 1, 100_000, default=512)
    numbers = SIZES * unet.whole("addition_time_embed_dim", 1, 100_000, default=256)
    inputs = unet.whole("projection_class_embeddings_input_dim", 1, 10_000_000, default=2816)
    if inputs != pooled + numbers:
        raise unet.wrong(
            "projection_class_embeddings_input_dim",
            f"{pooled + numbers}: {numbers} for the sizes and projection_dim {pooled} of "
            f"{encoder.file}",
        )


def check_file(
    path: Path, shapes: Mapping[str, Sequence[int]], encoders: Mapping[str, str] = ONE_ENCODER
) -> None:
    """Refuse a checkpoint in one file that is no whole text-to-image model.

    Args:
        shapes: of its tensors, by name.
        encoders: how the tensors of every text encoder begin → what messages call it.
    """
    if INPUT_WEIGHT in shapes and len(shapes[INPUT_WEIGHT]) == 4:
        _require_plain_input(path, int(shapes[INPUT_WEIGHT][1]))
    for prefix, part in (
        ("model.diffusion_model.", "U-Net"),
        ("first_stage_model.", 'autoencoder (a "no-vae" file)'),
        *encoders.items(),
    ):
        if not any(name.startswith(prefix) for name in shapes):
            raise ApdmError(
                f"{path} lacks its {part}",
                "Take the file with all parts, or a diffusers folder.",
            )


def check_marks(
    path: Path,
    names: Sequence[str],
    metadata: Mapping[str, str],
    scheduler: Mapping[str, Any],
) -> None:
    """Refuse to open as something else what says in the file how it was trained.

    Trainers mark velocity prediction by an empty tensor `v_pred` or the entry
    `modelspec.prediction_type` of the header, and a zero terminal signal-to-noise ratio by an empty
    tensor `ztsnr`.

    Args:
        names: of its tensors.
        metadata: of its header.
        scheduler: entries of the scheduler's configuration that it is opened with.
    """
    beside = f"Put its configuration files into {path.with_suffix('')}/ with"
    prediction = str(scheduler.get("prediction_type", "epsilon"))
    velocity = "v_pred" in names or metadata.get("modelspec.prediction_type") == "v"
    if velocity and prediction != "v_prediction":
        raise ApdmError(
            f"{path} says that it predicts velocity, and its configuration says {prediction}",
            f'{beside} "prediction_type": "v_prediction" in scheduler/scheduler_config.json.',
        )
    if "ztsnr" in names and not scheduler.get("rescale_betas_zero_snr"):
        raise ApdmError(
            f"{path} says that it was trained with a zero terminal signal-to-noise ratio, and its "
            "configuration does not",
            f'{beside} "rescale_betas_zero_snr": true in scheduler/scheduler_config.json.',
        )


def renamed_clip(
    names: Sequence[str], clip: str = "cond_stage_model.transformer."
) -> dict[str, str]:
    """Old → new names where CLIP's tensors lack the level `text_model`, as merges write them.

    Args:
        clip: how the names of CLIP's tensors begin.
    """
    old = tuple(f"{clip}{part}." for part in ("embeddings", "encoder", "final_layer_norm"))
    return {
        name: f"{clip}text_model.{name.removeprefix(clip)}"
        for name in names
        if name.startswith(old)
    }


def variant_of(part: Path) -> str | None:
    """ "fp16" for a folder that holds its weights in that variant only; None for usual names."""
    names = [file.name for file in part.glob("*.safetensors")]
    plain = [name for name in names if ".fp16." not in name and ".fp16-" not in name]
    return "fp16" if names and not plain else None


def check_tokenizer(tokenizer: Any, positions: int, source: str, part: str = "tokenizer") -> None:
    """Refuse a tokenizer that cannot pad a prompt, or makes more tokens than are read.

    Args:
        positions: how many tokens the text encoder reads.
        part: its folder.
    """
    if tokenizer.pad_token_id is None:
        raise ApdmError(f"{source}: its tokenizer has no pad_token", HINT)
    longest = int(tokenizer.model_max_length)
    if not 4 <= longest <= positions:
        shown = longest if longest < 10**9 else "not set"
        raise ApdmError(
            f"{source}: the model_max_length of its tokenizer is {shown}, and its text encoder "
            f"reads {positions} tokens",
            f'Set "model_max_length": {positions} in {part}/tokenizer_config.json.',
        )


def check_embeddings(tokenizer: Any, embeddings: int, source: str) -> None:
    """Refuse a tokenizer with added tokens for which the text encoder has no embeddings."""
    if len(tokenizer) > embeddings:
        raise ApdmError(
            f"{source}: its tokenizer has {len(tokenizer)} tokens, and its text encoder "
            f"{embeddings} embeddings",
            "Tokenizer and text encoder belong to different models.",
        )


def check_finite(network: nn.Module, name: str, source: str) -> None:
    """Refuse weights that are NaN or infinite: nothing that is computed with them means anything.

    One pass over the weights; their sum is finite unless one of them is not.
    """
    import torch

    for key, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor.sum(dtype=torch.float64)):
            raise ApdmError(
                f"{source}: the tensor {key} of its {name} is not finite",
                "The file is damaged, or was made by a training that failed: take another.",
            )


class _Entries:
    """The entries of one configuration file, asked for by type; errors name file and entry."""

    def __init__(self, file: Path, values: Mapping[str, Any]) -> None:
        self.file, self.values = file, values

    @classmethod
    def of(cls, file: Path) -> _Entries:
        """Those of `file`. ApdmError when it is no JSON object."""
        try:
            return cls(file, read_json(file, foreign=True))
        except ApdmError as error:
            raise ApdmError(f"{file.parent} cannot be loaded: {error.what}", HINT) from error

    def whole(self, key: str, low: int, high: int, default: int) -> int:
        """A whole number from `low` to `high`."""
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.wrong(key, f"a whole number from {low} to {high}")
        return value

    def real(self, key: str, default: float) -> float:
        """A finite number above 0."""
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(key, "a number above 0")
        # A float beyond 1e30 is as good as infinite in float32.
        if not (0 < abs(value) < 1e30 and value > 0 and math.isfinite(value)):
            raise self.wrong(key, "a number above 0")
        return float(value)

    def wrong(self, key: str, expected: str) -> ApdmError:
        """The error for an entry that is not what was expected."""
        shown = repr(self.values.get(key))
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        return ApdmError(f"{self.file}: {key} is {shown}, and should be {expected}", HINT)


def _check_unet(unet: _Entries, vae: _Entries | None) -> int:
    unet.whole("sample_size", 1, MOST_SIDE, default=64)
    channels = unet.whole("in_channels", 1, 256, default=4)
    if vae is None or vae.values.get("latent_channels", 4) != channels:
        _require_plain_input(unet.file, channels)
    outputs = unet.whole("out_channels", 1, 256, default=4)
    if outputs != channels:
        raise ApdmError(
            f"{unet.file}: it takes {channels} channels and gives {outputs}: not supported", HINT
        )
    return channels


def _require_plain_input(where: Path, channels: int) -> None:
    if channels in OTHER_INPUTS:
        raise ApdmError(
            f"{where} belongs to {OTHER_INPUTS[channels]}: not supported",
            "Take the model for text-to-image that it was made from.",
        )


def _check_vae(vae: _Entries) -> None:
    vae.real("scaling_factor", default=0.18215)
    shift = vae.values.get("shift_factor")
    if shift not in (None, 0, 0.0) or isinstance(shift, bool):
        raise vae.wrong("shift_factor", "null, as for every Stable Diffusion 1.x and 2.x")
    for key in ("in_channels", "out_channels"):
        if vae.whole(key, 1, 64, default=3) != 3:
            raise vae.wrong(key, "3, for red, green and blue")


def _check_scheduler(scheduler: _Entries) -> None:
    kind = str(scheduler.values.get("_class_name", ""))
    if kind.startswith(OTHER_PROCESSES):
        raise ApdmError(
            f"{scheduler.file}: a U-Net that was trained for {kind} is not supported",
            "Supported are models whose noise follows betas, as every Stable Diffusion's.",
        )
    steps = scheduler.whole("num_train_timesteps", 2, MOST_TIMESTEPS, default=1000)
    given = scheduler.values.get("trained_betas")
    if given is not None:
        betas = given if isinstance(given, list) else []
        numbers = [beta for beta in betas if isinstance(beta, float) and 0 < beta < 1]
        if len(numbers) != steps or len(betas) != steps:
            raise scheduler.wrong("trained_betas", f"null or {steps} numbers between 0 and 1")
        return
    start = scheduler.real("beta_start", default=0.0001)
    end = scheduler.real("beta_end", default=0.02)
    if not start <= end < 1:
        raise scheduler.wrong("beta_end", "at least beta_start, and below 1")
    if scheduler.values.get("beta_schedule", "linear") not in BETA_SCHEDULES:
        raise scheduler.wrong("beta_schedule", f"one of {', '.join(BETA_SCHEDULES)}")
    zero = scheduler.values.get("rescale_betas_zero_snr", False)
    if not isinstance(zero, bool):
        raise scheduler.wrong("rescale_betas_zero_snr", "true or false")
    if zero and scheduler.values.get("prediction_type", "epsilon") == "epsilon":
        raise ApdmError(
            f"{scheduler.file}: noise prediction with a zero terminal signal-to-noise ratio is "
            "impossible (at the last timestep there is only noise)",
            "Its prediction_type should be v_prediction or sample.",
        )


def _check_same(
    unet: _Entries, mine: int, others: Sequence[_Entries], key: str, default: int
) -> None:
    """What the others have side by side should be `mine`."""
    theirs = [other.whole(key, 1, 100_000, default=default) for other in others]
    if sum(theirs) != mine:
        files = " and ".join(str(other.file) for other in others)
        shown = " + ".join(str(number) for number in theirs)
        raise ApdmError(
            f"{unet.file} does not fit {files}: {mine} there, {key} {shown} here",
            "The folders come from different models. " + HINT,
        )
