"""What makes a plugin's attack, metric, family or protection unusable, found early."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from typing import Any

from pydantic import BaseModel, ValidationError

from apdm_cli.config import resolve
from apdm_cli.diffusion.family import Family, FamilyDefaults
from apdm_cli.errors import ApdmError
from apdm_cli.extension.attack import Attack, AttackConfig
from apdm_cli.extension.image_protection import ImageProtection, ImageProtectionConfig
from apdm_cli.extension.metric import Metric, Pictures
from apdm_cli.extension.protection import Protection
from apdm_cli.extension.protection_config import ProtectionConfig
from apdm_cli.runs.jsonable import jsonable

LONGEST_NAME = 100
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def attack_problem(item: Any) -> str | None:
    """Why `item` is not an attack that can be used, in one line; None when it is one."""
    if not isinstance(item, Attack):
        return f"{_shown(item)} is not an Attack instance"
    return (
        _name_problem(item)
        or _declared_problem(
            f"attack {item.name}", item, ("kinds",), ("leaves_network", "leaves_displacement")
        )
        or _config_problem(item)
    )


def metric_problem(item: Any) -> str | None:
    """Why `item` is not a metric that can be used, in one line; None when it is one."""
    if not isinstance(item, Metric):
        return f"{_shown(item)} is not a Metric instance"
    return _name_problem(item) or _meaning_problem(item)


def family_problem(item: Any) -> str | None:
    """Why `item` is not a family that can be used, in one line; None when it is one."""
    if not isinstance(item, Family):
        return f"{_shown(item)} is not a Family instance"
    problem = _name_problem(item)
    if problem is not None:
        return problem
    for attribute in ("title", "trained", "samplers", "defaults", "adapter_targets"):
        if not getattr(item, attribute, None):
            return f"family {item.name}: it has no {attribute}"
    names = ("text_encoders", "tokenizers", "samplers", "lora_layouts", "exact")
    problem = _declared_problem(f"family {item.name}", item, names, ("recordable",))
    if problem is not None:
        return problem
    defaults: FamilyDefaults = item.defaults
    for sampler in (defaults.sampler, defaults.class_sampler):
        if sampler not in item.samplers:
            return f"family {item.name}: its default {sampler!r} is none of its samplers"
    return None


def protection_problem(item: Any) -> str | None:
    """Why `item` is not a protection that can be used, in one line; None when it is one."""
    if not isinstance(item, Protection):
        return f"{_shown(item)} is not a Protection instance"
    called = f"protection {getattr(item, 'name', '')}"
    base = ImageProtectionConfig if isinstance(item, ImageProtection) else ProtectionConfig
    problem = (
        _name_problem(item)
        or _declared_problem(called, item, (), ("several", "ranks", "recordable", "in_float32"))
        or _fields_problem(called, item.Config, base)
    )
    if problem is not None:
        return problem
    if not item.presets:
        return f"{called}: it has no preset"
    for preset in item.presets:
        try:
            resolve(item.Config, item.preset(preset))
        except ApdmError as error:
            return f"{called}: preset {preset}: {error.what}"
    return None


def _name_problem(item: Attack | Metric | Family | Protection) -> str | None:
    name = getattr(item, "name", None)
    if not isinstance(name, str) or not NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        shown = repr(name)[:LONGEST_NAME]
        return f"{_shown(item)} has the name {shown}: lower-case words joined by hyphens"
    summary = getattr(item, "summary", "")
    if not isinstance(summary, str):
        return f"{name}: its summary is no text"
    return None


def _meaning_problem(metric: Metric) -> str | None:
    try:
        meaning = metric.meaning
    except AttributeError as error:
        return f"metric {metric.name}: it declares no {error.name}"
    except ValidationError as error:
        first = error.errors()[0]
        return f"metric {metric.name}: {first['loc'][0]}: {first['msg']}, got {first['input']!r}"
    known = frozenset(Pictures.__dataclass_fields__)
    needs: Any = metric.needs
    if not isinstance(needs, Set) or not needs <= known:
        return f"metric {metric.name}: needs must be a set of these: {', '.join(sorted(known))}"
    names = () if metric.reads is None else ("reads",)
    problem = _declared_problem(f"metric {metric.name}", metric, names, ("optional",))
    if problem is not None:
        return problem
    if meaning.leads and (meaning.kind, meaning.better) != ("similarity", "lower"):
        return (
            f"metric {metric.name}: a metric that leads the verdict says how much pictures look "
            'like the subject: kind = "similarity", better = "lower"'
        )
    return None


def _declared_problem(
    called: str, item: Any, names: Sequence[str], switches: Sequence[str]
) -> str | None:
    """Which of the attributes `names` is no sequence of names, or of `switches` no bool."""
    for name in names:
        value: Any = getattr(item, name)
        listed = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        if not listed or not all(isinstance(one, str) for one in value):
            return f"{called}: {name} must be a tuple of names, not {value!r:.50}"
    for name in switches:
        if not isinstance(getattr(item, name), bool):
            return f"{called}: {name} must be True or False"
    return None


def _config_problem(attack: Attack) -> str | None:
    config: Any = attack.Config
    problem = _fields_problem(f"attack {attack.name}", config, AttackConfig)
    if problem is not None:
        return problem
    profiles: Any = attack.profiles
    tables = isinstance(profiles, Mapping) and all(
        isinstance(name, str) and isinstance(table, Mapping) for name, table in profiles.items()
    )
    if not tables:
        return f"attack {attack.name}: profiles must be tables of settings by name"
    for profile in ("", *attack.profiles):
        try:
            jsonable(resolve(config, attack.profiles.get(profile, {})))
        except TypeError as error:
            return f"attack {attack.name}: its Config cannot be written down: {error}"
        except ApdmError as error:
            which = f"profile {profile}" if profile else "defaults"
            return f"attack {attack.name}: {which}: {error.what}"
    return None


def _fields_problem(called: str, config: Any, base: type[BaseModel]) -> str | None:
    """What is wrong with the Config class of an attack or a protection."""
    if not (isinstance(config, type) and issubclass(config, base)):
        return f"{called}: Config must be a subclass of {base.__name__}"
    for name, field in config.model_fields.items():
        if field.is_required():
            return f"{called}: {name} of its Config has no default"
        nested = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        if not field.description and not nested:
            return f"{called}: {name} of its Config has no description"
    return None


def _shown(item: Any) -> str:
    return item.__name__ if isinstance(item, type) else type(item).__name__
