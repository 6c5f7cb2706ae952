"""The names of what plugins bring, for shell completion: at once, and never through torch.

Whatever loads plugins anyway leaves their names in the user's cache folder, keyed by a fingerprint
of what is installed. Where that is missing or stale, the plugins are imported with torch and its
like out of reach: those that import them only inside functions (as ours do) answer all the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.abc
import importlib.metadata
import importlib.util
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apdm_cli.errors import ApdmError
from apdm_cli.folders import cache_folder

if TYPE_CHECKING:
    from apdm_cli.config import SettingDescription

KINDS = ("attack", "metric", "protection", "family")
FILE = "plugin-names.json"
GROUP = "apdm"
HEAVY = frozenset(
    {"diffusers", "matplotlib", "open_clip", "peft", "piq", "scipy", "torch", "torchvision"}
    | {"transformers", "accelerate", "sklearn", "skimage"}
)

# kind → name → {"summary": ..., "settings": {key: [default, other choices]}, "presets": [...]}
Names = dict[str, dict[str, dict[str, Any]]]


def known_names() -> Names:
    """What is installed, from the cache or, without a current one, from the plugins themselves."""
    return _read() or _declared()


def remember(names: Names) -> None:
    """Keep `names` for later processes; a folder that cannot be written is no error."""
    from apdm_cli.runs.atomic import write_bytes_atomic

    content = json.dumps({"fingerprint": fingerprint(), "names": names}, sort_keys=True).encode()
    file = cache_folder() / FILE
    with contextlib.suppress(OSError, ApdmError):
        if file.is_file() and file.read_bytes() == content:
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomic(file, content)


def names_of(manager: Any) -> Names:
    """The names of what `manager` has found."""
    from apdm_cli.extension.manager import (
        registered_attacks,
        registered_families,
        registered_metrics,
        registered_protections,
    )

    found: dict[str, dict[str, Any]] = {
        "attack": registered_attacks(manager),
        "metric": registered_metrics(manager),
        "protection": registered_protections(manager),
        "family": registered_families(manager),
    }
    return {
        kind: {name: _entry(one.item) for name, one in items.items()}
        for kind, items in found.items()
    }


def _entry(item: Any) -> dict[str, Any]:
    config = getattr(item, "Config", None)
    return {
        "summary": item.summary,
        "settings": _settings(config) if config is not None else {},
        "presets": list(getattr(item, "presets", ())),
    }


def fingerprint() -> str:
    """SHA-256 of what is installed in the group: names, versions, and when the files changed."""
    rows = []
    for entry in importlib.metadata.entry_points(group=GROUP):
        module = entry.value.partition(":")[0].partition(".")[0]
        spec = None
        with contextlib.suppress(ImportError, ValueError):
            spec = importlib.util.find_spec(module)
        changed = 0
        if spec is not None and spec.origin:
            with contextlib.suppress(OSError):
                changed = Path(spec.origin).stat().st_mtime_ns
        dist = entry.dist
        rows.append(
            [entry.name, entry.value, *([dist.name, dist.version] if dist else []), changed]
        )
    rows.append([os.environ.get("APDM_DISABLE_PLUGINS", ""), sys.version])
    return hashlib.sha256(json.dumps(sorted(rows, key=str)).encode()).hexdigest()


def _read() -> Names | None:
    try:
        kept = json.loads((cache_folder() / FILE).read_text(encoding="utf-8"))
        names: Names = kept["names"] if kept["fingerprint"] == fingerprint() else {}
        usable = all(
            isinstance(entry["summary"], str) and isinstance(entry["settings"], dict)
            for kind in KINDS
            for entry in names[kind].values()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return names if usable else None


def _declared() -> Names:
    from apdm_cli.extension.manager import build_plugin_manager

    with out_of_reach():
        try:
            return names_of(build_plugin_manager())
        except ApdmError:  # two plugins share a name: the commands themselves say so
            return {kind: {} for kind in KINDS}


@contextlib.contextmanager
def out_of_reach() -> Iterator[None]:
    """Within the block, importing torch or another heavy package raises ImportError."""
    guard = _Guard()
    sys.meta_path.insert(0, guard)
    try:
        yield
    finally:
        sys.meta_path.remove(guard)


class _Guard(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> None:
        if name.partition(".")[0] in HEAVY:
            raise ImportError(f"{name} is not needed to read declarations")


def _settings(config: Any) -> dict[str, list[str]]:
    from apdm_cli.config import describe

    return {one.key: typed_values(one) for one in describe(config)}


def typed_values(one: SettingDescription) -> list[str]:
    """What may be typed after `=`: the default first, then the other choices, where it has some."""
    from apdm_cli.config import assignment

    default = assignment("", one.default).removeprefix("=")
    return list(dict.fromkeys([default, *one.choices]))
