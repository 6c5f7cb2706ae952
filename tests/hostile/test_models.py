"""Model folders and files as they are met: merges, halves, other kinds, nonsense in them."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from apdm_cli.cli.main import main
from apdm_cli.diffusion.words import check_length
from apdm_cli.errors import ApdmError
from apdm_families.checks import (
    check_embeddings,
    check_file,
    check_finite,
    check_folder,
    check_marks,
    check_tokenizer,
    renamed_clip,
    variant_of,
)
from tests.diffusion.test_words import model as with_tokenizer
from tests.hostile.counting import hostile
from tests.hostile.inputs import VALUES, Tally, json_texts
from tests.tiny import MAX_LENGTH, make_photos, make_tiny_pipeline, make_tokenizer

FILES = {
    "unet/config.json": ("sample_size", "in_channels", "out_channels", "cross_attention_dim"),
    "vae/config.json": ("scaling_factor", "shift_factor", "latent_channels", "in_channels"),
    "text_encoder/config.json": ("hidden_size", "max_position_embeddings", "vocab_size"),
    "scheduler/scheduler_config.json": (
        *("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas"),
        "rescale_betas_zero_snr",
    ),
}
NONSENSE: list[Any] = [*VALUES, -5, 10**9, [64, 64], [64, 96], "64", "none", 1e31, -0.18, 1e-40]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_pipeline(tmp_path_factory.mktemp("whole"), channels=(16, 32), text_layers=1)


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """The configuration files of the tiny pipeline, which a test may break."""
    for name in FILES:
        (tmp_path / name).parent.mkdir()
        shutil.copy(whole / name, tmp_path / name)
    return tmp_path


def change(folder: Path, name: str, **entries: Any) -> None:
    content = json.loads((folder / name).read_text())
    (folder / name).unlink()
    (folder / name).write_text(json.dumps({**content, **entries}))


def test_whole_folders_pass(whole: Path) -> None:
    check_folder(whole)
    from apdm_cli.pocket.profile import pocket_folder

    check_folder(pocket_folder())


@pytest.mark.parametrize("change_to", ["stable_diffusion_1", "stable_diffusion_2_1"])
def test_published_configurations_pass(tmp_path: Path, change_to: str) -> None:
    from apdm_families import configurations

    files = {
        "stable_diffusion_1": configurations.STABLE_DIFFUSION_1,
        "stable_diffusion_2_1": configurations.stable_diffusion_2_1(),
    }[change_to]
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    check_folder(tmp_path)


@hostile("models and their configurations", "check_folder")
def test_nonsense_in_every_entry(folder: Path) -> None:
    tally = Tally()
    for name, keys in FILES.items():
        before = (folder / name).read_bytes()
        for key in keys:
            for number, value in enumerate(NONSENSE):
                change(folder, name, **{key: value})
                tally.offer(f"{name} {key} = {number}", check_folder, folder)
        (folder / name).write_bytes(before)
    assert not tally.failed, tally.failed[:5]
    # What passes is what such an entry may hold: shift_factor and trained_betas null or nought, ...
    allowed = {"shift_factor", "trained_betas", "rescale_betas_zero_snr"}
    odd = [name for name in tally.used if name.split()[1] not in allowed]
    for name in odd:
        value = NONSENSE[int(name.rpartition(" ")[2])]
        assert isinstance(value, int | float) and value > 0, name
    assert len(tally) > 500


@hostile("models and their configurations", "check_folder")
@pytest.mark.parametrize("name", FILES)
def test_configurations_that_are_no_json(folder: Path, name: str) -> None:
    tally = Tally()
    for number, content in enumerate(json_texts()):
        (folder / name).unlink()
        (folder / name).write_bytes(content)
        tally.offer(f"{number}", check_folder, folder)
    assert not tally.failed, tally.failed[:5]
    # From 16 on they are objects: without the entries they mean the defaults, as in diffusers,
    # whose files may hold NaN in entries that nobody reads.
    assert all(int(number) > 15 for number in tally.used), tally.used


@hostile("models and their configurations", "check_folder")
@pytest.mark.parametrize(
    ("name", "entries", "said"),
    [
        ("unet/config.json", {"sample_size": "text"}, "sample_size is 'text'"),
        ("unet/config.json", {"sample_size": 0}, "sample_size is 0"),
        ("unet/config.json", {"sample_size": -8}, "sample_size is -8"),
        ("unet/config.json", {"in_channels": 9}, "inpainting"),
        ("unet/config.json", {"in_channels": 8}, "edits pictures"),
        ("unet/config.json", {"cross_attention_dim": 64}, "different models"),
        ("vae/config.json", {"scaling_factor": None}, "scaling_factor is None"),
        ("vae/config.json", {"scaling_factor": 0}, "scaling_factor is 0"),
        ("vae/config.json", {"scaling_factor": -1.0}, "above 0"),
        ("vae/config.json", {"latent_channels": 16}, "does not fit"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 0}, "num_train_timesteps is 0"),
        ("scheduler/scheduler_config.json", {"beta_end": 1.5}, "below 1"),
        ("scheduler/scheduler_config.json", {"trained_betas": [0.1]}, "1000 numbers"),
        ("scheduler/scheduler_config.json", {"rescale_betas_zero_snr": True}, "only noise"),
    ],
)
def test_known_troubles(folder: Path, name: str, entries: dict[str, Any], said: str) -> None:
    change(folder, name, **entries)
    with pytest.raises(ApdmError, match=said) as caught:
        check_folder(folder)
    assert name in caught.value.what or "unet" in caught.value.what
    assert caught.value.hint


def test_zero_terminal_snr_is_fine_for_velocity(folder: Path) -> None:
    entries = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    change(folder, "scheduler/scheduler_config.json", **entries)
    check_folder(folder)


# Tokenizers


@hostile("models and their configurations", "check_tokenizer")
def test_a_tokenizer_without_padding() -> None:
    tokenizer = make_tokenizer()
    check_tokenizer(tokenizer, MAX_LENGTH, "m")
    tokenizer.pad_token = None
    with pytest.raises(ApdmError, match="pad_token"):
        check_tokenizer(tokenizer, MAX_LENGTH, "m")


@hostile("models and their configurations", "check_tokenizer")
@pytest.mark.parametrize("longest", [int(1e30), MAX_LENGTH + 1, 0])
def test_a_tokenizer_that_does_not_know_how_much_is_read(longest: int) -> None:
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = longest
    with pytest.raises(ApdmError, match="model_max_length"):
        check_tokenizer(tokenizer, MAX_LENGTH, "m")


@hostile("models and their configurations", "check_tokenizer")
def test_a_tokenizer_with_added_tokens() -> None:
    tokenizer = make_tokenizer()
    embeddings = len(tokenizer)
    check_embeddings(tokenizer, embeddings, "m")
    tokenizer.add_tokens(["<new>"])
    check_embeddings(tokenizer, embeddings + 1, "m")
    with pytest.raises(ApdmError, match="embeddings"):
        check_embeddings(tokenizer, embeddings, "m")


@hostile("models and their configurations", "check_tokenizer")
def test_a_class_noun_that_falls_off_the_end() -> None:
    known = with_tokenizer(make_tokenizer())
    check_length(known, "a photo of sks dog", "dog")
    words = "a photo of " + "sks " * (MAX_LENGTH - 6)
    check_length(known, f"{words}dog", "dog")
    with pytest.raises(ApdmError, match=f"has {MAX_LENGTH + 1} tokens.*'dog' would fall off"):
        check_length(known, f"{words}sks dog", "dog")


# Single files


SHAPES = {
    "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
    "first_stage_model.encoder.conv_in.weight": (128, 3, 3, 3),
    "cond_stage_model.transformer.text_model.embeddings.position_ids": (1, 77),
}


def test_a_whole_file_passes() -> None:
    check_file(Path("a.safetensors"), SHAPES)


@hostile("models and their configurations", "check_file")
@pytest.mark.parametrize(
    ("prefix", "said"),
    [
        ("model.", "lacks its U-Net"),
        ("first_stage_model.", "no-vae"),
        ("cond_stage_model.", "text encoder"),
    ],
)
def test_files_that_lack_a_part(prefix: str, said: str) -> None:
    shapes = {name: shape for name, shape in SHAPES.items() if not name.startswith(prefix)}
    with pytest.raises(ApdmError, match=said):
        check_file(Path("a.safetensors"), shapes)


@hostile("models and their configurations", "check_file")
@pytest.mark.parametrize(("channels", "said"), [(9, "inpainting"), (8, "edits"), (5, "depth")])
def test_files_of_other_kinds(channels: int, said: str) -> None:
    shapes = {**SHAPES, "model.diffusion_model.input_blocks.0.0.weight": (320, channels, 3, 3)}
    with pytest.raises(ApdmError, match=said):
        check_file(Path("a.safetensors"), shapes)


VELOCITY = {"prediction_type": "v_prediction"}
ZERO_SNR = {**VELOCITY, "rescale_betas_zero_snr": True}


@hostile("models and their configurations", "check_file")
@pytest.mark.parametrize(
    ("names", "metadata"), [(["v_pred"], {}), (["x"], {"modelspec.prediction_type": "v"})]
)
def test_velocity_that_is_only_marked_in_the_file(
    names: list[str], metadata: dict[str, str]
) -> None:
    file = Path("a.safetensors")
    check_marks(file, ["x"], {"modelspec.prediction_type": "epsilon"}, {})
    check_marks(file, names, metadata, VELOCITY)
    with pytest.raises(ApdmError, match="predicts velocity, and its configuration says epsilon"):
        check_marks(file, names, metadata, {})


@hostile("models and their configurations", "check_file")
def test_a_zero_terminal_snr_that_is_only_marked_in_the_file() -> None:
    check_marks(Path("a.safetensors"), ["v_pred", "ztsnr"], {}, ZERO_SNR)
    with pytest.raises(ApdmError, match="zero terminal signal-to-noise ratio") as caught:
        check_marks(Path("a.safetensors"), ["v_pred", "ztsnr"], {}, VELOCITY)
    assert '"rescale_betas_zero_snr": true' in caught.value.hint


def test_text_encoders_as_merges_name_them() -> None:
    old = "cond_stage_model.transformer.embeddings.token_embedding.weight"
    right = "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.bias"
    renamed = renamed_clip([old, right, "model.diffusion_model.out.0.weight"])
    assert renamed == {
        old: "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
    }


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["model.safetensors"], None),
        (["model.fp16.safetensors"], "fp16"),
        (["model.fp16.safetensors", "model.safetensors"], None),
        (["model.fp16-00001-of-00002.safetensors"], "fp16"),
        ([], None),
    ],
)
def test_variants(tmp_path: Path, names: list[str], expected: str | None) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert variant_of(tmp_path) == expected


@hostile("weights and pictures that are not finite", "check_finite")
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite(value: float) -> None:
    network = torch.nn.Linear(3, 3)
    check_finite(network, "unet", "m")
    with torch.no_grad():
        network.weight[1, 2] = value
    with pytest.raises(ApdmError, match=r"tensor weight of its unet"):
        check_finite(network, "unet", "m")


def test_large_weights_are_finite() -> None:
    network = torch.nn.Linear(2, 2)
    with torch.no_grad():
        network.weight.fill_(3e38)
    check_finite(network, "unet", "m")  # their sum in float32 would not be


@pytest.mark.parametrize("way", ["itself", "circle", "hub"])
@hostile("models and their configurations")
def test_parts_of_models_that_name_each_other(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A base.json names a whole model: this is one sentence, and no search without an end."""
    names = {
        "itself": {"one": str(tmp_path / "one")},
        "circle": {"one": str(tmp_path / "two"), "two": str(tmp_path / "one")},
        "hub": {"one": "ann/part"},
    }[way]
    for name, source in names.items():
        (tmp_path / name / "unet").mkdir(parents=True)
        record = {"source": source, "revision": None, "digest": "a" * 64}
        (tmp_path / name / "base.json").write_text(json.dumps(record))
    # What the hub has under that name is the same part again.
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path / "one"))
    photos = make_photos(tmp_path / "photos")
    with pytest.raises(SystemExit) as ended:
        main(["protect", str(photos), "--class", "person", "--model", str(tmp_path / "one")])
    assert ended.value.code == 1
    said, advice = capsys.readouterr().err.splitlines()
    named = names["one"]
    assert said.endswith(f"one/base.json names {named}, which is no whole model either.")
    assert said.startswith("Error: ") and advice.startswith("It should name the model")
