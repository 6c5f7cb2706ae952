"""Finds plugins, and keeps a broken one from taking the tool down."""

from __future__ import annotations

import difflib
import hashlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import pluggy

from apdm_cli.errors import ApdmError, UsageError, said
from apdm_cli.extension import hooks
from apdm_cli.extension.checks import (
    attack_problem,
    family_problem,
    metric_problem,
    protection_problem,
)
from apdm_cli.extension.containment import prints_to_stderr

if TYPE_CHECKING:
    from apdm_cli.diffusion.family import Family
    from apdm_cli.extension.attack import Attack
    from apdm_cli.extension.metric import Metric
    from apdm_cli.extension.protection import Protection

LONGEST_LINE = 300  # characters of a plugin's error that are shown
DISABLE = "APDM_DISABLE_PLUGINS"
Item = TypeVar("Item")


@dataclass(frozen=True)
class Origin:
    """Where a plugin comes from: its name here, its distribution (or file) and its version."""

    plugin: str
    distribution: str
    version: str


@dataclass(frozen=True)
class Broken:
    """A plugin, or one thing that it brings, which could not be used; `error` is one line."""

    origin: Origin
    error: str


@dataclass(frozen=True)
class Registered(Generic[Item]):
    """An attack, a metric, a family or a protection, and who brought it."""

    item: Item
    origin: Origin


class PluginManager(pluggy.PluginManager):
    """pluggy's manager, which remembers where plugins come from and which are broken.

    Attributes:
        origins: plugin name → origin.
        broken: (plugin name, error) → what is broken; the caller warns about it.
        disabled: names that APDM_DISABLE_PLUGINS switched off.
    """

    def __init__(self) -> None:
        super().__init__(hooks.GROUP)
        self.add_hookspecs(hooks)
        self.origins: dict[str, Origin] = {}
        self.broken: dict[tuple[str, str], Broken] = {}
        self.disabled: list[str] = []

    def add(self, module: Any, origin: Origin) -> None:
        """Register `module`; a hook that does not exist, or none at all, makes it broken."""
        try:
            self.register(module, origin.plugin)
            callers = self.get_hookcallers(module) or []
            unknown = [caller.name for caller in callers if not caller.has_spec()]
            if unknown or not callers:
                self.unregister(module)
                known = ", ".join(name for name in vars(hooks) if name.startswith("apdm_"))
                what = f"unknown hook {', '.join(unknown)}" if unknown else "no hook in it"
                self.report(origin, f"{what}; the hooks are {known}")
        except (pluggy.PluginValidationError, ValueError) as error:
            self.report(origin, _one_line(error))
        else:
            self.origins[origin.plugin] = origin

    def report(self, origin: Origin, error: str) -> None:
        """Remember that something of `origin` is broken, once."""
        self.broken.setdefault((origin.plugin, error), Broken(origin, error))

    def origin_of(self, plugin: Any) -> Origin:
        """Origin of a registered plugin, also of one that a test registered by hand."""
        name = self.get_name(plugin) or "unknown"
        return self.origins.get(name, Origin(name, name, "0"))


def build_plugin_manager(plugin_files: Sequence[Path] = ()) -> PluginManager:
    """A new manager with every installed plugin and those of single files.

    Plugins are the entry points of the group `apdm`. One that cannot be imported or registered is
    in `broken`, with its error, and costs nothing else.

    Raises:
        UsageError: a file of `plugin_files` does not exist.
    """
    manager = PluginManager()
    disabled = {name.strip() for name in os.environ.get(DISABLE, "").split(",") if name.strip()}
    found = importlib.metadata.entry_points(group=hooks.GROUP)
    # Always in one order, our own first: of two metrics that may lead the verdict the first does.
    for entry in sorted(found, key=_place):
        origin = _entry_origin(entry)
        if disabled & {origin.plugin, origin.distribution, entry.name}:
            manager.disabled.append(origin.plugin)
            continue
        try:
            with prints_to_stderr():
                module = entry.load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            manager.report(origin, _one_line(error))
            continue
        manager.add(module, origin)
    for path in plugin_files:
        _add_file(manager, path)
    return manager


def attacks(manager: pluggy.PluginManager) -> dict[str, Attack]:
    """Every usable attack by its name; see `registered_attacks`."""
    return {name: found.item for name, found in registered_attacks(manager).items()}


def metrics(manager: pluggy.PluginManager) -> dict[str, Metric]:
    """Every usable metric by its name; see `registered_metrics`."""
    return {name: found.item for name, found in registered_metrics(manager).items()}


def families(manager: pluggy.PluginManager) -> dict[str, Family]:
    """Every usable family of models by its name; see `registered_families`."""
    return {name: found.item for name, found in registered_families(manager).items()}


def protections(manager: pluggy.PluginManager) -> dict[str, Protection]:
    """Every usable protection by its name; see `registered_protections`."""
    return {name: found.item for name, found in registered_protections(manager).items()}


def registered_attacks(manager: pluggy.PluginManager) -> dict[str, Registered[Attack]]:
    """Every usable attack with its origin. ApdmError when two plugins bring one name."""
    return dict(_collect(manager, "apdm_attacks", "attack", attack_problem))


def registered_metrics(manager: pluggy.PluginManager) -> dict[str, Registered[Metric]]:
    """Every usable metric with its origin. ApdmError when two plugins bring one name."""
    return dict(_collect(manager, "apdm_metrics", "metric", metric_problem))


def registered_families(manager: pluggy.PluginManager) -> dict[str, Registered[Family]]:
    """Every usable family with its origin. ApdmError when two plugins bring one name."""
    return dict(_collect(manager, "apdm_families", "family", family_problem))


def registered_protections(manager: pluggy.PluginManager) -> dict[str, Registered[Protection]]:
    """Every usable protection with its origin. ApdmError when two plugins bring one name."""
    return dict(_collect(manager, "apdm_protections", "protection", protection_problem))


def choose(available: Mapping[str, Item], name: str, kind: str = "attack") -> Item:
    """The item called `name`, or a UsageError with the nearest and all known names."""
    if name in available:
        return available[name]
    nearest = difflib.get_close_matches(name, available, n=1)
    meant = f" Did you mean {nearest[0]}?" if nearest else ""
    known = ", ".join(sorted(available)) or "none"
    raise UsageError(f"There is no {kind} {name!r}.{meant}", f"Known are: {known}.")


def _collect(
    manager: pluggy.PluginManager, hook: str, kind: str, problem: Any
) -> Iterator[tuple[str, Registered[Any]]]:
    """Call `hook` of one plugin at a time, so that an exception costs that plugin alone."""
    owners: dict[str, Origin] = {}
    plugins = [plugin for _, plugin in manager.list_name_plugin() if plugin is not None]
    for plugin in plugins:  # in the order of their registration
        origin = _origin(manager, plugin)
        others = [other for other in plugins if other is not plugin]
        try:
            with prints_to_stderr():
                answers = manager.subset_hook_caller(hook, remove_plugins=others)()
                items = [item for answer in answers for item in answer]
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            _report(manager, origin, f"{hook}: {_one_line(error)}")
            continue
        for item in items:
            try:
                with prints_to_stderr():
                    reason = problem(item)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # a property that raises, for one
                reason = f"{type(item).__name__}: {_one_line(error)}"
            if reason:
                _report(manager, origin, reason)
                continue
            if item.name in owners:
                first = owners[item.name]
                raise ApdmError(
                    f"Two plugins bring a {kind} called {item.name}: "
                    f"{_called(first)} and {_called(origin)}",
                    f"Uninstall one, or switch it off: {DISABLE}={origin.plugin}",
                )
            owners[item.name] = origin
            yield item.name, Registered(item, origin)


def _add_file(manager: PluginManager, path: Path) -> None:
    if not path.is_file():
        raise UsageError(f"{path} is not a file", "--plugin-file takes a Python file.")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    origin = Origin(path.name, str(path), digest)
    spec = importlib.util.spec_from_file_location(f"apdm_plugin_file_{digest}", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is not a Python file", "--plugin-file takes a Python file.")
    module: ModuleType = importlib.util.module_from_spec(spec)
    try:
        with prints_to_stderr():
            spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        manager.report(origin, _one_line(error))
        return
    manager.add(module, origin)


def _place(entry: importlib.metadata.EntryPoint) -> tuple[bool, str]:
    origin = _entry_origin(entry)
    return origin.distribution != "apdm", origin.plugin


def _entry_origin(entry: importlib.metadata.EntryPoint) -> Origin:
    if entry.dist is None:
        return Origin(entry.name, entry.name, "0")
    return Origin(f"{entry.dist.name}:{entry.name}", entry.dist.name, entry.dist.version)


def _origin(manager: pluggy.PluginManager, plugin: Any) -> Origin:
    if isinstance(manager, PluginManager):
        return manager.origin_of(plugin)
    name = manager.get_name(plugin) or "unknown"
    return Origin(name, name, "0")


def _report(manager: pluggy.PluginManager, origin: Origin, error: str) -> None:
    if isinstance(manager, PluginManager):
        manager.report(origin, error)


def _called(origin: Origin) -> str:
    if origin.distribution == origin.plugin:
        return origin.plugin
    return f"{origin.distribution} {origin.version} ({origin.plugin})"


def _one_line(error: BaseException) -> str:
    text = said(error).strip().splitlines()
    name = type(error).__name__
    return name if not text or text[0] == name else f"{name}: {text[0][:LONGEST_LINE]}"
