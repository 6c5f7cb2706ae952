"""Configurations, assignments and words from options: used as they are, or refused."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field

from apdm_cli.config import Settings, describe, parse_assignments, read_toml, resolve
from apdm_cli.diffusion.words import check_word
from apdm_cli.errors import UsageError
from apdm_cli.extension.attack import Attack
from apdm_cli.extension.manager import attacks, build_plugin_manager, registered_protections
from apdm_cli.runs.names import check_name, default_name, slug
from tests.hostile.counting import hostile
from tests.hostile.inputs import TEXTS, VALUES, Tally, toml_texts


class Inner(Settings):
    weight: float = 1.0


class Example(Settings):
    rate: float = Field(1e-4, gt=0)
    steps: int = 10
    word: str = "sks"
    many: tuple[float, ...] = ()
    limit: float | None = None
    flag: bool = False
    inner: Inner = Inner()


@hostile("configurations and words", "read_toml")
def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    tally = Tally()
    for number, content in enumerate(toml_texts()):
        file = tmp_path / "a.toml"
        file.write_bytes(content)
        tally.offer(f"{number}: {content[:20]!r}", read_toml, file)
    assert not tally.failed, tally.failed[:5]
    assert not tally.used, tally.used[:5]


@hostile("configurations and words", "resolve")
def test_assignments() -> None:
    """Every text as a key and as the value of every kind of setting."""
    tally = Tally()
    for text in TEXTS:
        for key in ("rate", "steps", "word", "many", "limit", "flag", "inner.weight", text):
            name = f"{key[:20]!r}={text[:20]!r}"
            settings = tally.offer(name, _assigned, key, text)
            if settings is not None:
                _check(settings)
    assert len(tally) > 500
    assert not tally.failed, tally.failed[:5]


@hostile("configurations and words", "resolve")
def test_values_of_every_type() -> None:
    tally = Tally()
    for number, value in enumerate([*VALUES, math.nan, math.inf, -math.inf, 10**5_000]):
        for key in ("rate", "steps", "many", "limit", "flag", "inner"):
            settings = tally.offer(f"{key}: {number}", resolve, Example, {key: value})
            if settings is not None:
                _check(settings)
    assert not tally.failed, tally.failed[:5]


def _check(settings: Example) -> None:
    """What was accepted is what a loop can work with."""
    numbers: list[Any] = [settings.rate, settings.limit or 0.0, settings.inner.weight]
    assert all(math.isfinite(number) for number in [*numbers, *settings.many])
    assert abs(settings.steps) < 2**63


@hostile("configurations and words", "resolve")
def test_numbers_that_mean_nothing() -> None:
    """Every number that an attack or a protection has, and every pair of numbers."""
    plugins = build_plugin_manager()
    known, tally = attacks(plugins), Tally()
    every: dict[str, tuple[Any, Any]] = {
        name: (attack.Config, partial(_configured, attack, known)) for name, attack in known.items()
    }
    for name, one in registered_protections(plugins).items():
        every[name] = (one.item.Config, partial(resolve, one.item.Config))
    for name, (config, made) in every.items():
        for setting in describe(config):
            kind = type(setting.default)
            if kind in (int, float):
                values = ["-2"]
            elif kind is tuple and len(setting.default) == 2:
                values = ["[-2, 1]", "[-2, -1]", "[1, 0]"]
            else:
                continue
            if setting.key.endswith("timestep_range"):
                values += ["[0.9, 0.1]", "[-0.5, 0.5]", "[2, 3]", "[0.5, 0.5]", "[0, 1.5]"]
            for value in values:
                text = f"{setting.key}={value}"
                tally.offer(f"{name}: {text}", made, parse_assignments([text]))
    assert len(tally) > 300
    assert not tally.failed, tally.failed[:5]
    assert not tally.used, tally.used[:5]


def _configured(attack: Attack, known: dict[str, Attack], settings: dict[str, Any]) -> Any:
    return attack.configure("", (settings,), known)


def test_a_field_may_ask_for_infinity() -> None:
    class Bound(Settings):
        most: float = Field(math.inf, allow_inf_nan=True)

    assert resolve(Bound).most == math.inf
    assert resolve(Bound, parse_assignments(["most=inf"])).most == math.inf


@hostile("configurations and words", "check_word, check_name")
def test_words_and_names() -> None:
    tally = Tally()
    for text in TEXTS:
        name = repr(text[:20])
        word = tally.offer(f"class {name}", check_word, text, "--class")
        if word is not None:
            assert word.isprintable() and 0 < len(word) <= 200
        called = tally.offer(f"name {name}", check_name, text)
        if called is not None:
            assert called.isprintable() and len(called.encode()) <= 255
        assert slug(text).isascii()
        tally.offer(f"default {name}", _default_name, text)
    assert not tally.failed, tally.failed[:5]


def test_messages_stay_short() -> None:
    for text in TEXTS:
        for make in (parse_assignments, lambda parts: resolve(Example, {parts[0]: 1})):
            try:
                make([text])
            except UsageError as error:
                assert len(error.what) < 300


def _assigned(key: str, text: str) -> Example:
    return resolve(Example, parse_assignments([f"{key}={text}"]))


def _default_name(text: str) -> str:
    return default_name([Path(text)], text)
