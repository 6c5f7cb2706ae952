"""Plugins are found, and a broken one costs only itself."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from pydantic import ConfigDict, Field

from apdm_cli.errors import ApdmError, UsageError
from apdm_cli.extension.attack import Attack, AttackConfig
from apdm_cli.extension.hooks import hookimpl
from apdm_cli.extension.manager import (
    attacks,
    build_plugin_manager,
    choose,
    metrics,
    registered_attacks,
)


class Fake(Attack):
    """Does nothing."""

    name = "fake"

    def trainable(self, model: Any, subject: Any, config: Any) -> Any:
        raise NotImplementedError


class FakePlugin:
    @hookimpl
    def apdm_attacks(self) -> list[Attack]:
        return [Fake()]


class Entry:
    """An entry point whose loading is a function."""

    def __init__(self, name: str, distribution: str, load: Any, version: str = "1.0") -> None:
        self.name = name
        self.dist = SimpleNamespace(name=distribution, version=version)
        self.load = load


def _install(monkeypatch: pytest.MonkeyPatch, *entries: Entry) -> None:
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: list(entries))


def _fails(error: BaseException) -> Any:
    def load() -> Any:
        raise error

    return load


def test_first_party_attacks_come_through_the_entry_point() -> None:
    manager = build_plugin_manager()
    found = registered_attacks(manager)
    assert {"dreambooth", "lora", "textual-inversion", "custom-diffusion", "heal"} <= set(found)
    assert found["lora"].origin.distribution == "apdm"
    assert metrics(manager)


def test_a_plugin_can_be_registered_and_unregistered() -> None:
    manager, plugin = build_plugin_manager(), FakePlugin()
    manager.register(plugin, "fake")
    assert "fake" in attacks(manager)
    manager.unregister(plugin)
    assert "fake" not in attacks(manager)


def test_managers_share_nothing() -> None:
    build_plugin_manager().register(FakePlugin(), "fake")
    assert "fake" not in attacks(build_plugin_manager())


TWICE = (Entry("a", "first-dist", FakePlugin), Entry("a", "second-dist", FakePlugin))


@pytest.mark.parametrize(
    ("load", "error"),
    [
        (
            _fails(ImportError("No module named 'nowhere'")),
            "ImportError: No module named 'nowhere'",
        ),
        (_fails(SystemExit(3)), "SystemExit: 3"),
        (lambda: SimpleNamespace(), "no hook in it"),
    ],
)
def test_a_plugin_that_does_not_load_is_skipped(
    monkeypatch: pytest.MonkeyPatch, load: Any, error: str
) -> None:
    _install(monkeypatch, Entry("bad", "bad-dist", load), Entry("good", "good-dist", FakePlugin))
    manager = build_plugin_manager()
    assert list(attacks(manager)) == ["fake"]
    (broken,) = manager.broken.values()
    assert broken.origin.plugin == "bad-dist:bad"
    assert error in broken.error


def test_a_misspelt_hook_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Misspelt:
        @hookimpl
        def apdm_attack(self) -> list[Attack]:
            return []

    _install(monkeypatch, Entry("bad", "bad-dist", Misspelt))
    (broken,) = build_plugin_manager().broken.values()
    assert "unknown hook apdm_attack;" in broken.error


def test_a_hook_with_a_wrong_signature_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong:
        @hookimpl
        def apdm_attacks(self, model: Any) -> list[Attack]:
            return []

    _install(monkeypatch, Entry("bad", "bad-dist", Wrong))
    (broken,) = build_plugin_manager().broken.values()
    assert "apdm_attacks" in broken.error


class BadName(Fake):
    name = "Bad Name"


class NoDefault(Fake):
    class Config(AttackConfig):
        needed: int


class NoDescription(Fake):
    class Config(AttackConfig):
        extra: int = 1


class NotAConfig(Fake):
    Config = dict  # type: ignore[assignment]


class NoJson(Fake):
    class Config(AttackConfig):
        """A default that no manifest can hold."""

        model_config = ConfigDict(arbitrary_types_allowed=True)
        place: object = Field(object(), description="where")


class FlatProfile(Fake):
    profiles: ClassVar[Any] = {"pocket": 3}


class BadDefault(Fake):
    class Config(AttackConfig):
        """A default that its own range refuses."""

        rank: int = Field(0, ge=1, description="of the adapter")


class NoText(Fake):
    summary = 3  # type: ignore[assignment]


class OneKind(Fake):
    kinds: ClassVar[Any] = "adapter"


class NoSwitch(Fake):
    leaves_network: ClassVar[Any] = "yes"


class BadProfile(Fake):
    profiles: ClassVar = {"pocket": {"stepz": 3}}


@pytest.mark.parametrize(
    ("item", "error"),
    [
        (Fake, "Fake is not an Attack instance"),
        ("lora", "str is not an Attack instance"),
        (BadName(), "'Bad Name'"),
        (NoDefault(), "needed of its Config has no default"),
        (NoDescription(), "extra of its Config has no description"),
        (NotAConfig(), "Config must be a subclass of AttackConfig"),
        (BadProfile(), "profile pocket: stepz: unknown setting"),
        (FlatProfile(), "attack fake: profiles must be tables of settings by name"),
        (BadDefault(), "attack fake: defaults: rank"),
        (NoJson(), "attack fake: its Config cannot be written down: no JSON for object"),
        (NoText(), "fake: its summary is no text"),
        (OneKind(), "attack fake: kinds must be a tuple of names, not 'adapter'"),
        (NoSwitch(), "attack fake: leaves_network must be True or False"),
    ],
)
def test_an_unusable_attack_costs_only_itself(
    monkeypatch: pytest.MonkeyPatch, item: Any, error: str
) -> None:
    class Plugin:
        @hookimpl
        def apdm_attacks(self) -> list[Any]:
            return [item, Good()]

    class Good(Fake):
        name = "good"

    _install(monkeypatch, Entry("some", "dist", Plugin))
    manager = build_plugin_manager()
    assert list(attacks(manager)) == ["good"]
    assert error in next(iter(manager.broken.values())).error


@pytest.mark.parametrize("answer", [_fails(RuntimeError("boom")), lambda: None, lambda: 3])
def test_a_hook_that_fails_costs_only_its_plugin(
    monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    class Bad:
        @hookimpl
        def apdm_attacks(self) -> Any:
            return answer()

    _install(monkeypatch, Entry("bad", "bad-dist", Bad), Entry("good", "good-dist", FakePlugin))
    manager = build_plugin_manager()
    assert list(attacks(manager)) == ["fake"]


def test_two_plugins_of_one_name_are_both_named(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(
        monkeypatch, Entry("a", "first-dist", FakePlugin), Entry("a", "second-dist", FakePlugin)
    )
    with pytest.raises(ApdmError) as error:
        attacks(build_plugin_manager())
    assert "first-dist 1.0" in error.value.what
    assert "second-dist 1.0" in error.value.what


@pytest.mark.parametrize("name", ["second-dist", "second-dist:a"])
def test_plugins_can_be_switched_off(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    _install(
        monkeypatch, Entry("a", "first-dist", FakePlugin), Entry("a", "second-dist", FakePlugin)
    )
    monkeypatch.setenv("APDM_DISABLE_PLUGINS", f"other, {name}")
    manager = build_plugin_manager()
    assert registered_attacks(manager)["fake"].origin.distribution == "first-dist"
    assert manager.disabled == ["second-dist:a"]


def test_a_single_file_is_a_plugin(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from apdm_attacks.dreambooth import DreamBooth\n"
        "from apdm_cli.extension.hooks import hookimpl\n"
        "class Mine(DreamBooth):\n"
        "    '''Mine.'''\n"
        "    name = 'mine'\n"
        "@hookimpl\n"
        "def apdm_attacks():\n"
        "    return [Mine()]\n"
    )
    found = registered_attacks(build_plugin_manager([file]))["mine"]
    assert found.origin.distribution == str(file)
    before = found.origin.version
    file.write_text(file.read_text() + "# changed\n")
    assert registered_attacks(build_plugin_manager([file]))["mine"].origin.version != before


def test_a_broken_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def broken(:\n")
    manager = build_plugin_manager([tmp_path / "bad.py"])
    assert "SyntaxError" in next(iter(manager.broken.values())).error
    assert "lora" in attacks(manager)


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        build_plugin_manager([tmp_path / "nowhere.py"])


def test_an_unknown_name_lists_the_nearest_and_all() -> None:
    with pytest.raises(UsageError) as error:
        choose({"lora": 1, "dreambooth": 2}, "lorra")
    assert error.value.what == "There is no attack 'lorra'. Did you mean lora?"
    assert "dreambooth, lora" in error.value.hint
