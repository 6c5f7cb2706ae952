"""`apdm settings`: everything that --set takes, and the options of evaluate, in one form."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apdm_cli.cli.console import print_json, stdout
from apdm_cli.cli.options import Json, PluginFile

if TYPE_CHECKING:
    from pydantic import BaseModel

    from apdm_cli.config import SettingDescription
    from apdm_cli.extension.manager import PluginManager

PROTECT, EVALUATE = "protect", "evaluate"
DEFAULT_METHOD = "apdm"  # of `apdm protect`


@dataclass(frozen=True)
class Topic:
    """One table of settings.

    Attributes:
        name: what is typed after `apdm settings`.
        summary: one line.
        usage: how one of its settings is given, with `{key}` and `{value}` in it.
        model: the settings themselves.
        profiles: name → other defaults (nested tables), for presets and the pocket model.
        only: the keys to list; None is all of them.
    """

    name: str
    summary: str
    usage: str
    model: type[BaseModel]
    profiles: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    only: frozenset[str] | None = None

    def settings(self) -> list[SettingDescription]:
        from apdm_cli.config import describe

        found = describe(self.model)
        return [one for one in found if self.only is None or one.key in self.only]


def settings(
    topic: Annotated[
        str | None,
        typer.Argument(
            metavar="TOPIC",
            help="protect, evaluate, or the name of an attack or of another way to protect; "
            "without it, all of them are listed.",
        ),
    ] = None,
    plugin_file: PluginFile = None,
    json: Json = False,
) -> None:
    """List what --set takes: names, defaults, ranges and meaning.

    A setting is given as --set KEY=VALUE, or in a TOML file with --config.
    """
    from apdm_cli.cli.plugins import load_plugins

    topics = {one.name: one for one in find_topics(load_plugins(plugin_file or ()))}
    if topic is None:
        _overview(list(topics.values()), json)
        return
    chosen = _choose(topics, topic)
    if json:
        print_json(_as_json(chosen))
    else:
        _show(chosen)


def find_topics(manager: PluginManager) -> Iterator[Topic]:
    """What has settings: every way to protect, the default first, every attack, evaluating."""
    from apdm_cli.extension.manager import attacks, protections

    methods = protections(manager)
    for name in sorted(methods, key=lambda name: (name != DEFAULT_METHOD, name)):
        method, default = methods[name], name == DEFAULT_METHOD
        yield Topic(
            PROTECT if default else name,
            "How a model is protected." if default else method.summary,
            f"apdm protect PHOTOS --class NOUN {'' if default else f'--method {name} '}"
            "--set {key}={value}",
            method.Config,
            {preset: method.preset(preset) for preset in method.presets},
        )
    for name, attack in sorted(attacks(manager).items()):
        usage = f"apdm attack --plugin {name} --set {name}.{{key}}={{value}}"
        yield Topic(name, attack.summary, usage, attack.Config, attack.profiles)
    yield _evaluate()


def _evaluate() -> Topic:
    from apdm_cli.cli.evaluate import evaluate
    from apdm_cli.evaluation.profiles import EvaluationSettings

    return Topic(
        EVALUATE,
        "How pictures are drawn and scored; these are options, not keys of --set.",
        "apdm evaluate --{key} {value}",
        EvaluationSettings,
        only=frozenset(inspect.signature(evaluate).parameters),
    )


def _choose(topics: Mapping[str, Topic], name: str) -> Topic:
    """The topic called `name`; the UsageError names the nearest, or whose setting `name` is."""
    from apdm_cli.errors import UsageError
    from apdm_cli.extension.manager import choose

    owners = [one.name for one in topics.values() if any(name == key.key for key in one.settings())]
    if name not in topics and owners:
        raise UsageError(
            f"{name} is a setting of {', '.join(owners)}.", f"Look at: apdm settings {owners[0]}"
        )
    return choose(topics, name, "topic")


def _overview(topics: Sequence[Topic], json: bool) -> None:
    if json:
        print_json({"topics": [_as_json(one) for one in topics]})
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("topic", no_wrap=True)
    table.add_column("settings", justify="right")
    table.add_column("what for")
    for one in topics:
        count = str(len(one.settings()))
        table.add_row(f"[bold]{escape(one.name)}[/]", count, escape(one.summary))
    stdout.print(table, highlight=False)
    stdout.print("\n[dim]Look at one with: apdm settings TOPIC[/]", highlight=False)


def _show(topic: Topic) -> None:
    from rich.markup import escape

    stdout.print(f"[bold]{escape(topic.name)}[/]: {escape(topic.summary)}", highlight=False)
    for source, group in _by_source(topic).items():
        stdout.print()
        if source:
            stdout.print(f"[dim]{escape(source)}[/]", highlight=False)
        for one in group:
            _show_setting(topic, one)
    names = ", ".join(topic.profiles)
    if names:
        stdout.print(f"\nIn brackets: the values of {names}, where they differ.", highlight=False)
    stdout.print(f"\nExample: {_example(topic)}", highlight=False, markup=False, soft_wrap=True)


def _by_source(topic: Topic) -> dict[str, list[SettingDescription]]:
    """The settings by where their defaults come from, the topic's own before shared ones."""
    groups: dict[str, list[SettingDescription]] = {}
    for one in topic.settings():
        groups.setdefault(one.source, []).append(one)
    own = {
        one.source for one in topic.settings() if one.key in inspect.get_annotations(topic.model)
    }
    return dict(sorted(groups.items(), key=lambda group: group[0] not in own))


def _example(topic: Topic) -> str:
    """A whole command that sets one number."""
    numbers = [one for one in topic.settings() if "number" in one.kind and one.default is not None]
    one = (numbers or topic.settings())[0]
    return _typed(topic, one)


def _show_setting(topic: Topic, one: SettingDescription) -> None:
    """Two paragraphs: the key with its default and what it may be, then what it means."""
    from rich.padding import Padding
    from rich.text import Text

    head = Text()
    option = topic.name == EVALUATE
    head.append(f"{'--' if option else ''}{_key(topic, one.key)}", style="bold")
    head.append(f"{' ' if option else '='}{_value(topic, one.default)}")
    head.append(f"   {allowed(one)}", style="dim")
    stdout.print(head, highlight=False)
    body = Text(one.description)
    other = [
        f"{name} {_value(topic, value)}"
        for name, value in _in_profiles(topic, one.key).items()
        if value != _plain(one.default)
    ]
    if other:
        body.append(f" [{', '.join(other)}]", style="cyan")
    stdout.print(Padding(body, (0, 0, 0, 4)), highlight=False)


def allowed(one: SettingDescription) -> str:
    """What a value may be: `whole number, at least 1`, or the choices themselves."""
    words = one.kind.replace("one of the choices", " | ".join(one.choices))
    return ", ".join(part for part in (words, one.range) if part)


def _value(topic: Topic, value: Any) -> str:
    """A value as it is typed: TOML after `=`, plain words after an option."""
    from apdm_cli.config import assignment

    if topic.name == EVALUATE and isinstance(value, tuple | dict):
        return ",".join(map(str, value)) or "none"
    return assignment("", value).removeprefix("=")


def _key(topic: Topic, key: str) -> str:
    return key.replace("_", "-") if topic.name == EVALUATE else key


def _typed(topic: Topic, one: SettingDescription) -> str:
    """The command that gives the setting its default."""
    return topic.usage.format(key=_key(topic, one.key), value=_value(topic, one.default))


def _in_profiles(topic: Topic, key: str) -> dict[str, Any]:
    """Profile → its value of the setting, where it has one."""
    found = {}
    for name, table in topic.profiles.items():
        value: Any = table
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            found[name] = value
    return found


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _as_json(topic: Topic) -> dict[str, Any]:
    return {
        "topic": topic.name,
        "summary": topic.summary,
        "settings": [
            {
                **one._asdict(),
                "typed": _typed(topic, one),
                "profiles": _in_profiles(topic, one.key),
            }
            for one in topic.settings()
        ],
    }
