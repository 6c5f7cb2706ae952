"""`apdm attack --cluster` where machines do not see the folder of runs: the run is sent to them."""

from __future__ import annotations

import errno
import json
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from apdm_cli.digests import folder_digest
from apdm_cli.errors import ApdmError, UsageError
from apdm_cli.runs.atomic import writing_to
from tests.clusters import StandIn, stand_in
from tests.harness.conftest import Place
from tests.harness.test_attack_command import attack, rows
from tests.harness.test_queue import posix

__all__ = ["stand_in"]  # a fixture

pytestmark = posix
OPTIONS = ("--plugin", "dreambooth", "--json")
CLUSTER = ("--cluster", "auto")
# What differs between two runs of the same cell.
ITS_OWN = ("created", "duration_seconds", "pace", "versions")


@pytest.fixture
def machine(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StandIn:
    """A machine whose temporary files lie in `tmp_path/machine`."""
    (tmp_path / "machine").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "machine"))
    return stand_in


def blind(place: Place) -> Callable[[pytest.MonkeyPatch], None]:
    """Makes a machine one that does not see the folder of runs."""

    def within(patch: pytest.MonkeyPatch) -> None:
        for marker in place.root.glob(".tmp-cluster-*"):
            marker.unlink()

    return within


def results(place: Place) -> list[Any]:
    """What a run's two cells hold, by name: bytes, and the manifest."""
    found = []
    for folder in ("run/attacks", "_control"):
        (cell,) = (place.root / folder).iterdir()
        manifest = json.loads((cell / "manifest.json").read_text())
        files = {
            file.relative_to(cell).as_posix(): file.read_bytes()
            for file in sorted(cell.rglob("*"))
            if file.is_file() and file.name != "manifest.json"
        }
        found.append((cell.name, files, {k: v for k, v in manifest.items() if k not in ITS_OWN}))
    return found


def errands(machine: StandIn) -> int:
    """How many there were, until now."""
    return len([name for name, _ in machine.sent if name == "_errand"])


def test_a_machine_that_sees_nothing_does_the_same_cells(
    machine: StandIn, place: Place, tmp_path: Path
) -> None:
    attack(place, *OPTIONS)
    alone = results(place)
    machine.within = blind(place)
    found = attack(place, *OPTIONS, *CLUSTER, "--rerun")
    assert [row["status"] for row in rows(found)] == ["done", "done"]
    assert results(place) == alone
    said = " ".join(found.stderr.split())
    assert "does not see the folder of runs" in said
    assert "The run is sent to the machines" in said and "photos are read where they lie" in said
    assert machine.done == 4, "one that refused, a task for each cell, and the clearing"
    assert list((tmp_path / "machine").iterdir()) == []
    assert not list(place.root.rglob("*.partial"))


def test_photos_and_models_are_sent_where_that_is_asked_for(
    machine: StandIn, place: Place, tmp_path: Path
) -> None:
    """The machine has none of them, and forgets them: not one is there after its cell."""
    (place.photos / "0.txt").write_text("a photo of sks person at the beach")
    captions = ("--set", "dreambooth.captions=true")
    attack(place, *OPTIONS, *captions)
    alone = results(place)
    hidden = tmp_path / "hidden"
    kept: list[list[str]] = []

    def within(patch: pytest.MonkeyPatch) -> None:
        home = list((tmp_path / "machine").rglob("*"))
        kept.append([path.name for path in home if path.suffix in (".png", ".txt")])
        for folder in (place.photos, place.model):
            if folder.exists():
                hidden.mkdir(exist_ok=True)
                shutil.move(folder, hidden / folder.name)

    machine.within = within
    try:
        found = attack(place, *OPTIONS, *captions, *CLUSTER, "--send-photos", "--rerun")
    finally:
        for folder in hidden.iterdir():
            shutil.move(folder, place.photos.parent / folder.name)
        (place.photos / "0.txt").unlink()
    assert [row["status"] for row in rows(found)] == ["done", "done"]
    assert results(place) == alone
    said = " ".join(found.stderr.split())
    assert "among them the photos and what lies beside them, 0.png, 1.png" in said
    assert "0.txt" in said
    pictures = {name for names in kept for name in names}
    assert pictures == {"00000.png", "00001.png"}, "class pictures, which the next cell needs too"
    assert list((tmp_path / "machine").iterdir()) == []


def test_photos_that_are_not_there_are_named_and_not_sent(
    machine: StandIn, place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    see = blind(place)

    def within(patch: pytest.MonkeyPatch) -> None:
        see(patch)
        patch.setattr("apdm_cli.harness.sending.Luggage.absent", lambda self: self.elsewhere[0])

    machine.within = within
    with pytest.raises(ApdmError) as refused:
        attack(place, *OPTIONS, *CLUSTER)
    assert f"does not have the photos {place.photos}" in refused.value.what
    assert "add --send-photos, which sends the photos" in refused.value.hint
    assert "0.png, 1.png" in refused.value.hint and "They are private" in refused.value.hint
    assert not list(place.root.rglob("*.partial")), "no cell is begun, or held"
    assert list((tmp_path / "machine").iterdir()) == []


def test_what_fails_there_fails_here_too(machine: StandIn, place: Place, tmp_path: Path) -> None:
    """Its plugin and its suite are sent as well. The attack's own error is tried once."""
    machine.machines = ("first", "second")
    plugin = tmp_path / "failing.py"
    plugin.write_text(
        "from apdm_attacks.dreambooth import DreamBooth\n"
        "from apdm_cli.plugin import hookimpl\n"
        "class Failing(DreamBooth):\n"
        "    '''Raises.'''\n"
        "    name = 'failing'\n"
        "    def trainable(self, model, subject, config):\n"
        f"        assert not str(__file__).startswith({str(plugin)!r})\n"
        "        raise RuntimeError('there')\n"
        "@hookimpl\n"
        "def apdm_attacks():\n"
        "    return [Failing()]\n"
    )
    suite = tmp_path / "mine.toml"
    suite.write_text('[[attack]]\nname = "failing"\n[[attack]]\nname = "dreambooth"\n')
    machine.within = blind(place)
    options = ("--plugin-file", str(plugin), "--suite", str(suite), "--no-control", "--json")
    failed, done = rows(attack(place, *options, *CLUSTER))
    assert (failed["error"], done["status"]) == ("there", "done")
    assert errands(machine) == 2
    (partial,) = (place.root / "run" / "attacks").glob("failing-*.partial")
    assert {path.name for path in partial.iterdir()} == {"failure.json", "traceback.txt"}


def test_a_cell_whose_machine_cannot_do_it_is_done_by_another_one(
    machine: StandIn, place: Place, tmp_path: Path
) -> None:
    """On the first one the disk is full, before a cell begins or while it writes the artifact."""
    attack(place, *OPTIONS)
    alone = results(place)
    machine.machines = ("first", "second")
    see = blind(place)

    doors = [
        "apdm_cli.harness.sending.Luggage.unpack",
        "apdm_cli.harness.work.run_attack",
    ]
    met: list[str] = []

    def within(patch: pytest.MonkeyPatch) -> None:
        see(patch)
        if machine.on == "first" and errands(machine):
            for door in doors[len(met) : len(met) + 1]:
                patch.setattr(door, partial(full, door))

    def full(door: str, *given: Any, **options: Any) -> Any:
        met.append(door)
        with writing_to(tmp_path / "there"):
            raise OSError(errno.ENOSPC, "No space left on device")

    machine.within = within
    found = attack(place, *OPTIONS, *CLUSTER, "--rerun")
    assert [row["status"] for row in rows(found)] == ["done", "done"]
    assert results(place) == alone
    assert met == doors and errands(machine) == 4
    said = " ".join(found.stderr.split())
    assert said.count("No space left on device. It is tried once more on another machine.") == 2
    assert list((tmp_path / "machine").iterdir()) == [] and not list(place.root.rglob("*.partial"))


@pytest.mark.parametrize(
    ("machines", "error", "tries"),
    [
        (("first", "second"), RuntimeError("no driver"), 2),
        (("first", "second"), UsageError("cannot be meant"), 1),
        (("first",), RuntimeError("no driver"), 1),
    ],
)
def test_a_cell_that_no_machine_can_do_is_tried_twice_at_most(
    machines: tuple[str, ...], error: Exception, tries: int, machine: StandIn, place: Place
) -> None:
    machine.machines = machines
    see = blind(place)

    def within(patch: pytest.MonkeyPatch) -> None:
        see(patch)
        patch.setattr("apdm_cli.harness.sending.Luggage.unpack", fails)

    def fails(*given: Any) -> Any:
        raise error

    machine.within = within
    with pytest.raises(ApdmError, match=f"is not done: {error.args[0]}"):
        attack(place, *OPTIONS, "--no-control", "--rerun", *CLUSTER)
    assert errands(machine) == tries
    assert not list(place.root.rglob("*.partial")), "no cell is held"


def test_what_is_left_is_done_where_the_protected_model_is_finished(
    machine: StandIn, place: Place
) -> None:
    """The machine plans all cells as the command does, for which it needs both models."""
    attack(place, *OPTIONS, "--no-control")
    machine.within = blind(place)
    found = rows(attack(place, *OPTIONS, *CLUSTER))
    assert [(row["arm"], row["status"]) for row in found] == [
        ("original", "done"),
        ("protected", "cached"),
    ]


def test_a_run_that_lies_elsewhere_is_sent(machine: StandIn, place: Place, tmp_path: Path) -> None:
    """It was named by its folder, and --out is another one."""
    elsewhere = tmp_path / "elsewhere"
    (place.root / "run").rename(elsewhere)
    machine.within = blind(place)
    (row,) = rows(attack(place, str(elsewhere), *OPTIONS, *CLUSTER, "--no-control"))
    assert (row["status"], Path(row["path"]).parent) == ("done", elsewhere / "attacks")
    config = json.loads((Path(row["path"]) / "artifact/unet/config.json").read_text())
    assert config["_name_or_path"] == str(elsewhere / "model" / "unet")


def test_a_model_protected_elsewhere_is_sent(machine: StandIn, place: Place) -> None:
    protected = place.root / "run" / "model"
    model = ("--model", str(protected), "--original", str(place.model), "--no-control")
    options = (*OPTIONS, *model, "--photos", str(place.photos), "--subject-class", "person")
    (alone,) = (Path(row["path"]) for row in rows(attack(place, *options)))
    before = folder_digest(alone / "artifact")
    machine.within = blind(place)
    (row,) = rows(attack(place, *options, *CLUSTER, "--send-photos", "--rerun"))
    assert (row["status"], Path(row["path"])) == ("done", alone)
    assert folder_digest(alone / "artifact") == before
    manifest = json.loads((alone / "manifest.json").read_text())
    assert manifest["model"]["source"] == str(protected.resolve())


def test_photos_are_sent_to_a_cluster_only(place: Place) -> None:
    with pytest.raises(UsageError, match="--send-photos goes with --cluster"):
        attack(place, *OPTIONS, "--send-photos")
