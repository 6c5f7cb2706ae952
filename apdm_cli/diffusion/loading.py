"""From a path, a single file or a hub id to a `DiffusionModel`, and back to a folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from diffusers.utils import logging as diffusers_logging

from apdm_cli.diffusion.model import DiffusionModel, ModelRef
from apdm_cli.errors import ApdmError

POCKET = "pocket"
SUPPORTED_PIPELINES = {"StableDiffusionPipeline"}
WANTED_FILES = ["*.json", "*.txt", "*.safetensors"]
# Other precisions and whole-checkpoint copies would double the download.
UNWANTED_FILES = ["*.fp16.*", "*.non_ema.*", "v1-*.safetensors", "v2-*.safetensors"]
FOLDER_HINT = "point --model at a diffusers folder, for example one written by save_pretrained"


def pocket_folder() -> Path:
    """The embedded model's folder; raises ApdmError when the package was built without it."""
    folder = Path(__file__).parents[1] / "pocket" / "weights" / "pipeline"
    if not (folder / "model_index.json").is_file():
        raise ApdmError(
            "the embedded pocket model is missing from this installation",
            "reinstall apdm, or make it with: python -m apdm_cli.pocket.train",
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
        source: "pocket", a diffusers folder, a single `.safetensors` checkpoint, or a hub id.
        device, dtype: where and in which precision to compute. The U-Net is always held in
            float32 because it is trained; autocast lowers it while computing.
        revision: hub revision; only meaningful for a hub id.

    Raises:
        ApdmError: nothing there, no network for a hub id, a part is missing, tensors of wrong
            shapes, or an architecture that is not supported yet (SDXL, SD3, FLUX, ...).
    """
    path = pocket_folder() if source == POCKET else Path(source).expanduser()
    if path.is_file():
        pipeline, digest = _from_single_file(path), file_digest([path])
    else:
        folder = path if path.is_dir() else _download(source, revision)
        _check_architecture(folder)
        pipeline, digest = _from_folder(folder), folder_digest(folder)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(device)
    pipeline.unet.to(torch.float32)
    for part in (pipeline.vae, pipeline.text_encoder):
        part.to(dtype).requires_grad_(False)
    schedule = DDPMScheduler.from_config(pipeline.scheduler.config)
    return DiffusionModel(pipeline, schedule, ModelRef(source, revision, digest), device, dtype)


def save_pipeline(model: DiffusionModel, folder: Path, *, unet_only: bool = False) -> None:
    """Write `model` as a diffusers folder of safetensors that plain diffusers opens.

    With `unet_only` just the U-Net is written, with `base.json` naming the model it belongs to.
    """
    if unet_only:
        model.pipeline.unet.save_pretrained(folder / "unet")
        base = {"source": model.ref.source, "digest": model.ref.digest}
        (folder / "base.json").write_text(json.dumps(base, indent=2) + "\n")
        return
    # Sampling may have put another sampler in place; the folder keeps the training schedule's.
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


def _check_architecture(folder: Path) -> None:
    index = folder / "model_index.json"
    if not index.is_file():
        raise ApdmError(f"{folder} is not a diffusers folder: it has no model_index.json",
                        FOLDER_HINT)
    try:
        declared = json.loads(index.read_text())
    except ValueError as error:
        raise ApdmError(f"{index} is not valid JSON: {error}", FOLDER_HINT) from error
    name = declared.get("_class_name", "unknown")
    if name not in SUPPORTED_PIPELINES:
        raise ApdmError(
            f"{folder} holds a {name}: not supported yet",
            "supported are Stable Diffusion 1.x and 2.x (StableDiffusionPipeline)",
        )
    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        if not (folder / part).is_dir():
            raise ApdmError(f"{folder} lacks its part {part!r}", FOLDER_HINT)


def _from_folder(folder: Path) -> StableDiffusionPipeline:
    with _QuietDiffusers():
        try:
            return StableDiffusionPipeline.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
                dtype=torch.float32,
            )
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
            raise ApdmError(f"{folder} cannot be loaded: {_first_line(error)}",
                            FOLDER_HINT) from error


def _from_single_file(path: Path) -> StableDiffusionPipeline:
    if path.suffix != ".safetensors":
        raise ApdmError(
            f"{path} is not a .safetensors file",
            "pickled checkpoints can run code when opened: convert them to safetensors first",
        )
    with _QuietDiffusers():
        try:
            return StableDiffusionPipeline.from_single_file(
                str(path), local_files_only=True, safety_checker=None, dtype=torch.float32
            )
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
            raise ApdmError(
                f"{path} cannot be loaded: {_first_line(error)}",
                "a single file needs its configuration and tokenizer in the hub cache; "
                + FOLDER_HINT,
            ) from error


def _download(source: str, revision: str | None) -> Path:
    """Folder of a hub model, from the cache or the hub. HF_HUB_OFFLINE is respected."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise ApdmError(f"there is no model at {source}", FOLDER_HINT)
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
        raise ApdmError(
            f"{source} is neither a folder here nor in the hub cache, and the hub was not "
            f"reached ({_first_line(error)})",
            "needed are model_index.json, unet/, vae/, text_encoder/, tokenizer/, scheduler/; "
            "put them into a folder and point --model at it",
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


class _QuietDiffusers:
    """Silence diffusers' and transformers' loading bars and hints for the duration of a load."""

    def __enter__(self) -> None:
        from transformers.utils import logging as transformers_logging

        self._verbosity = diffusers_logging.get_verbosity()
        diffusers_logging.set_verbosity_error()
        diffusers_logging.disable_progress_bar()
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()

    def __exit__(self, *exc: object) -> None:
        diffusers_logging.set_verbosity(self._verbosity)
