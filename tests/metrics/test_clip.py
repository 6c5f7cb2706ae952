"""clip-t and clip-i against open_clip's documented usage, on a random-weight small model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.extension.metric import MetricUnavailable, Pictures
from apdm_metrics import clip
from apdm_metrics.clip import ClipImage, ClipText
from tests.metrics.material import pictures

CPU = torch.device("cpu")
CONFIG = {
    "model_cfg": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 8,
                       "head_width": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2,
                     "layers": 1},
    },
    "preprocess_cfg": {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]},
}  # fmt: skip


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import open_clip

    folder = tmp_path_factory.mktemp("clip")
    (folder / "open_clip_config.json").write_text(json.dumps(CONFIG))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file(
        {name: t.contiguous() for name, t in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    return folder


def documented(folder: Path, images: torch.Tensor, texts: list[str]) -> tuple[Any, Any]:
    """The lines of open_clip's README."""
    import open_clip

    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    model.eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    image = torch.stack([preprocess(Image.fromarray(one.numpy())) for one in images])
    with torch.no_grad():
        image_features = model.encode_image(image)
        text_features = model.encode_text(tokenizer(texts))
        image_features /= image_features.norm(dim=-1, keepdim=True)
        text_features /= text_features.norm(dim=-1, keepdim=True)
    return image_features, text_features


def prepared(metric: Any, model: DiffusionModel, folder: Path) -> Any:
    metric.weights = {"clip": str(folder)}
    metric.prepare(model, CPU)
    return metric


def test_clip_t_is_the_cosine_with_each_pictures_own_prompt(
    tiny_model: DiffusionModel, small: Path
) -> None:
    images = pictures(3, 48)
    prompts = ["a photo of a dog", "a red hat", "a photo of a dog"]
    score = prepared(ClipText(), tiny_model, small).score(Pictures(images, prompts=prompts))
    a, b = documented(small, images, prompts)
    assert score.per_picture == pytest.approx((a * b).sum(-1).tolist(), abs=1e-5)
    assert score.value == pytest.approx(float((a * b).sum(-1).mean()), abs=1e-5)


def test_clip_i_is_the_mean_over_all_pairs(tiny_model: DiffusionModel, small: Path) -> None:
    images, photos = pictures(4, 48), pictures(2, 40, seed=1)
    score = prepared(ClipImage(), tiny_model, small).score(Pictures(images, photos=photos))
    a, _ = documented(small, images, ["x"])
    b, _ = documented(small, photos, ["x"])
    assert score.value == pytest.approx(float((b @ a.T).mean()), abs=1e-5)
    assert score.n == 4


def test_batch_size_and_skipped_pictures(
    tiny_model: DiffusionModel, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metric = prepared(ClipText(), tiny_model, small)
    images, prompts = pictures(5, 48), [f"picture {i}" for i in range(5)]
    score = metric.score(Pictures(images, prompts=prompts))
    monkeypatch.setattr(clip, "BATCH", 2)
    assert metric.score(Pictures(images, prompts=prompts)).value == pytest.approx(
        score.value, abs=1e-6
    )
    images[1] = 0
    fewer = metric.score(Pictures(images, prompts=prompts))
    assert (fewer.n, fewer.skipped) == (4, 1)
    kept = [value for i, value in enumerate(score.per_picture) if i != 1]
    assert fewer.per_picture == pytest.approx(kept, abs=1e-6)


def test_the_digest_names_the_weights_and_not_their_place(
    tiny_model: DiffusionModel, small: Path
) -> None:
    backend = prepared(ClipText(), tiny_model, small).clip.backend
    assert str(small) not in backend.name
    assert len(backend.digest) == 64


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-L-14:openai", "HF_HUB_OFFLINE is set"),
        ("ViT-X-99:openai", "no architecture 'ViT-X-99'"),
        ("ViT-B-32:nowhere.pt", "neither a file nor a tag"),
    ],
)
def test_what_is_not_here_says_so(
    name: str, message: str, tiny_model: DiffusionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    metric = ClipText()
    metric.weights = {"clip": name}
    monkeypatch.setattr(clip, "_is_here", lambda *_: False)
    with pytest.raises(MetricUnavailable, match=message):
        metric.prepare(tiny_model, CPU)


def test_the_pocket_model_has_no_clip(
    tiny_model: DiffusionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clip, "is_pocket", lambda model: True)
    with pytest.raises(MetricUnavailable, match="the pocket model's own towers are no CLIP"):
        ClipText().prepare(tiny_model, CPU)
