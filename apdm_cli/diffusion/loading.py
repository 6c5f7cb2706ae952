"""From a path, a single file or a hub id to a `DiffusionModel`, and back to a folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline

from apdm_cli.diffusion.denoiser import PREDICTION_TYPES
from apdm_cli.diffusion.model import DiffusionModel, ModelRef
from apdm_cli.diffusion.pipeline_folder import (
    FOLDER_HINT,
    PARTS,
    QuietLibraries,
    first_sentence,
    load_folder,
    load_unet,
)
from apdm_cli.diffusion.single_file import load_single_file
from apdm_cli.errors import ApdmError, UsageError
from apdm_cli.runs.manifest import read_json, write_json_atomic

POCKET = "pocket"
BASE = "base.json"  # beside a U-Net that was saved alone: what it belongs to
WANTED_FILES = ["*.json", "*.txt", "*.safetensors"]
# Other precisions and whole-checkpoint copies would double the download.
UNWANTED_FILES = ["*.fp16.*", "*.non_ema.*", "v1-*.safetensors", "v2-*.safetensors", "safety_*"]


def pocket_folder() -> Path:
    """The embedded model's folder; raises ApdmError when the package was built without it."""
    folder = Path(__file__).parents[1] / "pocket" / "weights" / "pipeline"
    if not (folder / "model_index.json").is_file():
        raise ApdmError(
            "The embedded pocket model is missing from this installation",
            "Reinstall apdm, or make it in a checkout: python -m pocket_training.train",
        )
    return folder


def load_model(
    source: str,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
) -> DiffusionModel:
    """Load a Stable Diffusion pipeline.

    Args:
        source: "pocket", a diffusers folder, a folder that `save_pipeline` wrote with `unet_only`,
            a single `.safetensors` checkpoint, or a hub id.
        device, dtype: where and in which precision to compute. The U-Net is always held in
            float32 because it is trained; autocast lowers it while computing.
        revision: hub revision; for a hub id only.

    Raises:
        ApdmError: nothing there, no network for a hub id, a part is missing, tensors of wrong
            shapes, or an architecture that is not supported yet (SDXL, SD3, FLUX, ...).
    """
    pipeline, digest = _open(source, revision)
    pipeline.set_progress_bar_config(disable=True)
    with QuietLibraries():
        pipeline.to(device)
        pipeline.unet.to(torch.float32)
        for part in (pipeline.vae, pipeline.text_encoder):
            part.to(dtype).requires_grad_(False)
    schedule = DDPMScheduler.from_config(pipeline.scheduler.config)
    if schedule.config.prediction_type not in PREDICTION_TYPES:
        raise ApdmError(
            f"{source}: its scheduler has prediction_type {schedule.config.prediction_type!r}, "
            "which is not supported",
            f"Supported are {', '.join(PREDICTION_TYPES)}.",
        )
    return DiffusionModel(pipeline, schedule, ModelRef(source, revision, digest), device, dtype)


def save_pipeline(model: DiffusionModel, folder: Path, *, unet_only: bool = False) -> None:
    """Write `model` as a diffusers folder of safetensors that plain diffusers opens.

    With `unet_only` just the U-Net is written, with `base.json` naming the model it belongs to.
    """
    with QuietLibraries():
        if unet_only:
            model.pipeline.unet.save_pretrained(folder / "unet")
            write_json_atomic(folder / BASE, vars(model.ref))
            return
        # Sampling may have put another sampler in place; the folder gets the training schedule.
        model.pipeline.register_modules(scheduler=model.schedule)
        model.pipeline.save_pretrained(folder, safe_serialization=True)


def folder_digest(folder: Path) -> str:
    """SHA-256 over the weight and configuration files of a pipeline folder, in sorted order."""
    files = sorted(p for p in folder.rglob("*") if p.suffix in {".safetensors", ".json"})
    return file_digest(files)


def file_digest(files: list[Path]) -> str:
    """SHA-256 over the SHA-256 digests of `files` (names do not enter)."""
    whole = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            whole.update(hashlib.file_digest(stream, "sha256").digest())
    return whole.hexdigest()


def _open(source: str, revision: str | None) -> tuple[StableDiffusionPipeline, str]:
    """The pipeline on the CPU, and its digest."""
    path = pocket_folder() if source == POCKET else Path(source).expanduser()
    if revision is not None and path.exists():
        raise UsageError(f"--revision {revision}: {source} is no hub id", "Leave it out.")
    if path.is_file():
        return load_single_file(path), file_digest([path])
    folder = path if path.is_dir() else _download(source, revision)
    if (folder / BASE).is_file():
        return _open_with_base(folder), folder_digest(folder)
    return load_folder(folder), folder_digest(folder)


def _open_with_base(folder: Path) -> StableDiffusionPipeline:
    base = read_json(folder / BASE)
    try:
        source, revision, digest = base["source"], base["revision"], base["digest"]
    except KeyError as error:
        raise ApdmError(f"{folder / BASE} lacks {error}", FOLDER_HINT) from error
    pipeline, found = _open(source, revision)
    if found != digest:
        raise ApdmError(
            f"{folder} holds a U-Net of {source}, which has changed since",
            f"Its digest was {digest[:12]}... and is now {found[:12]}...: bring the old one back.",
        )
    pipeline.register_modules(unet=load_unet(folder))
    return pipeline


def _download(source: str, revision: str | None) -> Path:
    """Folder of a hub model, from the cache or the hub. HF_HUB_OFFLINE is respected."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise ApdmError(f"There is no model at {source}", FOLDER_HINT)
    try:
        return Path(
            snapshot_download(
                source,
                revision=revision,
                allow_patterns=WANTED_FILES,
                ignore_patterns=UNWANTED_FILES,
            )
        )
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        needed = ", ".join(f"{part}/" for part in PARTS)
        raise ApdmError(
            f"{source} is no folder here and not in the hub cache, and the hub was not reached "
            f"({first_sentence(error)})",
            f"Needed are model_index.json, {needed}: put them into a folder and point --model "
            "at it.",
        ) from error
