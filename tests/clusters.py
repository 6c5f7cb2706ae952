"""Ray for tests: two machines of a real cluster, and a stand-in where Ray is not installed."""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

# What every Python process of a machine runs first that does not see some folders.
BLIND = """
import os, sys
def refuse(event, given):
    if event in ("open", "os.listdir", "os.scandir") and isinstance(given[0], (str, os.PathLike)):
        if os.fspath(given[0]).startswith({hidden!r}):
            raise FileNotFoundError(2, "is not seen here", os.fspath(given[0]))
sys.addaudithook(refuse)
"""
LONGEST = 240.0  # seconds for anything that another process does, on the busiest machine


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head that computes nothing, and two machines of one processor each."""
    with machines(monkeypatch) as made:
        yield made


@contextlib.contextmanager
def machines(monkeypatch: pytest.MonkeyPatch, **environment: str) -> Iterator[Any]:
    """The same, with `environment` in every machine."""
    pytest.importorskip("ray", reason="the extra `cluster` is not installed")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    utilities = importlib.import_module("ray.cluster_utils")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    each = {"object_store_memory": 80 * 2**20, "env_vars": environment}
    made = None
    try:
        try:
            made = utilities.Cluster(
                initialize_head=True,
                head_node_args={
                    "num_cpus": 0,
                    "include_dashboard": False,
                    "ray_client_server_port": port,
                    **each,
                },
            )
            made.from_outside = f"ray://127.0.0.1:{port}"
            for _ in range(2):
                made.add_node(num_cpus=1, **each)
        except Exception as error:  # Ray waits for half a minute, however busy the machine is
            pytest.skip(f"Ray could not start a cluster here: {error}")
        yield made
    finally:
        if made is not None:
            made.shutdown()


@contextlib.contextmanager
def blind_machines(monkeypatch: pytest.MonkeyPatch, folder: Path, *hidden: Path) -> Iterator[Any]:
    """The same; none of them can open a file below `hidden`, or list a folder there.

    Their temporary files lie in `folder/temporary`.
    """
    (folder / "temporary").mkdir()
    (folder / "sitecustomize.py").write_text(BLIND.format(hidden=tuple(map(str, hidden))))
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    with machines(monkeypatch, PYTHONPATH=path, TMPDIR=str(folder / "temporary")) as made:
        yield made


def lose_a_machine(cluster: Any, workers: Sequence[int]) -> None:
    """Take one of the two machines away; returns when its worker is gone."""
    cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
    until = time.monotonic() + LONGEST
    while all(map(_is_alive, workers)):
        assert time.monotonic() < until, "the lost machine's worker lives on"
        time.sleep(0.05)


def _is_alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    # One that has ended and whose parent was killed stays as a zombie for a moment.
    stat = Path(f"/proc/{number}/stat")
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")


class Kept:
    """What was put where all machines find it."""

    def __init__(self, value: Any) -> None:
        self.value = value


class StandIn(ModuleType):
    """Ray with one machine, which does a task, in this process, when somebody waits for it.

    Attributes:
        resources: what the cluster has.
        answers: whether there is a cluster at all.
        within: entered around every task: what its machine has, and this one has not.
        machines: by name, if there are several; tasks go to the first, unless they ask for another.
        on: the machine of the task that is done just now, or was last.
        asked, done: how many tasks there were, and how many of them were done.
        sent: pickled, what each task was given, with the name of its function.
    """

    class exceptions:
        """As `ray.exceptions`."""

        class RayError(Exception):
            """What a task raised is its `cause`."""

            cause: Exception | None = None

    def __init__(self) -> None:
        super().__init__("ray")
        self.__spec__ = ModuleSpec("ray", None)
        self.resources = {"CPU": 2.0, "node:127.0.0.1": 1.0, "node:__internal_head__": 1.0}
        self.answers = True
        self.within: Callable[[pytest.MonkeyPatch], None] = lambda patch: None
        self.machines: Sequence[str] = ("only",)
        self.on = ""
        strategies = SimpleNamespace(NodeAffinitySchedulingStrategy=lambda node, soft: node)
        self.util = SimpleNamespace(scheduling_strategies=strategies)
        self.asked = self.done = 0
        self.sent: list[tuple[str, bytes]] = []

    def init(self, **asked: Any) -> None:
        if not self.answers:
            raise ConnectionError("Could not find any running Ray instance. If you want one, ...")

    def shutdown(self) -> None:
        """There is nothing to leave."""

    def cluster_resources(self) -> dict[str, float]:
        return self.resources

    def nodes(self) -> list[dict[str, Any]]:
        has = {"Alive": True, "Resources": {"CPU": 1.0}}
        return [{"NodeID": name, **has} for name in self.machines]

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(get_node_id=lambda: self.on)

    def remote(self, **resources: Any) -> Any:
        def decorated(function: Callable[..., Any]) -> Any:
            def wanted(scheduling_strategy: str) -> Any:
                def begin(*given: Any) -> Any:
                    self.asked += 1
                    self.sent.append((function.__name__, pickle.dumps(given)))
                    return function, given, scheduling_strategy

                return SimpleNamespace(remote=begin, options=wanted)

            return wanted("")

        return decorated

    def put(self, value: Any) -> Any:
        return Kept(value)

    def wait(self, tasks: list[Any], **how: Any) -> tuple[list[Any], list[Any]]:
        return tasks[:1], tasks[1:]

    def get(self, task: Any, **how: Any) -> Any:
        if isinstance(task, list):
            return [self.get(one) for one in task]
        function, given, where = task
        self.on = where or self.machines[0]
        given = [one.value if isinstance(one, Kept) else one for one in given]
        folder = Path.cwd()
        try:
            with pytest.MonkeyPatch.context() as patch:
                self.within(patch)
                return function(*given)
        except Exception as error:
            failed = self.exceptions.RayError("ray::task() ... and its traceback")
            failed.cause = error
            raise failed from error
        finally:
            self.done += 1
            os.chdir(folder)

    def cancel(self, task: Any, **how: Any) -> None:
        """None goes on by itself."""


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Ray as far as this house speaks with it."""
    made = StandIn()
    monkeypatch.setitem(sys.modules, "ray", made)
    return made
