"""Whole checkpoints in one file, in the layout of the original Stable Diffusion releases."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from apdm_cli.errors import ApdmError
from apdm_cli.extension.family import load_model
from apdm_families.configurations import (
    STABLE_DIFFUSION_1,
    stable_diffusion_2_1,
    write_clip_vocabulary,
    write_configuration,
)
from tests.diffusion.original_layout import original_layout
from tests.tiny import make_tiny_pipeline

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("whole") / "model"
    return make_tiny_pipeline(target, channels=(16, 32), text_layers=1)


def single_file(folder: Path, target: Path, *, configuration: bool = True) -> Path:
    """`folder` as one file at `target`, its configuration without weights beside it."""
    save_file(original_layout(load_model(str(folder), CPU).pipeline), target)
    if configuration:
        ignored = shutil.ignore_patterns("*.safetensors")
        shutil.copytree(folder, target.with_suffix(""), ignore=ignored)
    return target


def test_single_file_is_the_same_model(folder: Path, tmp_path: Path) -> None:
    expected = load_model(str(folder), CPU)
    found = load_model(str(single_file(folder, tmp_path / "one.safetensors")), CPU)
    for part in ("unet", "vae", "text_encoder"):
        one = getattr(expected.pipeline, part).state_dict()
        other = getattr(found.pipeline, part).state_dict()
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one), part
    prompt = ["a photo of sks dog"]
    one, other = expected.encode_text(prompt)["text"], found.encode_text(prompt)["text"]
    assert torch.equal(one, other)
    assert found.ref.source.endswith("one.safetensors")


def test_the_names_that_merges_write_are_the_same_text_encoder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the level `text_model`, which other tools leave out."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    file = single_file(folder, tmp_path / "merged.safetensors")
    level = "cond_stage_model.transformer.text_model."
    tensors = load_file(file)
    assert any(name.startswith(level) for name in tensors)
    save_file({name.replace(level, level[:-11]): tensors[name] for name in tensors}, file)
    content = file.read_bytes()
    expected = load_model(str(folder), CPU).pipeline.text_encoder.state_dict()

    found = load_model(str(file), CPU).pipeline.text_encoder.state_dict()

    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert file.read_bytes() == content, "the file itself is only read"
    assert not any((tmp_path / "temporary").iterdir()), "its copy is gone"


@pytest.mark.parametrize(
    "tensor",
    [
        "model.diffusion_model.out.2.weight",
        "first_stage_model.decoder.conv_in.weight",
        "cond_stage_model.transformer.text_model.final_layer_norm.weight",
    ],
)
def test_lacking_tensors_are_an_error(folder: Path, tmp_path: Path, tensor: str) -> None:
    file = single_file(folder, tmp_path / "one.safetensors")
    tensors = original_layout(load_model(str(folder), CPU).pipeline)
    del tensors[tensor]
    save_file(tensors, file)
    with pytest.raises(ApdmError, match="lacks tensors"):
        load_model(str(file), CPU)


def test_without_a_configuration_it_is_taken_as_stable_diffusion_1(
    folder: Path, tmp_path: Path
) -> None:
    # These weights are far too small for it, which the message says.
    file = single_file(folder, tmp_path / "one.safetensors", configuration=False)
    with pytest.raises(ApdmError, match="shape"):
        load_model(str(file), CPU)


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        ("conditioner.embedders.0.transformer.x", "lacks its U-Net"),
        ("model.diffusion_model.joint_blocks.0.x", "Stable Diffusion 3: not supported yet"),
        ("double_blocks.0.img_attn.x", "FLUX: not supported yet"),
        ("lora_unet_down_blocks_0.x", "a LoRA"),
        ("something.else", "no checkpoint in the original"),
        ("cond_stage_model.model.transformer.x", "noise or velocity"),
    ],
)
def test_other_architectures_are_refused_by_name(tmp_path: Path, tensor: str, words: str) -> None:
    file = tmp_path / "one.safetensors"
    save_file({tensor: torch.zeros(1)}, file)
    with pytest.raises(ApdmError, match=words):
        load_model(str(file), CPU)


@pytest.mark.parametrize(
    ("name", "words"), [("one.ckpt", "not a .safetensors"), ("one.safetensors", "cannot be read")]
)
def test_other_files_are_refused(tmp_path: Path, name: str, words: str) -> None:
    file = tmp_path / name
    file.write_bytes(b"\x80\x04 no tensors at all")
    with pytest.raises(ApdmError, match=words):
        load_model(str(file), CPU)


def test_clip_vocabulary_is_clips(tmp_path: Path) -> None:
    import open_clip
    from transformers import CLIPTokenizer

    write_configuration(tmp_path, STABLE_DIFFUSION_1)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path / "tokenizer", local_files_only=True)
    assert len(tokenizer) == 49408
    for text in ("a photo of sks dog", "Straße, café 3.5% — don't!"):
        ids = tokenizer(text, padding="max_length", truncation=True).input_ids
        theirs = open_clip.tokenize([text])[0].tolist()
        end = theirs.index(49407) + 1
        assert ids[:end] == theirs[:end]
        assert len(ids) == 77 and set(ids[end:]) == {49407}


def test_configurations_name_known_classes(tmp_path: Path) -> None:
    from diffusers import DDPMScheduler

    folder = write_configuration(tmp_path, stable_diffusion_2_1())
    schedule = DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
    assert schedule.config.prediction_type == "v_prediction"
    assert STABLE_DIFFUSION_1["unet/config.json"]["cross_attention_dim"] == 768
    write_clip_vocabulary(tmp_path / "other")
    assert (tmp_path / "other" / "vocab.json").is_file()
