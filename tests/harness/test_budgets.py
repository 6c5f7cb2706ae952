"""`apdm attack --budgets`: one training, looked at on the way."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from apdm_attacks.dreambooth import DreamBooth
from apdm_attacks.rounds import Rounds
from apdm_cli.cli.main import main
from apdm_cli.config import resolve
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.sampling import SamplerSettings
from apdm_cli.errors import ApdmError, UsageError
from apdm_cli.extension.attack import Attack
from apdm_cli.extension.family import load_model
from apdm_cli.harness.stops import Drawing, is_drawn, read_stop, stop_folder
from apdm_cli.harness.suites import load_suite, parse_budgets
from apdm_cli.harness.work import run_attack
from apdm_cli.harness.workbench import LOSSES, Workbench
from apdm_cli.progress import Silent
from apdm_cli.runs.interrupts import Stopped, StopSignals
from apdm_cli.runs.jsonl import read_rows
from apdm_cli.subject import Subject
from apdm_cli.testing import synthetic_photos
from tests.harness.conftest import Place
from tests.harness.test_attack_command import attack, rows
from tests.harness.test_resume import KillAfter, Killed

PICTURES = ("--images", "2", "--sampler-steps", "1")
SETTINGS = {"steps": 4, "prior_pictures": 2, "sampler_steps": 2, "learning_rate": 1e-3}
DDIM, PNDM = SamplerSettings(sampler="ddim", steps=2), SamplerSettings()
DRAWING = Drawing(("a photo of {}",) * 2, (0, 1), lambda _: DDIM)


@pytest.fixture(scope="module")
def model(_template: Place) -> DiffusionModel:
    return load_model(str(_template.model), torch.device("cpu"))


def _bench(model: DiffusionModel, folder: Path, **options: Any) -> Workbench:
    folder.mkdir(exist_ok=True)
    subject = Subject("s", "person", "sks", synthetic_photos(model.resolution))
    options = {"drawing": DRAWING, "checkpoint_every": 3, **options}
    return Workbench(model, subject, 0, folder, folder.parent / "cache", **options)


def _manifest(row: dict[str, Any]) -> dict[str, Any]:
    return dict(json.loads((Path(row["path"]) / "manifest.json").read_text()))


def _same_weights(one: Path, other: Path) -> bool:
    names = sorted(path.relative_to(one) for path in one.rglob("*.safetensors"))
    assert names
    return all(
        torch.equal(first[key], second[key])
        for first, second in ((load_file(one / name), load_file(other / name)) for name in names)
        for key in first
    )


def test_one_training_serves_every_budget(place: Place) -> None:
    options = ("--plugin", "dreambooth", "--no-control", "--json", *PICTURES)
    (row,) = rows(attack(place, *options, "--budgets", "0.5,1,3"))
    manifest, cell = _manifest(row), Path(row["path"])
    assert row["budgets"] == [0.5, 1, 3]
    assert manifest["stops"] == [
        {"budget": 0.5, "steps": 1, "pictures": "stops/0.5"},
        {"budget": 1.0, "steps": 2, "pictures": "stops/1"},
        {"budget": 3.0, "steps": 6, "pictures": None},
    ]
    assert manifest["configuration"]["steps"] == 2 and manifest["summary"]["steps"] == 6
    for name in ("0.5", "1"):
        assert len(list((cell / "stops" / name).glob("*.png"))) == 2
    assert len((cell / LOSSES).read_text().splitlines()) == 6
    weights = list(cell.rglob("*.safetensors"))
    assert {file.relative_to(cell).parts[0] for file in weights} == {"artifact"}


def test_a_budget_of_one_is_the_same_cell_and_is_found_again(place: Place) -> None:
    options = ("--plugin", "dreambooth", "--no-control", "--json", *PICTURES)
    (alone,) = rows(attack(place, *options))
    before = (Path(alone["path"]) / "artifact" / "unet").rename(place.root / "kept")
    (both,) = rows(attack(place, *options, "--budgets", "1,2"))
    assert (both["cell"], both["status"]) == (alone["cell"], "done")
    assert not _same_weights(before, Path(both["path"]) / "artifact" / "unet")
    for budgets in ("1", "1,2", "2"):
        (again,) = rows(attack(place, *options, "--budgets", budgets))
        assert again["status"] == "cached"
    # A cell never loses a budget.
    (more,) = rows(attack(place, *options, "--budgets", "3"))
    assert more["status"] == "done" and more["budgets"] == [1, 2, 3]


def test_other_pictures_on_the_way_need_the_training_again(place: Place) -> None:
    options = ("--plugin", "dreambooth", "--no-control", "--json", "--sampler-steps", "1")
    budgets = ("--budgets", "1,2")
    attack(place, *options, *budgets, "--images", "2")
    (other,) = rows(attack(place, *options, *budgets, "--images", "3"))
    assert other["status"] == "done"
    assert len(list((Path(other["path"]) / "stops" / "1").glob("*.png"))) == 3
    # At the last budget the artifact stays: whatever is asked for can be drawn from it.
    (last,) = rows(attack(place, *options, "--budgets", "2", "--images", "4"))
    assert last["status"] == "cached"


def test_a_search_is_another_one_at_every_budget(place: Place) -> None:
    options = ("--plugin", "adaptive-lr", "--no-control", "--json", *PICTURES)
    settings = ("--set", "adaptive-lr.rates=2", "--set", "adaptive-lr.steps=4")
    found = rows(attack(place, *options, *settings, "--budgets", "1,2"))
    assert [row["budgets"] for row in found] == [[1], [2]]
    assert len({row["cell"] for row in found}) == 2
    assert [_manifest(row)["summary"]["steps"] for row in found] == [4, 8]
    assert [_manifest(row)["configuration"]["steps"] for row in found] == [4, 4]
    (alone,) = rows(attack(place, *options, *settings))
    assert (alone["cell"], alone["status"]) == (found[0]["cell"], "cached")


def test_a_joint_search_stands_in_a_suite_beside_others(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    few = "candidates = 2, ranks = [2], pictures = 1, prior_weight = 0, sampler_steps = 2"
    file.write_text(
        "budgets = [0.5, 1]\n"
        f'[[attack]]\nname = "adaptive"\nset = {{ steps = 3, {few} }}\nbudgets = [1]\n'
        f'[[attack]]\nname = "adaptive"\nvariant = "search"\nset = {{ steps = 12, {few}, '
        'targets = ["full", "lora"] }\n'
        '[[attack]]\nname = "lora"\nset = { steps = 2, rank = 2, prior_weight = 0 }\n'
    )
    suite = ("--suite", str(file), "--no-control", "--json", *PICTURES)
    refused, half, whole, lora = rows(attack(place, *suite, quick=False))
    assert (refused["status"], half["status"], whole["status"]) == ("failed", "done", "done")
    assert "3 are too few to try 2 candidates" in refused["error"]
    assert (half["variant"], half["budgets"], whole["budgets"]) == ("search", [0.5], [1])
    assert lora["budgets"] == [0.5, 1]
    for row, steps in ((half, 6), (whole, 12)):
        manifest = _manifest(row)
        assert manifest["configuration"]["targets"] == ["full", "lora"]
        assert [stop["steps"] for stop in manifest["stops"]] == [steps]
        # Two rungs and the winner's own training, a third of the steps each; or a shorter winner.
        assert steps * 5 // 6 <= manifest["summary"]["steps"] <= steps
        assert manifest["summary"]["chosen"]["target"] in ("full", "lora")
    again = rows(attack(place, *suite, quick=False))
    assert [row["status"] for row in again] == ["failed", "cached", "cached", "cached"]


def test_a_falling_rate_is_stretched_and_not_continued(place: Place) -> None:
    options = ("--plugin", "adaptive-objective", "--no-control", "--json", *PICTURES)
    warm = ("--set", "adaptive-objective.variant=warm-up", "--set", "adaptive-objective.steps=4")
    found = rows(attack(place, *options, *warm, "--budgets", "1,2"))
    rates = [
        [row["learning_rate"] for row in read_rows(Path(cell["path"]) / LOSSES)] for cell in found
    ]
    assert [len(each) for each in rates] == [4, 8]
    assert rates[0][3] == pytest.approx(rates[1][6]) and rates[1][7] < rates[1][6]


def test_a_cell_from_before_budgets_counts_as_one(place: Place) -> None:
    options = ("--plugin", "dreambooth", "--no-control", "--json", *PICTURES)
    (row,) = rows(attack(place, *options))
    file = Path(row["path"]) / "manifest.json"
    manifest = json.loads(file.read_text())
    for key in ("stops", "drawing", "asked"):
        del manifest[key]
    file.write_text(json.dumps(manifest))
    assert rows(attack(place, *options))[0]["status"] == "cached"
    assert rows(attack(place, *options, "--budgets", "1,2"))[0]["status"] == "done"


@pytest.mark.parametrize(
    ("text", "found"), [("1", (1.0,)), ("3,0.5,1,3", (0.5, 1.0, 3.0)), (" 1, 2 ", (1.0, 2.0))]
)
def test_budgets_are_multiples_in_order(text: str, found: tuple[float, ...]) -> None:
    assert parse_budgets(text) == found


@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "one", "1000"])
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(UsageError, match="--budgets"):
        parse_budgets(text)


def test_budgets_that_one_step_cannot_tell_apart_fail_their_cell(place: Place) -> None:
    result = attack(place, "--plugin", "dreambooth", "--no-control", "--json", "--budgets", "1,1.1")
    assert "cannot tell them apart" in rows(result)[0]["error"]


def test_the_suites_look_at_more_than_one_budget() -> None:
    found = {name: load_suite(name).budgets for name in ("quick", "standard", "full")}
    assert found == {"quick": (1, 3), "standard": (1, 3), "full": (0.5, 1, 2, 3, 6)}


@pytest.mark.parametrize(
    ("attack_", "settings", "kill_after", "pictures"),
    [
        (DreamBooth(), {}, 5, False),  # between the first look and its checkpoint
        (DreamBooth(), {}, 8, False),  # after a checkpoint beyond the first look
        (DreamBooth(), {"ema": 0.9}, 1, True),  # while it is looked at
        (Rounds(), {"rounds": 2}, 6, False),  # in the second round, looked at in the first
    ],
)
def test_a_killed_attack_looks_at_the_same(
    model: DiffusionModel,
    tmp_path: Path,
    attack_: Attack,
    settings: dict[str, Any],
    kill_after: int,
    pictures: bool,
) -> None:
    config = resolve(attack_.Config, SETTINGS, settings)
    budgets = {"budgets": (0.5, 1.0, 2.5)}
    whole = run_attack(attack_, _bench(model, tmp_path / "whole", **budgets), config)
    broken = tmp_path / "broken"
    kill = KillAfter(kill_after, pictures=pictures)
    with pytest.raises(Killed):
        run_attack(attack_, _bench(model, broken, progress=kill, **budgets), config)
    resumed = run_attack(attack_, _bench(model, broken, **budgets), config)
    assert _same_weights(whole.path, resumed.path)
    assert read_rows(broken / LOSSES) == read_rows(tmp_path / "whole" / LOSSES)
    order = DRAWING.order(model, "sks", "person")
    for budget in (0.5, 1.0):
        one, other = (
            read_stop(stop_folder(tmp_path / name, budget), order) for name in ("whole", "broken")
        )
        assert torch.equal(one, other)


class StopAt(Silent):
    """A progress that notes a signal when the first pictures of a stage are drawn."""

    def __init__(self, signals: StopSignals, stage: str) -> None:
        self.signals, self.wanted = signals, stage

    def stage(self, description: str, total: int, done: int = 0, unit: str = "steps") -> None:
        self.now = description

    def advance(self, count: int = 1, **terms: float) -> None:
        self.signals.received |= self.now == self.wanted


@pytest.mark.parametrize(
    ("stage", "left"), [("class pictures", 8), ("pictures at 0.5 × the steps", 6)]
)
def test_a_signal_stops_between_pictures_and_no_step_is_lost(
    model: DiffusionModel, tmp_path: Path, stage: str, left: int
) -> None:
    one_by_one = DDIM.model_copy(update={"batch_size": 1})
    options: dict[str, Any] = {
        "budgets": (0.5, 2.0),
        "drawing": replace(DRAWING, sampler=lambda _: one_by_one),
        "checkpoint_every": 100,
    }
    config = resolve(DreamBooth.Config, SETTINGS)
    whole = run_attack(DreamBooth(), _bench(model, tmp_path / "whole", **options), config)
    shutil.rmtree(tmp_path / "cache")

    signals, broken = StopSignals(), tmp_path / "broken"
    stopping = {"signals": signals, "progress": StopAt(signals, stage)}
    with pytest.raises(Stopped):
        run_attack(DreamBooth(), _bench(model, broken, **options, **stopping), config)
    drawn = len(list((broken / "stops").rglob("*.png")))
    assert drawn == (1 if left < 8 else 0)
    bench = _bench(model, broken, **options)
    resumed = run_attack(DreamBooth(), bench, config)
    assert (bench.pace.steps, bench.pace.pictures) == (left, 2 - drawn)
    assert _same_weights(whole.path, resumed.path)
    order = DRAWING.order(model, "sks", "person")
    looks = [read_stop(stop_folder(tmp_path / n, 0.5), order) for n in ("whole", "broken")]
    assert torch.equal(*looks)


def test_a_look_that_is_missing_begins_the_training_again(
    model: DiffusionModel, tmp_path: Path
) -> None:
    """Interrupted beyond a budget that it was not asked for then."""
    config = resolve(DreamBooth.Config, SETTINGS)
    whole = run_attack(DreamBooth(), _bench(model, tmp_path / "whole", budgets=(1.0, 2.0)), config)
    broken = tmp_path / "broken"
    with pytest.raises(Killed):
        kill = KillAfter(7)
        run_attack(DreamBooth(), _bench(model, broken, budgets=(2.0,), progress=kill), config)
    resumed = run_attack(DreamBooth(), _bench(model, broken, budgets=(1.0, 2.0)), config)
    assert _same_weights(whole.path, resumed.path)
    order = DRAWING.order(model, "sks", "person")
    found = [read_stop(stop_folder(tmp_path / n, 1.0), order) for n in ("whole", "broken")]
    assert torch.equal(*found)


def test_interrupted_at_more_steps_than_are_asked_for_then(
    model: DiffusionModel, tmp_path: Path
) -> None:
    config = resolve(DreamBooth.Config, SETTINGS)
    whole = run_attack(DreamBooth(), _bench(model, tmp_path / "whole"), config)
    broken = tmp_path / "broken"
    with pytest.raises(Killed):
        kill = KillAfter(7)
        run_attack(DreamBooth(), _bench(model, broken, budgets=(2.0,), progress=kill), config)
    resumed = run_attack(DreamBooth(), _bench(model, broken), config)
    assert _same_weights(whole.path, resumed.path)


def test_a_cell_interrupted_at_a_longer_budget_keeps_nothing_of_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apdm_cli.harness import work

    options = ("--plugin", "dreambooth", "--no-control", "--json", *PICTURES)

    def broken_off(*_: Any) -> None:
        raise Killed

    monkeypatch.setattr(work, "write_json_atomic", broken_off)
    with pytest.raises(Killed):
        attack(place, *options, "--budgets", "0.5,1,3")
    monkeypatch.undo()
    (row,) = rows(attack(place, *options, "--budgets", "0.5,1"))
    cell = Path(row["path"])
    assert len((cell / LOSSES).read_text().splitlines()) == 2
    assert [path.name for path in (cell / "stops").iterdir()] == ["0.5"]


def test_pictures_of_a_budget_are_read_whole_or_not_at_all(
    model: DiffusionModel, tmp_path: Path
) -> None:
    config = resolve(DreamBooth.Config, SETTINGS)
    run_attack(DreamBooth(), _bench(model, tmp_path / "cell", budgets=(1.0, 2.0)), config)
    folder = stop_folder(tmp_path / "cell", 1.0)
    order = DRAWING.order(model, "sks", "person")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert read_stop(folder, order).shape == (2, model.resolution, model.resolution, 3)
    for other in (
        DRAWING.order(model, "zwx", "person"),
        Drawing(DRAWING.templates, (0, 2), DRAWING.sampler).order(model, "sks", "person"),
        Drawing(DRAWING.templates, (0, 1), lambda _: PNDM).order(model, "sks", "person"),
    ):
        assert not is_drawn(folder, other)
        with pytest.raises(ApdmError, match="does not hold the pictures"):
            read_stop(folder, other)
    assert before == {file.name: file.read_bytes() for file in folder.iterdir()}
    (folder / "0001.png").write_bytes(before["0001.png"][:50])
    with pytest.raises(ApdmError, match="does not hold the pictures"):
        read_stop(folder, order)
    shutil.rmtree(folder)
    assert not is_drawn(folder, order)


def test_the_command_refuses_what_is_no_budget(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["attack", "--out", str(place.root), "--budgets", "many"])
    assert stopped.value.code == 2
    assert "Example: --budgets 0.5,1,3" in capsys.readouterr().err
