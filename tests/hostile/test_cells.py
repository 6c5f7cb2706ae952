"""Models, cells and settings that are damaged or mean nothing: each costs itself, or is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.hostile.commands import Said, attack, evaluate, protect
from tests.hostile.counting import hostile, tried

# Nobody ends well with weights that are not finite


@hostile("weights and pictures that are not finite")
def test_a_protection_that_goes_to_infinity(made: Path, tmp_path: Path, apdm: Said) -> None:
    code, said = apdm(*protect(made, tmp_path), "--set", "learning_rate=1e38")
    assert code == 1 and "finite" in said and "protected" not in said
    assert not list((tmp_path / "runs").rglob("unet/*.safetensors"))


@hostile("options and arguments")
@pytest.mark.parametrize("value", ["inf", "nan", "-inf", "1e30", "1e400"])
@pytest.mark.parametrize("key", ["learning_rate", "sampler_guidance", "prior_weight"])
def test_settings_without_a_meaning(key: str, value: str, root: Path, apdm: Said) -> None:
    command = attack(root, None, "dreambooth")
    code, said = apdm(*command, "--no-control", "--set", f"{key}={value}")
    assert code in (1, 2) and "Traceback" not in said
    assert not list((root / "run").glob("attacks/*/manifest.json"))


# An artifact or manifest that is damaged costs itself


DAMAGED = ("/etc", "../..", "..", "", "artifact/../../..", "cut", "gone", "manifest")


@hostile("artifacts and cells")
def test_damaged_cells_cost_themselves_only(
    made: Path, root: Path, apdm: Said, clean: Path
) -> None:
    assert apdm(*attack(root, None, "dreambooth"), "--seeds", len(DAMAGED) + 1)[0] == 0
    folders = {}
    for file in (root / "run" / "attacks").glob("*/manifest.json"):
        folders[json.loads(file.read_text())["seed"]] = file.parent
    tried(len(DAMAGED))
    for seed, how in enumerate(DAMAGED):
        _damage(folders[seed], how)
    code, said = apdm(*evaluate(made, root))
    assert code == 1 and "Traceback" not in said
    scores = json.loads((root / "run" / "evaluation" / "scores.json").read_text())
    found = {(row["seed"], row["arm"]) for row in scores["rows"] if row["role"] == "attack"}
    last = len(DAMAGED)
    # Nobody can tell which control belongs to a manifest that is no manifest.
    expected = {(seed, "original") for seed in range(last + 1) if seed != last - 1}
    assert found == expected | {(last, "protected")}
    reasons = {one["cell"]: one["reason"] for one in scores["left_out"]}
    assert reasons.keys() == {folders[seed].name for seed in range(last)}
    assert all(f"{cell} is left out: " in said.replace("\n", " ") for cell in reasons)
    assert "Not everything that was asked for is there" in said
    assert all(said.count(cell) >= 2 for cell in reasons)
    code, said = apdm("compare", "run", "--out", root)
    assert code == 0 and "Traceback" not in said


def _damage(folder: Path, how: str) -> None:
    manifest = folder / "manifest.json"
    (unet,) = folder.glob("artifact/unet/*.safetensors")
    if how == "manifest":
        manifest.write_text('{"kind": "attack", "arm": 3}')
    elif how == "cut":
        unet.write_bytes(unet.read_bytes()[:1000])
    elif how == "gone":
        unet.unlink()
    else:
        content = json.loads(manifest.read_text())
        content["artifact"]["path"] = how
        manifest.write_text(json.dumps(content))


# Pictures without content teach nothing


@hostile("weights and pictures that are not finite")
@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_an_autoencoder_that_draws_nothing(
    value: float, made: Path, tmp_path: Path, apdm: Said
) -> None:
    model = Path(shutil.copytree(made / "model", tmp_path / "model"))
    (file,) = (model / "vae").glob("*.safetensors")
    tensors = load_file(file)
    for name in tensors:
        if name.startswith("decoder.conv_out"):
            tensors[name] = torch.full_like(tensors[name], value)
    save_file(tensors, file, metadata={"format": "pt"})
    code, said = apdm(*protect(made, tmp_path, model))
    assert code == 1 and "autoencoder" in said
    assert not (tmp_path / "runs" / "photos-dog" / "model").exists()
