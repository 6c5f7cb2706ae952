"""`apdm doctor`: it says what it found, mends only what is stale, and no check stops another."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from apdm_cli.cli.main import build_app
from apdm_cli.doctor import installed, machine, network, packages
from apdm_cli.doctor.findings import Finding, State, ok, run_checks
from apdm_cli.doctor.leftovers import STALE_SECONDS, leftovers, stale
from apdm_cli.errors import ApdmError
from apdm_cli.extension.metric import MetricUnavailable
from apdm_cli.runs.lock import FolderLock
from tests.made_runs import add_attack, interrupt_attack, make_run, write


def by_area(findings: Iterator[Finding]) -> list[tuple[str, State, str]]:
    return [(one.area, one.state, one.says) for one in findings]


def aged(path: Path, seconds: float = STALE_SECONDS + 60) -> Path:
    then = time.time() - seconds
    os.utime(path, (then, then))
    return path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the checks that take seconds and a network."""
    nothing = lambda *arguments: iter(())  # noqa: E731
    monkeypatch.setattr(installed, "metrics", nothing)
    monkeypatch.setattr(network, "hub", nothing)


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(build_app({"doctor"}), ["doctor", *arguments])


def test_a_machine_without_a_card_and_network_is_well(quick: None, tmp_path: Path) -> None:
    result = invoke("--json", "--out", str(tmp_path / "runs"))
    said = json.loads(result.stdout)
    assert result.exit_code == 0 and said["problems"] == 0, said
    areas = {one["area"] for one in said["findings"]}
    assert {"python", "packages", "memory", "disk", "device", "precision", "plugins"} <= areas
    assert not (tmp_path / "runs").exists()  # looked at, not made


def test_a_problem_is_exit_1_and_the_other_checks_still_run(
    quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def torn(*arguments: Any) -> Iterator[Finding]:
        raise RuntimeError("libcudart.so.13: cannot open\nmore")

    monkeypatch.setattr(machine, "device", torn)
    result = invoke("--out", str(tmp_path))
    assert result.exit_code == 1
    assert "RuntimeError: libcudart.so.13: cannot open" in result.stdout
    assert "more" not in result.stdout and "plugins" in result.stdout
    assert "1 thing wants mending." in result.stdout


def test_the_order_of_checks_and_what_they_raise() -> None:
    def refused() -> Iterator[Finding]:
        yield ok("a", "first")
        raise ApdmError("It is closed.", "Open it.")

    found = list(run_checks([("a", refused), ("b", lambda: [ok("b", "second")])]))
    assert by_area(iter(found)) == [
        ("a", State.OK, "first"),
        ("a", State.PROBLEM, "It is closed"),
        ("b", State.OK, "second"),
    ]
    assert found[1].advice == "Open it."


def test_a_missing_an_old_and_an_untested_package(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"rich": None, "typer": "0.1", "pluggy": "99.0", "torch": "2.14.1+cpu"}
    asked = [r for r in packages.requirements() if r.name in versions]
    assert len(asked) == 4
    tested = {**packages.tested_versions(), "torch": "2.14.1"}
    monkeypatch.setattr(packages, "requirements", lambda: asked)
    monkeypatch.setattr(packages, "tested_versions", lambda: tested)
    monkeypatch.setattr(packages, "version_of", lambda name: versions[name])
    found = {one.data.get("package"): one for one in packages.packages()}
    assert (found["rich"].state, found["typer"].state) == (State.PROBLEM, State.PROBLEM)
    assert found["pluggy"].state is State.NOTE and tested["pluggy"] in found["pluggy"].says
    assert found[None].data["installed"] == {"torch": "2.14.1+cpu"}


def test_a_source_tree_that_is_not_installed_asks_for_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nowhere(name: str) -> Any:
        raise packages.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(packages.metadata, "requires", nowhere)
    assert packages.requirements() == [] and list(packages.packages()) == []


def test_what_no_standard_reads_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["rich", "not a requirement ==", "bitsandbytes>=0.1; extra == 'adam8bit'"]
    asked += ["scikit-image; extra == 'faces'", "pytest; extra == 'test'"]
    versions = {"rich": "2013b-odd", "bitsandbytes": None, "scikit-image": None, "pytest": None}
    monkeypatch.setattr(packages.metadata, "requires", lambda name: asked)
    assert [one.name for one in packages.requirements()] == [*versions]
    monkeypatch.setattr(packages, "version_of", lambda name: versions[name])
    for tested, state, says in (
        ({"rich": "2013b-odd"}, State.OK, "have their tested versions"),
        ({"rich": "2.0"}, State.NOTE, "rich 2013b-odd, tested with 2.0"),
        ({}, State.OK, "fit"),
    ):
        monkeypatch.setattr(packages, "tested_versions", lambda known=tested: known)
        first, last = packages.packages()
        assert first.state is state and first.says.endswith(says)
        assert last.says == "optional and not installed: bitsandbytes, scikit-image"


def test_tested_versions_are_read_where_the_package_lies(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    inside, beside = tmp_path / "apdm_cli" / "constraints.txt", tmp_path / "constraints.txt"
    inside.parent.mkdir()
    monkeypatch.setattr(packages, "files", lambda name: tmp_path / name)
    assert packages.tested_versions() == {}
    beside.write_text("# what was tested\nOpen_CLIP.torch==3.2  # newer too\n\nrich\n")
    assert packages.tested_versions() == {"open-clip-torch": "3.2"}
    inside.write_text("rich==14.0\n")
    assert packages.tested_versions() == {"rich": "14.0"}


def test_tested_versions_know_what_apdm_needs() -> None:
    tested = packages.tested_versions()
    needed = {packages.canonical(r.name) for r in packages.requirements() if r.marker is None}
    assert needed and needed <= set(tested)


def test_precisions_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = machine.precisions()
    assert {"fp32"} <= set(found.data["seconds"]) and found.state is State.OK

    def wrong(device: Any, dtype: Any) -> tuple[float, float]:
        return (0.5 if "bfloat16" in str(dtype) else 0.0), 0.001

    monkeypatch.setattr(machine, "_product", wrong)
    states = {one.says.split()[0]: one.state for one in machine.precisions()}
    assert states["bf16"] is State.NOTE

    def refused(device: Any, dtype: Any) -> tuple[float, float]:
        raise RuntimeError("not implemented for 'Half'")

    monkeypatch.setattr(machine, "_product", refused)
    assert [one.state for one in machine.precisions()] == [
        State.PROBLEM,
        State.NOTE,
        State.NOTE,
    ]


def test_a_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = os.access
    closed = tmp_path / "closed"
    closed.mkdir()
    monkeypatch.setattr(os, "access", lambda p, m: Path(p) != closed and real(p, m))
    found = list(machine.disks(closed / "runs", {"cache": closed / "c"}))
    assert [one.state for one in found] == [State.PROBLEM, State.NOTE]


def test_a_broken_plugin_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    from apdm_cli.extension import manager

    class Entry:
        name, value, dist = "bad", "bad", None

        def load(self) -> Any:
            raise ImportError("no module named nothing")

    monkeypatch.setattr(manager.importlib.metadata, "entry_points", lambda group: [Entry()])
    states = [(one.state, one.says) for one in installed.plugins()]
    assert states[1][0] is State.PROBLEM and "no module named nothing" in states[1][1]


def test_what_is_switched_off_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APDM_DISABLE_PLUGINS", "apdm:attacks")
    found = list(installed.plugins())
    assert found[0].says.startswith("0 attacks, ") and " families" in found[0].says
    assert (found[1].state, found[1].says) == (
        State.NOTE, "apdm:attacks is switched off by APDM_DISABLE_PLUGINS"
    )  # fmt: skip


def test_a_metric_with_a_mistake_is_a_note_and_the_others_are_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Metric:
        def __init__(self, error: Exception | None) -> None:
            self.error = error

        def prepare(self, model: Any, device: Any) -> None:
            assert os.environ["HF_HUB_OFFLINE"] == "1"
            if self.error is not None:
                raise self.error

        def score(self, pictures: Any) -> Any:
            return SimpleNamespace(backend=SimpleNamespace(name="made-up"))

    known = {
        "good": Metric(None),
        "wordless": Metric(RuntimeError()),
        "wrong": Metric(KeyError("vgg\nand more")),
        "absent": Metric(MetricUnavailable("it is away (HF_HUB_OFFLINE is set)")),
    }
    monkeypatch.setattr("apdm_cli.extension.manager.metrics", lambda manager: known)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    pocket, photographs, *notes = installed.metrics({})
    assert pocket.data["backends"] == photographs.data["backends"] == {"good": "made-up"}
    assert [one.says for one in notes] == [
        "wordless is not ready: RuntimeError: ",
        "wrong is not ready: KeyError: 'vgg\\nand more'",
        "absent is not ready: it is away (this check downloads nothing)",
    ]
    assert "HF_HUB_OFFLINE" not in os.environ


def test_cards_are_named_with_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    card = SimpleNamespace(name="H100", total_memory=85 * 10**9)
    monkeypatch.setattr("apdm_cli.devices.resolve_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    chosen, *cards = machine.device()
    assert chosen.data["auto"] == "cuda"
    assert [one.says for one in cards] == [
        f"cuda:{number} is an H100 with 85.0 GB" for number in (0, 1)
    ]


@pytest.mark.parametrize(
    ("total", "free", "state", "says"),
    [
        (None, None, State.NOTE, "the amount of main memory is not known on this system"),
        (64 * 10**9, 3 * 10**9, State.NOTE, "64.0 GB of main memory, 3.0 GB free"),
        (64 * 10**9, 30 * 10**9, State.OK, "64.0 GB of main memory, 30.0 GB free"),
        (2 * 10**9, None, State.NOTE, "2.0 GB of main memory"),
        (8 * 10**9, None, State.OK, "8.0 GB of main memory"),
    ],
)
def test_little_memory_is_a_note(
    monkeypatch: pytest.MonkeyPatch, total: int | None, free: int | None, state: State, says: str
) -> None:
    monkeypatch.setattr(machine, "_memory", lambda: (total, free))
    (found,) = machine.memory()
    assert (found.state, found.says) == (state, says)


def test_a_container_has_the_memory_of_its_limit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = Path.read_text
    texts = {
        "/proc/meminfo": "MemTotal: 64000000 kB\nMemAvailable: 50000000 kB\n",
        "/sys/fs/cgroup/memory.max": "8000000000\n",
        "/sys/fs/cgroup/memory.current": "5000000000\n",
    }
    monkeypatch.setattr(Path, "read_text", lambda path: texts.get(str(path)) or real(path))
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 16 * 10**6,
                                        "SC_AVPHYS_PAGES": 10**6}.__getitem__)  # fmt: skip
    (found,) = machine.memory()
    assert found.data == {"total": 8 * 10**9, "free": 3 * 10**9}
    texts["/sys/fs/cgroup/memory.max"] = "max\n"
    (found,) = machine.memory()
    assert found.data == {"total": 4096 * 16 * 10**6, "free": 51_200_000_000}

    def unknown(name: str) -> int:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "sysconf", unknown)
    (found,) = machine.memory()
    assert found.data == {} and found.state is State.NOTE


@pytest.mark.parametrize(
    ("free", "states"),
    [
        (10**8, [State.PROBLEM, State.PROBLEM]),
        (10**9, [State.NOTE, State.OK]),
        (10**10, [State.OK, State.OK]),
    ],
)
def test_little_room_is_a_note_for_runs_and_none_a_problem(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: int, states: list[State]
) -> None:
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda place: SimpleNamespace(free=free))
    found = list(machine.disks(tmp_path / "runs" / "mine", {"cache": tmp_path / "cache"}))
    assert [one.state for one in found] == states
    assert not any(tmp_path.iterdir())


def test_metrics_are_tried_and_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    found = list(installed.metrics({}))
    ready = [one for one in found if one.state is State.OK]
    assert len(ready) == 2 and "dino" in ready[0].data["backends"]
    assert any("lpips" in one.says for one in found if one.state is State.NOTE)
    assert any("npm pack @vladmandic/face-api" in one.says for one in found)
    assert os.environ["HF_HUB_OFFLINE"] == "0"


def test_offline_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert [one.state for one in network.hub()] == [State.NOTE]
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", "https://localhost:1")
    monkeypatch.setattr(network, "getproxies", dict)
    (found,) = network.hub()
    assert found.state is State.NOTE and "localhost" in found.says


def test_only_what_is_certainly_stale_goes(tmp_path: Path) -> None:
    run = make_run(tmp_path, "ann")
    add_attack(run, "lora-1")
    write(run.path / ".tmp-old", 10)
    write(tmp_path / "_control" / ".tmp-old" / "weights", 10)
    replaced = run.attacks / "lora-1.old.partial"
    write(replaced / "manifest.json", 10)
    empty = run.attacks / "heal-1.partial"
    empty.mkdir()
    write(run.checkpoints / "step-000001" / "state.json", 10)  # killed just after it was done
    for path in (run.path / ".tmp-old", tmp_path / "_control" / ".tmp-old", empty):
        aged(path)
    # What must stay: work to go on with, what is being written, what somebody holds, a result
    # that was set aside and not replaced.
    write(run.path / ".tmp-new", 10)
    kept = [interrupt_attack(run, "rounds-1"), run.path / ".tmp-new"]
    held = run.attacks / "held.partial"
    held.mkdir()
    kept.append(aged(held))
    only = run.attacks / "gone.old.partial"
    write(only / "manifest.json", 10)
    kept.append(only)
    going_on = make_run(tmp_path, "bob", done=False)
    write(going_on.checkpoints / "step-000001" / "state.json", 10)
    kept.append(going_on.checkpoints)
    lock = FolderLock(held)
    assert len(list(stale(tmp_path))) == 5
    list(leftovers(tmp_path, fix=False))
    assert replaced.exists()
    said = by_area(leftovers(tmp_path, fix=True))
    assert ("runs", State.OK, "removed 5 stale leftovers (40 bytes)") in said
    assert not list(stale(tmp_path)) and all(path.exists() for path in kept)
    lock.release()
    assert (run.attacks / "lora-1" / "manifest.json").is_file()


def test_a_stale_link_is_not_followed(tmp_path: Path) -> None:
    write(tmp_path / "precious" / "file", 10)
    root = tmp_path / "runs"
    make_run(root, "ann")
    (root / ".tmp-link").symlink_to(tmp_path / "precious")
    (root / "ann" / "attacks").mkdir()
    (root / "ann" / "attacks" / "x.partial").symlink_to(tmp_path / "precious")
    list(leftovers(root, fix=True))
    assert (tmp_path / "precious" / "file").is_file()


def test_what_can_be_gone_on_with_is_named(tmp_path: Path) -> None:
    make_run(tmp_path, "stopped", done=False)
    interrupt_attack(make_run(tmp_path, "attacked"), "lora-1")
    said = {one.says: one.advice for one in leftovers(tmp_path, fix=False)}
    assert "--resume" in said["stopped was interrupted"]
    assert "apdm attack attacked" in said["attacked: 1 attack was interrupted"]


def test_attacks_on_originals_that_no_run_needs_are_named(tmp_path: Path) -> None:
    run = make_run(tmp_path, "ann")
    add_attack(run, "lora-1", control="lora-0")
    assert not any("no run needs" in one.says for one in leftovers(tmp_path, fix=True))
    shutil.rmtree(run.path)
    (found,) = [one for one in leftovers(tmp_path, fix=True) if "no run needs" in one.says]
    assert found.says.startswith("1 attack on an original") and "--orphans" in found.advice
    assert (tmp_path / "_control" / "lora-0").is_dir()  # not stale: somebody may still want it


def test_a_broken_user_file_is_reported_not_fatal(
    quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from apdm_cli.cli import main as cli

    (tmp_path / "apdm.toml").write_text("devise = 1")
    monkeypatch.setenv("APDM_CONFIG", str(tmp_path / "apdm.toml"))
    with pytest.raises(SystemExit) as ended:
        cli.main(["doctor", "--out", str(tmp_path), "--json"])
    said = json.loads(capsys.readouterr().out)
    (finding,) = [one for one in said["findings"] if one["state"] == "problem"]
    assert ended.value.code == 1 and "devise" in finding["says"]


def test_an_untested_python_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 99, 0, "final", 0))
    assert [one.state for one in packages.python()] == [State.NOTE]
