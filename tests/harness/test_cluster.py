"""`apdm attack --cluster`: two machines of a Ray cluster, of which one is lost in the middle."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from apdm_cli import __version__
from apdm_cli.digests import folder_digest
from apdm_cli.errors import ApdmError, UsageError
from apdm_cli.harness.cluster import Cluster, in_one_precision
from tests.clusters import LONGEST, StandIn, blind_machines, cluster, lose_a_machine, stand_in
from tests.harness.conftest import Place
from tests.harness.test_attack_command import attack
from tests.harness.test_queue import Processes, _finished, posix, processes
from tests.harness.test_separation import planned

__all__ = ["cluster", "processes", "stand_in"]  # fixtures


@posix
@pytest.mark.extras
def test_the_work_of_a_lost_machine_is_finished_by_the_other_with_the_same_bytes(
    cluster: Any, processes: Processes, place: Place
) -> None:
    command = processes.start("--cluster", cluster.address, "--checkpoint-every", "1")
    lose_a_machine(cluster, command.halted(processes.folder))
    processes.go()
    statuses, _ = _finished(command)
    assert statuses == ["done", "done"]
    assert not list(place.root.glob(".tmp-*"))
    cells = [next((place.root / folder).iterdir()) for folder in ("run/attacks", "_control")]
    together = [folder_digest(cell / "artifact") for cell in cells]
    assert _finished(processes.start("--rerun"))[0] == ["done", "done"]
    assert [folder_digest(cell / "artifact") for cell in cells] == together


@pytest.fixture
def strangers(monkeypatch: pytest.MonkeyPatch, place: Place, tmp_path: Path) -> Iterator[Any]:
    """The same cluster; no machine can open a file in the folder of runs, or list one."""
    with blind_machines(monkeypatch, tmp_path, place.root) as made:
        yield made


@posix
@pytest.mark.extras
def test_strangers_do_the_cells_with_the_same_bytes_though_one_is_lost(
    strangers: Any, processes: Processes, place: Place, tmp_path: Path
) -> None:
    command = processes.start("--cluster", strangers.address)
    lose_a_machine(strangers, command.halted(processes.folder))
    left = list((tmp_path / "temporary").glob("apdm-*/cell-*"))
    assert len(left) == 2, "of the one that works, and of the one that is gone"
    processes.go()
    statuses, said = _finished(command)
    assert statuses == ["done", "done"]
    assert "does not see the folder of runs" in said and "is sent to the machines" in said
    assert not list((tmp_path / "temporary").glob("apdm-*"))
    assert not list(place.root.glob(".tmp-*")) and not list(place.root.rglob("*.partial"))
    cells = [next((place.root / folder).iterdir()) for folder in ("run/attacks", "_control")]
    together = [folder_digest(cell / "artifact") for cell in cells]
    assert _finished(processes.start("--rerun"))[0] == ["done", "done"]
    assert [folder_digest(cell / "artifact") for cell in cells] == together


@posix
@pytest.mark.extras
@pytest.mark.parametrize("where", ["address", "from_outside"])
def test_a_part_that_ends_with_an_error_is_tried_on_the_other_machine(
    where: str, cluster: Any, tmp_path: Path
) -> None:
    from apdm_cli.harness.cluster import Cluster, joined, node_here
    from apdm_cli.harness.errands import Errands, told

    @told
    def do(place: Any, folder: str, part: int, device: str, dtype: str) -> tuple[str, Any]:
        """Fails the first time."""
        noted = Path(folder) / f"{part}-{node_here()}"
        noted.touch()
        if len(list(noted.parent.glob(f"{part}-*"))) == 1:
            raise OSError("the disk is full")
        return "", noted.name

    class Noted(Errands[int]):
        def given(self, part: int) -> tuple[Any, ...]:
            return str(tmp_path / "noted"), part

        def put(self, part: int, found: str) -> None:
            kept.append(found)

    (tmp_path / "noted").mkdir()
    kept: list[str] = []
    said: list[str] = []
    address = getattr(cluster, where)
    with joined(address, tmp_path) as (ray, place):
        errands = Noted(ray, Cluster(address), place, [0, 1], do, said.append)
        until = time.monotonic() + LONGEST
        while errands.at_work() is None:
            assert time.monotonic() < until
            time.sleep(0.05)
        errands.kill()
    tried = {path.name for path in (tmp_path / "noted").iterdir()}
    assert errands.succeeded and len(tried) == 4, "each part on both machines"
    assert sorted(one[0] for one in kept) == ["0", "1"] and set(kept) < tried
    assert [one.partition(": ")[2] for one in said] == [
        "the disk is full. It is tried once more on another machine."
    ] * 2


def test_all_workers_compute_in_what_auto_is_on_one_of_them(stand_in: StandIn) -> None:
    module = "apdm_cli.harness.cluster"
    stand_in.within = lambda patch: patch.setattr(
        f"{module}.resolve_dtype", lambda name, device: torch.bfloat16
    )
    cards: tuple[tuple[str, float | None, str, str], ...] = (
        ("auto", None, "auto", "fp32"),  # the cluster has none
        ("with cards", None, "auto", "bf16"),
        ("with cards", 0.0, "auto", "fp32"),
        ("with cards", None, "fp16", "fp16"),
    )
    for address, gpus, asked, expected in cards:
        if address == "with cards":
            stand_in.resources = {"CPU": 2.0, "GPU": 1.0}
        found = in_one_precision(Cluster(address, gpus=gpus, dtype=asked), pytest.fail)
        assert (found.dtype, found.gpus) == (expected, gpus)
    assert stand_in.asked == 1


def test_whoever_waits_for_a_card_is_told_so(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in.resources = {"CPU": 2.0, "GPU": 1.0}
    monkeypatch.setattr(stand_in, "wait", lambda tasks, timeout: ([], tasks))
    said: list[str] = []
    assert in_one_precision(Cluster("busy"), said.append).dtype == "fp32"
    assert len(said) == 1 and "no card free" in said[0]


def test_a_machine_that_differs_or_sees_another_folder_says_so(tmp_path: Path) -> None:
    from apdm_cli.harness.cluster import Place

    (tmp_path / "marker").write_bytes(b"token")
    here: dict[str, Any] = {
        "root": tmp_path,
        "marker": "marker",
        "token": b"token",
        "folder": tmp_path,
        "apdm": __version__,
        "torch": str(torch.__version__),
    }
    assert Place(**here).refusal() == ""
    changes: tuple[tuple[dict[str, Any], str], ...] = (
        ({"apdm": "9.9"}, f"has apdm {__version__}, and the command runs with 9.9"),
        ({"torch": "1.0"}, "and the command runs with 1.0"),
        ({"token": b"another folder's"}, f"does not see the folder of runs, {tmp_path}"),
        ({"root": tmp_path / "nowhere"}, "does not see the folder of runs"),
        ({"folder": tmp_path / "nowhere"}, "where the command was started"),
    )
    for change, words in changes:
        assert words in Place(**{**here, **change}).refusal()


def test_cells_that_nobody_does_any_more_are_named(place: Place) -> None:
    from apdm_cli.harness.execute import Execution, SilentObserver

    arms, cells = planned(place, plugins=("dreambooth",))
    execution = Execution(arms, place.root, SilentObserver())
    with pytest.raises(ApdmError, match=r"dreambooth, original, seed 0 is not done: out of memory"):
        execution.watch(cells, lambda: "out of memory")
    assert not (place.root / "_control").exists(), "whoever watches works on none"


def test_without_ray_the_extra_is_named(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec

    def without_ray(name: str, *rest: Any) -> Any:
        return None if name == "ray" else found(name, *rest)

    monkeypatch.setattr("importlib.util.find_spec", without_ray)
    with pytest.raises(ApdmError, match=r"needs the package ray.*apdm\[cluster\]"):
        attack(place, "--plugin", "dreambooth", "--cluster", "auto")


def test_a_head_that_fails_to_start_a_server_for_this_client_is_asked_again(
    stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apdm_cli.harness.cluster import joined

    failing = ["Initialization failure from server:"] * 5

    def init(**asked: Any) -> None:
        if failing:
            raise ConnectionAbortedError(failing.pop())

    monkeypatch.setattr(stand_in, "init", init)
    with pytest.raises(ApdmError, match="Initialization failure"), joined("ray://x:1", tmp_path):
        """The third time in a row."""
    with joined("ray://x:1", tmp_path):
        assert not failing


def test_without_rays_client_the_extra_is_named(
    place: Place, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**asked: Any) -> None:
        raise ImportError("Ray Client requires pip package `ray[client]`.")

    monkeypatch.setattr(stand_in, "init", init)
    with pytest.raises(ApdmError, match=r"ray://there:1 needs Ray's client.*apdm\[cluster\]"):
        attack(place, "--plugin", "dreambooth", "--cluster", "ray://there:1")


def test_options_that_cannot_be_meant_together(place: Place) -> None:
    with pytest.raises(UsageError, match="--device cuda:0 names a card of this machine"):
        attack(place, "--plugin", "dreambooth", "--cluster", "auto", "--device", "cuda:0")
    with pytest.raises(UsageError, match="--gpus-per-worker goes with --cluster"):
        attack(place, "--plugin", "dreambooth", "--gpus-per-worker", "0.5")
    for count in ("1.5", "inf"):
        more = ("--cluster", "auto", "--gpus-per-worker", count)
        with pytest.raises(UsageError, match=f"{count} is neither a share of one card"):
            attack(place, "--plugin", "dreambooth", *more)
