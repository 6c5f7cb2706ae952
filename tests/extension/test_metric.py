"""What a metric declares is checked before it costs anybody time, and decides the order."""

from __future__ import annotations

import importlib.metadata
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from apdm_cli.extension.checks import metric_problem
from apdm_cli.extension.hooks import hookimpl
from apdm_cli.extension.manager import build_plugin_manager, metrics
from apdm_cli.extension.metric import Metric


class Fake(Metric):
    """One line about it."""

    name = "fake"
    kind = "quality"
    better = "lower"
    better_for_others = "higher"

    def prepare(self, model: Any, device: Any) -> NoReturn:
        raise NotImplementedError

    def score(self, pictures: Any) -> NoReturn:
        raise NotImplementedError


def with_(**declared: Any) -> Metric:
    return type("Other", (Fake,), {"__doc__": "One line.", **declared})()


class Silent(Metric):
    """Declares nothing but a name."""

    name = "silent"
    prepare = Fake.prepare
    score = Fake.score


@pytest.mark.parametrize(
    ("metric", "problem"),
    [
        (Fake(), None),
        (with_(kind="similarity", leads=True), None),
        (Fake, "Fake is not a Metric instance"),
        (Silent(), "metric silent: it declares no kind"),
        (with_(name="Bad Name"), "'Bad Name'"),
        (with_(kind="kidney"), "kind: Input should be 'similarity', 'distance' or 'quality'"),
        (with_(better="up"), "better: Input should be 'lower' or 'higher', got 'up'"),
        (with_(better_for_others=None), "better_for_others"),
        (with_(leads=True), 'kind = "similarity", better = "lower"'),
        (with_(reads=()), None),
        (with_(reads=["clip"]), None),
        (with_(reads="clip"), "metric fake: reads must be a tuple of names, not 'clip'"),
        (with_(reads=5), "reads must be a tuple of names"),
        (with_(reads=("clip", 5)), "reads must be a tuple of names"),
        (with_(kind="similarity", better="higher", leads=True), 'better = "lower"'),
    ],
)
def test_declarations_are_checked(metric: Any, problem: str | None) -> None:
    found = metric_problem(metric)
    assert found is None if problem is None else found is not None and problem in found


def test_what_is_not_declared_follows_from_name_and_docstring() -> None:
    assert (Fake().meaning.title, Fake().meaning.explanation) == ("fake", "One line about it.")
    assert [Fake().meaning.direction(role) for role in ("attack", "utility", "neighbour")] == [
        "lower", "higher", "higher"
    ]  # fmt: skip


def test_our_own_come_first_and_plugins_always_in_one_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of two metrics that may lead the verdict the first does: that must not be by chance."""

    def entry(distribution: str, name: str) -> Any:
        class Plugin:
            @hookimpl
            def apdm_metrics(self) -> list[Metric]:
                return [with_(name=name)]

        dist = SimpleNamespace(name=distribution, version="1")
        return SimpleNamespace(name="metrics", dist=dist, load=Plugin)

    entries = [entry("zebra", "z"), entry("apdm", "own"), entry("aardvark", "a")]
    for order in (entries, entries[::-1]):
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda group, order=order: order)
        assert list(metrics(build_plugin_manager())) == ["own", "a", "z"]
