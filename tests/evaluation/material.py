"""A finished run with an attack cell in both arms, made by hand in a second."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from apdm_cli.diffusion.photos import photo_hashes
from apdm_cli.extension.family import load_model
from apdm_cli.runs.manifest import write_json_atomic
from apdm_cli.runs.run import Run
from tests.metrics.material import make_vit
from tests.tiny import make_photos, make_tiny_pipeline, make_tiny_run

CPU = torch.device("cpu")
# Two sampler steps of a random model: nothing to look at, everything to count.
QUICK: dict[str, Any] = {"images": 4, "class_images": 3, "steps": 2, "sampler": "ddim"}


def drawn_and_scored(root: Path) -> dict[str, bytes]:
    """Every file of pictures under `root`, and the scores of the run `run`."""
    found = {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*.png")}
    scores = json.loads((root / "run" / "evaluation" / "scores.json").read_text())
    return {**found, "scores": json.dumps(scores["rows"]).encode()}


class Bench:
    """Folders below one temporary folder: model, photos, extractor, runs."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "runs"
        self.model = make_tiny_pipeline(folder / "model")
        self.photos = make_photos(folder / "photos")
        self.vit = make_vit(folder / "vit")
        self.run: Run = make_tiny_run(self.root, self.model, self.photos)

    @property
    def weights(self) -> dict[str, str]:
        return {"pocket-vit": str(self.vit), "brisque": "pypi"}

    def cell(self, arm: str, name: str, **fields: Any) -> Path:
        """A finished cell whose artifact is the original's U-Net, a little changed by its name."""
        loaded = load_model(str(self.model), CPU)
        seed = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in loaded.trained.parameters():
                weight.add_(0.02 * torch.randn(weight.shape, generator=generator))
        below = self.root / "_control" if arm == "original" else self.run.attacks
        folder = below / name
        loaded.pipeline.unet.save_pretrained(folder / "artifact" / "unet")
        manifest = {
            "schema": 1,
            "kind": "attack",
            "status": "done",
            "attack": "dreambooth",
            "variant": "",
            "configuration": {},
            "arm": arm,
            "seed": 0,
            "subject": self.run.manifest["subject"],
            "prompt_word": "sks",
            "artifact": {"kind": "pipeline", "path": "artifact"},
            "control": None,
        }
        write_json_atomic(folder / "manifest.json", {**manifest, **fields})
        return folder

    def other_subject(self, name: str, photos: Path) -> dict[str, Any]:
        files = [{"name": n, "sha256": d} for n, d in photo_hashes([photos])]
        return {
            "name": name,
            "class_noun": "person",
            "identifier": "sks",
            "photos": {"sources": [str(photos)], "files": files},
        }
