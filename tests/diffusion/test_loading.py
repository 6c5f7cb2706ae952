"""Pipelines from folders, single files and ids, whole and broken."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file

from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.process import Diffusion
from apdm_cli.diffusion.sampling import SamplerSettings, sample
from apdm_cli.diffusion.saving import save_pipeline
from apdm_cli.digests import folder_digest
from apdm_cli.errors import ApdmError, UsageError
from apdm_cli.extension.family import load_model, trained_again
from tests.diffusion.changes import (
    cut_off,
    drop_tensor,
    overwrite,
    remove,
    reshape_tensor,
    set_entry,
)
from tests.tiny import make_tiny_pipeline

CPU = torch.device("cpu")
UNET = "unet/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny pipeline that tests only look at."""
    folder = tmp_path_factory.mktemp("whole")
    return make_tiny_pipeline(folder, channels=(16, 32), text_layers=1)


@pytest.fixture
def broken(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(whole, tmp_path / "model"))


def load(folder: Path) -> DiffusionModel:
    return load_model(str(folder), CPU)


def alphas_cumprod(model: DiffusionModel) -> torch.Tensor:
    assert isinstance(model.process, Diffusion)
    return model.process.alphas_cumprod


def equal(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def test_what_a_loaded_model_is(whole: Path) -> None:
    model = load_model(str(whole), CPU, torch.bfloat16)
    assert model.resolution == 32 and model.latent_shape == (4, 8, 8)
    assert {weight.dtype for weight in model.trained.parameters()} == {torch.float32}
    frozen = [*model.pipeline.vae.parameters(), *model.pipeline.text_encoder.parameters()]
    assert {weight.dtype for weight in frozen} == {torch.bfloat16}
    assert not any(weight.requires_grad for weight in frozen)
    assert len(alphas_cumprod(model)) == 1000
    assert model.ref.source == str(whole) and model.ref.digest == folder_digest(whole)


def test_digest_sees_every_weight_and_not_the_place(broken: Path, whole: Path) -> None:
    assert folder_digest(broken) == folder_digest(whole)
    tensors = load_file(broken / VAE)
    first = next(iter(tensors))
    tensors[first] = tensors[first] + 1e-3
    save_file(tensors, broken / VAE, metadata={"format": "pt"})
    assert folder_digest(broken) != folder_digest(whole)


def test_saved_pipeline_loads_the_same_and_keeps_the_schedule(whole: Path, tmp_path: Path) -> None:
    model = load(whole)
    with torch.no_grad():
        next(model.trained.parameters()).add_(1.0)
    list(sample(model, ["a photo of sks person"], [0], SamplerSettings(steps=2)))
    save_pipeline(model, tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert equal(model.trained, again.trained)
    assert torch.equal(alphas_cumprod(model), alphas_cumprod(again))
    assert again.ref.digest != model.ref.digest


def test_weights_that_are_read_once_more_are_those_that_were_loaded(broken: Path) -> None:
    model = load(broken)
    assert equal(trained_again(model, None), model.trained)
    for file in (broken / "unet").glob("*.safetensors"):
        tensors = load_file(file)
        zeros = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
        save_file(zeros, file, metadata={"format": "pt"})
    with pytest.raises(ApdmError, match="has changed since it was loaded"):
        trained_again(model, None)


def test_unet_alone_loads_with_its_base_and_only_with_it(broken: Path, tmp_path: Path) -> None:
    model = load(broken)
    with torch.no_grad():
        next(model.trained.parameters()).add_(1.0)
    save_pipeline(model, tmp_path / "small", trained_only=True)
    again = load(tmp_path / "small")
    assert equal(model.trained, again.trained) and equal(model.pipeline.vae, again.pipeline.vae)
    assert again.ref.digest != model.ref.digest
    (broken / "tokenizer" / "extra.json").write_text("{}")
    with pytest.raises(ApdmError, match="has changed since"):
        load(tmp_path / "small")


def pickle_only(folder: Path) -> None:
    (folder / UNET).rename(folder / "unet" / "diffusion_pytorch_model.bin")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        *[(drop_tensor(file), "lacks tensors") for file in (UNET, TEXT, VAE)],
        *[(reshape_tensor(file), "shape") for file in (UNET, TEXT, VAE)],
        *[(cut_off(file), "cannot be loaded") for file in (UNET, TEXT, VAE)],
        *[(remove(file), file.split("/")[0]) for file in (UNET, TEXT, VAE)],
        *[
            (remove(part), f"lacks its part {part}")
            for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
        ],
        (remove("model_index.json"), "no model_index.json"),
        (remove("unet/config.json"), "unet cannot be loaded"),
        (remove("tokenizer/tokenizer.json"), "cannot be loaded"),
        (overwrite("model_index.json"), "broken"),
        (overwrite("model_index.json", "[]"), "broken"),
        (overwrite("unet/config.json"), "unet cannot be loaded"),
        (overwrite("scheduler/scheduler_config.json"), "cannot be loaded"),
        (overwrite("tokenizer/tokenizer.json"), "cannot be loaded"),
        (pickle_only, "only pickled weights"),
        (set_entry("scheduler/scheduler_config.json", "prediction_type", "flow"), "'flow'"),
        (
            set_entry("model_index.json", "_class_name", "StableDiffusionXLPipeline"),
            "lacks its part text_encoder_2, tokenizer_2",
        ),
        (
            set_entry("model_index.json", "_class_name", "StableDiffusion3InpaintPipeline"),
            "Stable Diffusion 3 .*not supported yet",
        ),
        (
            set_entry("model_index.json", "_class_name", "FluxFillPipeline"),
            "FLUX .*not supported yet",
        ),
        (
            set_entry("model_index.json", "_class_name", "FluxPipeline"),
            "lacks its part transformer",
        ),
        (set_entry("model_index.json", "_class_name", "KandinskyPipeline"), "KandinskyPipeline"),
    ],
)
def test_broken_folders_are_refused_by_name(
    broken: Path,
    change: Callable[[Path], None],
    words: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    change(broken)
    with pytest.raises(ApdmError, match=words) as caught:
        load(broken)
    assert str(broken) in caught.value.what
    assert caught.value.hint
    assert len(caught.value.what) < 400
    assert capfd.readouterr() == ("", "")  # the libraries' own reports stay away


def test_old_names_of_the_autoencoder_are_understood(broken: Path) -> None:
    """Stable Diffusion 1.5's own file has them."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {}
    for name, tensor in load_file(broken / VAE).items():
        for new, before in old.items():
            name = name.replace(f".{new}.", f".{before}.")
        tensors[name] = tensor
    assert any(".query." in name for name in tensors)
    expected = load(broken).pipeline.vae
    save_file(tensors, broken / VAE, metadata={"format": "pt"})
    assert equal(load(broken).pipeline.vae, expected)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(ApdmError, match="There is no model at"):
        load(tmp_path / "missing")


def test_hub_id_without_a_network_says_what_is_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ApdmError, match="someone/some-model") as caught:
        load_model("someone/some-model", CPU)
    for part in ("model_index.json", "unet/", "tokenizer/", "--model"):
        assert part in caught.value.hint


@pytest.mark.parametrize(
    ("error", "words", "hint"),
    [
        (GatedRepoError, "who has accepted its license", "https://huggingface.co/some/model"),
        (RepositoryNotFoundError, "The hub has no some/model of revision v1", "hf auth login"),
        (RevisionNotFoundError, "The hub has no some/model of revision v1", "Check the name"),
    ],
)
def test_what_the_hub_refuses_is_said(
    error: type[HfHubHTTPError], words: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not that it was not reached."""

    def refused(*_: Any, **__: Any) -> str:
        response: Any = SimpleNamespace(headers={}, request=None)
        raise error("Access denied.", response=response)

    monkeypatch.setattr("huggingface_hub.snapshot_download", refused)
    with pytest.raises(ApdmError, match=words) as caught:
        load_model("some/model", CPU, revision="v1")
    assert hint in caught.value.hint and "not reached" not in str(caught.value)


@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_halves_are_fetched_from_the_hub_where_there_is_nothing_else(
    variant: str, broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And left there where they are a second copy."""
    for file in broken.glob("*/*.safetensors"):
        half = file.with_suffix(".fp16.safetensors")
        save_file(
            {name: tensor.half() for name, tensor in load_file(file).items()},
            half,
            metadata={"format": "pt"},
        )
        if variant:
            file.unlink()

    def snapshot(name: str, **options: Any) -> str:
        assert name == "someone/model" and options["revision"] == "v2"
        files = [file.relative_to(broken).as_posix() for file in broken.rglob("*.*")]
        patterns = {key: options[f"{key}_patterns"] for key in ("allow", "ignore")}
        for file in filter_repo_objects(
            files, allow_patterns=patterns["allow"], ignore_patterns=patterns["ignore"]
        ):
            target = tmp_path / "cache" / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(broken / file, target)
        return str(tmp_path / "cache")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    model = load_model("someone/model", CPU, revision="v2")
    assert equal(model.trained, load(broken).trained)
    fetched = {file.name for file in (tmp_path / "cache").rglob("*.safetensors")}
    assert {".fp16." in name for name in fetched} == {bool(variant)}


def test_revision_belongs_to_a_hub_id(whole: Path) -> None:
    with pytest.raises(UsageError, match="--revision"):
        load_model(str(whole), CPU, revision="main")


def test_of_a_hub_model_every_weight_is_downloaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.utils import filter_repo_objects

    asked: dict[str, Any] = {}

    def download(source: str, **options: Any) -> str:
        asked.update({name: options[name] for name in ("allow_patterns", "ignore_patterns")})
        raise OSError("not here")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(ApdmError, match="the hub was not reached"):
        load_model("someone/some-model", CPU)
    wanted = [
        "model_index.json",
        "text_encoder_3/model-00001-of-00002.safetensors",
        "text_encoder_3/model.safetensors.index.json",
        "tokenizer/chat_template.jinja",
        "tokenizer/merges.txt",
        "transformer/diffusion_pytorch_model.safetensors",
    ]
    again = [
        "flux1-dev.safetensors",
        "ae.safetensors",
        "text_encoder_3/model.fp16-00001-of-00002.safetensors",
        "text_encoders/t5xxl_fp16.safetensors",
        "transformer/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors",
    ]
    assert list(filter_repo_objects(wanted + again, **asked)) == wanted
