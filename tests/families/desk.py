"""A model, photos and runs, on which the commands work one after another."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from apdm_cli.cli.main import main
from tests.metrics.material import make_vit
from tests.tiny import make_photos

PROTECT = (
    *("steps_outer=3", "steps_inner=2", "prior_pictures=3", "sampler_steps=2", "batch_size=2"),
    *("learning_rate=1e-2", "timestep_range=[0.0, 0.6]", "preservation.kind=distill"),
    *("preservation.class_samples=3", "preservation.caption_samples=2"),
)
ATTACK = ("steps=2", "prior_pictures=2", "sampler_steps=2", "learning_rate=1e-2")


class Desk:
    """One model and the run that is made of it.

    Args:
        folder: an empty one.
        model: a diffusers folder.
        name: of the run.
        plugin: file that brings the model's family, if no installed plugin does.
    """

    def __init__(self, folder: Path, model: Path, name: str, plugin: str = "") -> None:
        self.model, self.name = model, name
        self.plugin = ("--plugin-file", plugin) if plugin else ()
        self.photos = make_photos(folder / "photos")
        self.vit = make_vit(folder / "vit")
        self.runs = folder / "runs"

    def all_four(
        self, attacks: tuple[str, ...], settings: tuple[str, ...] = (), steps: int = 0
    ) -> None:
        """Protect, attack, evaluate and compare.

        Args:
            steps: of drawing for the evaluation; 0 leaves them to the model's family.
        """
        device = ("--device", "cpu")
        protect = (str(self.photos), "--class", "person", "--model", str(self.model))
        self.run("protect", *protect, "--name", self.name, *self.plugin, *device, settings=PROTECT)
        names = [word for attack in attacks for word in ("--plugin", attack)]
        self.attack(*names, *device, settings=(*ATTACK, *settings))
        drawing: tuple[str, ...] = ("--images", "3", "--class-images", "4")
        weights = ("--metrics", "dino,fid,same-seed", "--weights", f"pocket-vit={self.vit}")
        drawing += ("--steps", str(steps)) if steps else ()
        self.run("evaluate", self.name, *drawing, *weights, *self.plugin, *device)
        self.run("compare", self.name)

    def attack(self, *arguments: str, settings: tuple[str, ...] = ()) -> None:
        self.run("attack", self.name, *arguments, *self.plugin, settings=settings)

    def run(self, command: str, *arguments: str, settings: tuple[str, ...] = ()) -> None:
        chosen = [word for setting in settings for word in ("--set", setting)]
        with pytest.raises(SystemExit) as ended:
            main([command, *arguments, *chosen, "--out", str(self.runs)])
        assert not ended.value.code, f"apdm {command} ended with {ended.value.code}"

    def refusals(
        self, capsys: pytest.CaptureFixture[str], *attacks: tuple[str, Mapping[str, Any]]
    ) -> list[str]:
        """What is said of attacks, with what is set, that the model's family cannot take."""
        suite = self.runs.parent / "refused.toml"
        entries = [{"name": name, "set": dict(settings)} for name, settings in attacks]
        suite.write_text(tomli_w.dumps({"attack": entries}))
        options = ("--no-control", "--device", "cpu", "--json", "--out", str(self.runs))
        with pytest.raises(SystemExit) as ended:
            main(["attack", self.name, "--suite", str(suite), *self.plugin, *options])
        assert ended.value.code == 1
        cells = json.loads(capsys.readouterr().out)["cells"]
        assert len(cells) == len(attacks)
        return [str(cell["error"]) for cell in cells]

    def read(self, name: str) -> Any:
        return json.loads((self.runs / self.name / name).read_text())
