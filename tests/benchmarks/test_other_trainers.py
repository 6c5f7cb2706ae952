"""A training script of somebody else, which `apdm attack` runs and judges like any attack."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from apdm_cli.cli.main import build_app
from apdm_cli.pocket.profile import pocket_folder

PLUGIN = Path(__file__).parents[2] / "benchmarks" / "other_trainers.py"
PHOTOS = pocket_folder().parent / "subjects" / "person-9" / "seen"
LEFT = "learned_embeds.safetensors"
# Stands in for diffusers' script: it opens what that opens, and "learns" a vector of its seed.
SCRIPT = """
import argparse, json, pathlib
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTokenizer
parser = argparse.ArgumentParser()
for name in (
    "pretrained_model_name_or_path", "output_dir", "resolution", "max_train_steps", "learning_rate",
    "train_batch_size", "seed", "train_data_dir", "placeholder_token", "initializer_token", "log",
):
    parser.add_argument("--" + name, required=True)
asked = parser.parse_args()
pathlib.Path(asked.log).write_text(json.dumps(vars(asked)))
model = asked.pretrained_model_name_or_path
encoder = CLIPTextModel.from_pretrained(model, subfolder="text_encoder")
encoder.text_model.encoder.requires_grad_(False)
tokenizer = CLIPTokenizer.from_pretrained(model, subfolder="tokenizer")
(start,) = tokenizer.encode(asked.initializer_token, add_special_tokens=False)
vector = encoder.get_input_embeddings().weight[start].detach() + float(asked.seed)
save_file({asked.placeholder_token: vector[None].clone()}, asked.output_dir + "/FILE")
""".replace("FILE", LEFT)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a script and a model."""
    (tmp_path / "script.py").write_text(SCRIPT)
    shutil.copytree(pocket_folder(), tmp_path / "model")
    return tmp_path


def attack(
    place: Path, script: str = "script.py", *options: str, plugin: str = "textual-inversion"
) -> dict[str, Any]:
    """What `apdm attack` says of the only cell."""
    settings = {
        "script": place / script,
        "photos": PHOTOS,
        "arguments": f"--log {place / 'log.json'}",
    }
    said = CliRunner().invoke(
        build_app({"attack"}),
        [
            *("attack", "--model", str(place / "model"), "--out", str(place / "runs")),
            *("--photos", str(PHOTOS), "--subject-class", "person", "--identifier", "sks"),
            *("--plugin-file", str(PLUGIN), "--plugin", f"diffusers-{plugin}"),
            *(text for key, value in settings.items() for text in ("--set", f"{key}={value}")),
            *("--seed", "3", "--device", "cpu", "--json", *options),
        ],
    )
    (cell,) = json.loads(said.stdout)["cells"]
    found: dict[str, Any] = cell
    return found


def test_the_script_gets_the_models_folder_and_the_cells_seed(place: Path) -> None:
    """And what it leaves is the artifact, which draws under the new word."""
    cell = attack(place)
    assert cell["status"] == "done" and cell["summary"]["steps"] == 188
    told = json.loads((place / "log.json").read_text())
    assert told["pretrained_model_name_or_path"] == str(place / "model")
    assert (told["seed"], told["resolution"]) == ("3", "64")
    assert (told["placeholder_token"], told["initializer_token"]) == ("<subject>", "person")
    assert not Path(told["output_dir"]).exists()
    manifest = json.loads((Path(cell["path"]) / "manifest.json").read_text())
    assert manifest["prompt_word"] == "<subject>"
    assert manifest["artifact"] == {"kind": "embedding", "path": "artifact"}
    assert [file.name for file in (Path(cell["path"]) / "artifact").iterdir()] == [LEFT]


def test_another_script_is_another_attack(place: Path) -> None:
    """Wherever it lies: what it says counts."""
    first = attack(place, "script.py", "--dry-run")
    (place / "script.py").rename(place / "moved.py")
    moved = attack(place, "moved.py", "--dry-run")
    (place / "moved.py").write_text(SCRIPT + "# changed")
    other = attack(place, "moved.py", "--dry-run")
    assert first["cell"] == moved["cell"] != other["cell"]


def test_what_the_script_died_of_is_said(place: Path) -> None:
    (place / "script.py").write_text("raise SystemExit('no card here')")
    cell = attack(place, plugin="lora")
    assert cell["status"] == "failed" and cell["error"].endswith("exit code 1: no card here")
