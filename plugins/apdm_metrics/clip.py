"""What CLIP says: whether a picture shows its prompt, and how close it is to the photos."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apdm_cli.evaluation.profiles import is_pocket
from apdm_cli.extension.metric import Backend, Metric, MetricUnavailable, Pictures, Score
from apdm_metrics.lookup import first_line, network
from apdm_metrics.scores import mean_score, nothing_to_score, photos_score, usable

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor

    from apdm_cli.diffusion.model import DiffusionModel

KEY = "clip"
HOST = "huggingface.co"
DEFAULT = "ViT-L-14:openai"
BATCH = 16


class ClipMetric(Metric):
    """A metric in the space that pictures and texts share.

    `--weights clip=ARCHITECTURE:TAG` takes any pair of open_clip, `clip=ARCHITECTURE:FILE` a local
    checkpoint, `clip=FOLDER` a folder with open_clip_config.json.
    """

    reads = (KEY,)
    clip: Clip

    def prepare(self, model: DiffusionModel, device: torch.device) -> None:
        if KEY not in self.weights and is_pocket(model):
            raise MetricUnavailable(
                "CLIP judges photographs, and the pocket model's own towers are no CLIP; "
                "insist with --weights clip=ViT-L-14:openai"
            )
        self.clip = load_clip(self.weights.get(KEY, DEFAULT), device)


class ClipText(ClipMetric):
    """Mean CLIP cosine of picture and prompt, the identifier left out."""

    name = "clip-t"
    title = "Agreement with the prompt"
    explanation = "Cosine between CLIP's features of a prompt and its picture."
    kind = "quality"
    better = "higher"
    better_for_others = "higher"
    needs = frozenset({"prompts"})

    def score(self, pictures: Pictures) -> Score:
        from apdm_cli.evaluation.similarity import paired_cosines

        kept = usable(pictures.images)
        skipped = int((~kept).sum())
        if not kept.any():
            return nothing_to_score(self, self.clip.backend, skipped)
        prompts = [text for text, one in zip(pictures.prompts, kept, strict=True) if one]
        values = paired_cosines(
            self.clip.images(pictures.images[kept]), self.clip.texts(prompts)
        ).cpu()
        return mean_score(self, values, skipped, self.clip.backend)


class ClipImage(ClipMetric):
    """Mean CLIP cosine over all photo x picture pairs (lower protects better)."""

    name = "clip-i"
    title = "Similarity to the photos"
    explanation = (
        "Cosine between CLIP's features of every photo and every picture. Lower protects better."
    )
    kind = "similarity"
    better = "lower"
    better_for_others = "higher"
    leads = True
    needs = frozenset({"photos"})

    def score(self, pictures: Pictures) -> Score:
        return photos_score(self, pictures, self.clip.images, self.clip.backend)


@dataclass(frozen=True)
class Clip:
    """open_clip's model, tokenizer and preprocessing, used as its README does."""

    backend: Backend
    network: Any
    tokenizer: Any
    preprocess: Any
    device: torch.device

    def images(self, pictures: Tensor) -> Tensor:
        """Normalized embeddings (N, D), float32, of uint8 (N, H, W, 3)."""
        import numpy as np
        import torch
        from PIL import Image

        found = []
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            for part in pictures.split(BATCH):
                ready = [self.preprocess(Image.fromarray(np.asarray(one))) for one in part.cpu()]
                batch = torch.stack(ready).to(self.device)
                found.append(self.network.encode_image(batch, normalize=True).float())
        return torch.cat(found)

    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Normalized embeddings (N, D), float32."""
        import torch

        different = list(dict.fromkeys(prompts))
        with torch.no_grad():
            tokens = self.tokenizer(different).to(self.device)
            found = self.network.encode_text(tokens, normalize=True).float()
        return found[[different.index(prompt) for prompt in prompts]]


@lru_cache(maxsize=1)
def load_clip(name: str, device: torch.device) -> Clip:
    """A model by "architecture:tag", "architecture:file" or folder; MetricUnavailable without."""
    import open_clip

    architecture, pretrained = _resolve(name)
    try:
        with network("" if _is_here(architecture, pretrained) else HOST):
            model, _, preprocess = open_clip.create_model_and_transforms(
                architecture, pretrained=pretrained
            )
            tokenizer = open_clip.get_tokenizer(architecture)
    except Exception as error:
        raise MetricUnavailable(
            f"CLIP {name} is neither here nor could it be fetched ({first_line(error)}); give a "
            "checkpoint with --weights clip=ARCHITECTURE:FILE"
        ) from error
    model = model.eval().requires_grad_(False)
    # Where it lies is no part of a backend's name: two machines' scores shall compare.
    shown = name if pretrained and not Path(pretrained).is_file() else architecture.split("/")[-1]
    backend = Backend(f"open_clip/{shown}", _digest(model))
    return Clip(backend, model.to(device), tokenizer, preprocess, device)


def _resolve(name: str) -> tuple[str, str | None]:
    """open_clip's architecture and `pretrained` for what --weights clip= says."""
    import open_clip

    folder = Path(name).expanduser()
    if (folder / "open_clip_config.json").is_file():
        return f"local-dir:{folder}", None
    architecture, _, tag = name.partition(":")
    if architecture not in open_clip.list_models():
        raise MetricUnavailable(
            f"--weights clip={name}: open_clip has no architecture {architecture!r}"
        )
    file = Path(tag).expanduser()
    if not file.is_file() and not open_clip.get_pretrained_cfg(architecture, tag):
        raise MetricUnavailable(
            f"--weights clip={name}: {tag!r} is neither a file nor a tag of {architecture}"
        )
    return architecture, str(file) if file.is_file() else tag


def _is_here(architecture: str, pretrained: str | None) -> bool:
    import open_clip
    from huggingface_hub import try_to_load_from_cache

    if pretrained is None or Path(pretrained).is_file():
        return True
    repository = open_clip.get_pretrained_cfg(architecture, pretrained).get("hf_hub", "")
    names = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    return any(
        isinstance(try_to_load_from_cache(repository.strip("/"), file), str)
        for file in names
        if repository
    )


def _digest(network: torch.nn.Module) -> str:
    """SHA-256 over the tensors: open_clip does not say from which file they came."""
    import hashlib

    whole = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        whole.update(name.encode())
        whole.update(tensor.contiguous().numpy().tobytes())
    return whole.hexdigest()
