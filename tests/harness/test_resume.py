"""An attack that was killed goes on, and ends with the weights of one that was not."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from apdm_attacks.adaptive import Adaptive
from apdm_attacks.adaptive_objective import AdaptiveObjective
from apdm_attacks.lora import Lora
from apdm_attacks.rounds import Rounds
from apdm_cli.config import resolve
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.extension.attack import Attack
from apdm_cli.extension.family import load_model
from apdm_cli.harness.execute import run_attack
from apdm_cli.harness.workbench import LOSSES, Workbench
from apdm_cli.progress import Silent
from apdm_cli.runs.interrupts import Stopped, StopSignals
from apdm_cli.runs.jsonl import read_rows
from apdm_cli.subject import Subject
from apdm_cli.testing import synthetic_photos
from tests.harness.conftest import Place
from tests.harness.test_attack_command import attack as attack_command
from tests.harness.test_attack_command import rows

SETTINGS = {"steps": 5, "prior_pictures": 2, "sampler_steps": 2, "learning_rate": 1e-3}


class Killed(BaseException):
    """Stands for a kill: nothing of the attack's own code sees it."""


class KillAfter(Silent):
    """A progress that kills after so many optimizer steps, or so many pictures."""

    def __init__(self, steps: int, *, pictures: bool = False) -> None:
        self.left, self.pictures = steps, pictures

    def stage(self, description: str, total: int, done: int = 0, unit: str = "steps") -> None:
        self.drawing_stop = description.startswith("pictures at")

    def advance(self, count: int = 1, **terms: float) -> None:
        if self.pictures != self.drawing_stop or not (terms or self.pictures):
            return
        self.left -= 1
        if self.left == 0:
            raise Killed


@pytest.fixture(scope="module")
def model(_template: Place) -> DiffusionModel:
    return load_model(str(_template.model), torch.device("cpu"))


def _bench(model: DiffusionModel, folder: Path, **options: Any) -> Workbench:
    folder.mkdir(exist_ok=True)
    subject = Subject("s", "person", "sks", synthetic_photos(model.resolution))
    return Workbench(
        model, subject, 0, folder, folder.parent / "cache", checkpoint_every=2, **options
    )


@pytest.mark.parametrize(
    ("attack", "settings", "kill_after"),
    [
        (Lora(), {"rank": 2}, 1),  # before the first checkpoint
        (Lora(), {"rank": 2}, 5),  # after the second
        (AdaptiveObjective(), {"variant": "ema"}, 3),
        (Rounds(), {"rounds": 3}, 8),  # within the second round
        (
            Adaptive(),
            {
                **{"steps": 18, "candidates": 2, "ranks": [2], "targets": ["full", "lora"]},
                **{"highest": 1e25},  # one candidate diverges
            },
            12,  # within the longest try
        ),
        (
            Lora(),
            {
                **{"rank": 2, "schedule": "cosine", "warm_up": 2, "caption_dropout": 0.5},
                **{"noise_offset": 0.1, "multires_noise": 0.3, "timesteps": "logit-normal"},
            },
            5,
        ),
        (Lora(), {"rank": 2, "optimizer": "prodigy", "learning_rate": 1.0}, 5),
    ],
)
def test_a_killed_attack_ends_bit_identical(
    model: DiffusionModel,
    tmp_path: Path,
    attack: Attack,
    settings: dict[str, Any],
    kill_after: int,
) -> None:
    if settings.get("optimizer") == "prodigy":
        pytest.importorskip("prodigyopt")
    config = resolve(attack.Config, SETTINGS, settings)
    whole = run_attack(attack, _bench(model, tmp_path / "whole"), config)

    broken = tmp_path / "broken"
    with pytest.raises(Killed):
        run_attack(attack, _bench(model, broken, progress=KillAfter(kill_after)), config)
    resumed_bench = _bench(model, broken)
    resumed = run_attack(attack, resumed_bench, config)

    for file in sorted(whole.path.rglob("*.safetensors")):
        expected, found = load_file(file), load_file(resumed.path / file.relative_to(whole.path))
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert read_rows(broken / LOSSES) == read_rows(tmp_path / "whole" / LOSSES)


def test_a_resumed_attack_takes_only_the_steps_that_are_left(
    model: DiffusionModel, tmp_path: Path
) -> None:
    config = resolve(Lora.Config, SETTINGS, {"rank": 2})
    with pytest.raises(Killed):
        run_attack(Lora(), _bench(model, tmp_path / "cell", progress=KillAfter(5)), config)
    counter = KillAfter(-1)
    run_attack(Lora(), _bench(model, tmp_path / "cell", progress=counter), config)
    assert counter.left == -2  # step 5 of 5; four were in the checkpoint


def test_only_steps_that_were_taken_now_say_how_fast_it_is(
    model: DiffusionModel, tmp_path: Path
) -> None:
    config = resolve(Lora.Config, SETTINGS, {"rank": 2})
    with pytest.raises(Killed):
        run_attack(Lora(), _bench(model, tmp_path / "cell", progress=KillAfter(5)), config)
    bench = _bench(model, tmp_path / "cell")
    run_attack(Lora(), bench, config)
    assert (bench.steps_taken, bench.pace.steps) == (5, 1)


def test_a_signal_writes_a_checkpoint_and_stops(model: DiffusionModel, tmp_path: Path) -> None:
    config = resolve(Lora.Config, SETTINGS, {"rank": 2})
    signals = StopSignals()

    class SignalInTheFirstStep(Silent):
        def advance(self, count: int = 1, **terms: float) -> None:
            signals.received = bool(terms)

    progress = SignalInTheFirstStep()
    bench = _bench(model, tmp_path / "cell", signals=signals, progress=progress)
    with pytest.raises(Stopped):
        run_attack(Lora(), bench, config)
    assert list((tmp_path / "cell" / "checkpoints").rglob("tensors.safetensors"))


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.usefixtures("heeded_signals")
def test_an_interrupted_cell_is_partial_and_resumed(place: Place, tmp_path: Path) -> None:
    plugin = tmp_path / "stopping.py"
    plugin.write_text(
        "import os, signal\n"
        "from pathlib import Path\n"
        "from apdm_attacks.dreambooth import DreamBooth\n"
        "from apdm_cli.extension.hooks import hookimpl\n"
        f"MARK = Path({str(tmp_path / 'mark')!r})\n"
        "class Stopping(DreamBooth):\n"
        "    '''Sends itself a signal, once.'''\n"
        "    name = 'stopping'\n"
        "    def learning_rate(self, step, config):\n"
        "        if step == 1 and not MARK.exists():\n"
        "            MARK.touch()\n"
        f"            os.kill(os.getpid(), {int(signal.SIGTERM)})\n"
        "        return config.learning_rate\n"
        "@hookimpl\n"
        "def apdm_attacks():\n"
        "    return [Stopping()]\n"
    )
    options = ("--plugin-file", str(plugin), "--plugin", "stopping", "--no-control", "--json")
    with pytest.raises(Stopped):
        attack_command(place, *options, "--set", "steps=3")
    (partial,) = (place.root / "run" / "attacks").glob("*.partial")
    assert not (partial / "failure.json").exists()
    (cell,) = rows(attack_command(place, *options, "--set", "steps=3"))
    assert cell["status"] == "done"
    assert not partial.exists()
    log = [json.loads(line) for line in (Path(cell["path"]) / LOSSES).read_text().splitlines()]
    assert [row["index"] for row in log] == [0, 1, 2]
