"""Settings: pydantic models, filled from layers of plain dictionaries.

A command's configuration is `resolve(Model, preset, file, assignments)`: later layers win, key by
key. A key that no field has is an error that names the nearest valid ones.
"""

from __future__ import annotations

import datetime
import difflib
import inspect
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails

from apdm_cli.errors import ApdmError, UsageError
from apdm_cli.paths import require_ordinary

LARGEST_FILE = 1_000_000  # bytes of a configuration, which is written by hand
DEEPEST = 16  # tables and lists within each other
LARGEST_INTEGER = 2**63 - 1  # TOML's own limit, and what tensors hold
LONGEST_SHOWN = 80  # characters of a wrong value in a message


class Settings(BaseModel):
    """Base of every configuration: no unknown keys, immutable once resolved.

    TOML has no null, so the word `none` stands for it in fields that may be None. TOML does have
    `inf` and `nan`: both are refused for every number, except in a field that is declared with
    `Field(allow_inf_nan=True)`.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        coerce_numbers_to_str=True,
        allow_inf_nan=False,
    )

    @model_validator(mode="before")
    @classmethod
    def _read_none(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        nullable = {
            name
            for name, field in cls.model_fields.items()
            if type(None) in get_args(field.annotation)
        }
        return {
            key: None
            if key in nullable and isinstance(value, str) and value.lower() == "none"
            else value
            for key, value in data.items()
        }


class SettingDescription(NamedTuple):
    """One leaf of a settings model, for help texts and tables.

    `type` is the annotation, `kind` the same in words ("whole number or none"). `range` is in words
    ("at least 1"), empty where every value of the type is allowed; `choices` are the words it may
    be, none where there is no such list; `source` says where the default comes from, in the words
    of the model that declares the field: the paragraph of its docstring about defaults.
    """

    key: str
    type: str
    default: Any
    description: str
    kind: str = ""
    range: str = ""
    choices: tuple[str, ...] = ()
    source: str = ""


Model = TypeVar("Model", bound=BaseModel)


def resolve(model: type[Model], *layers: Mapping[str, Any]) -> Model:
    """Merge `layers` (nested dictionaries, later ones win) and validate them as `model`.

    Raises UsageError naming every unknown key (with the nearest valid keys) and every bad value.
    """
    try:
        return model.model_validate(_bounded(merge(*layers)))
    except ValidationError as error:
        raise _usage_error(model, error) from None
    except ValueError as error:
        raise UsageError(f"A setting has a value that cannot be used: {error}.") from None


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Deep merge of nested dictionaries; a later value replaces an earlier one of the same key."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            before = merged.get(key)
            if isinstance(value, Mapping):
                merged[key] = merge(before if isinstance(before, Mapping) else {}, value)
            else:
                merged[key] = value
    return merged


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file. Raises UsageError naming the file when it cannot be read."""
    try:
        require_ordinary(path)
        if path.stat().st_size > LARGEST_FILE:
            raise UsageError(f"{path}: too large for a configuration file.", "Check the path.")
        return _bounded(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such configuration file.", "Check the path.") from None
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read ({error.strerror}).", "Check its permissions."
        ) from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not a UTF-8 text file.", "--config takes TOML.") from None
    except (ValueError, RecursionError) as error:
        # Also a number of thousands of digits, and brackets nested without end.
        raise UsageError(f"{path}: not valid TOML: {_short(str(error))}.") from None
    except ApdmError as error:
        raise UsageError(error.what, error.hint) from None


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """`["a.b=1", "c=word"]` -> `{"a": {"b": 1}, "c": "word"}`.

    Values are TOML; what is not valid TOML (a bare word, a path, `.5`) is taken as a string.
    Later assignments win. Raises UsageError for a missing `=` or key, and where a key is given
    both a value and keys below it.
    """
    parsed: dict[str, Any] = {}
    for assignment in assignments:
        shown = _short(assignment)
        key, equals, text = assignment.partition("=")
        parts = [part.strip() for part in key.split(".")]
        if not equals or not all(parts) or len(parts) > DEEPEST:
            raise UsageError(f"--set {shown}: expected key=value.", "Example: --set beta=1.0")
        table = parsed
        for part in parts[:-1]:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise UsageError(
                    f"--set {_short(assignment)}: {part} was already given a plain value."
                )
        try:
            value = _parse_value(text.strip())
        except (ValueError, RecursionError) as error:
            raise UsageError(f"--set {shown}: {_short(str(error))}.") from None
        if isinstance(table.get(parts[-1]), dict) and not isinstance(value, dict):
            raise UsageError(
                f"--set {_short(assignment)}: keys below {parts[-1]} were already set."
            )
        table[parts[-1]] = value
    return parsed


def assignment(key: str, value: Any) -> str:
    """`key=value` such that `parse_assignments` reads the same value again."""
    return f"{key}={_toml(value)}"


def flatten(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested tables as dotted keys."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def describe(model: type[BaseModel]) -> list[SettingDescription]:
    """Every leaf field of `model`, nested models by dotted keys, in order of definition."""
    return list(_leaves(model, "", None))


def _leaves(
    model: type[BaseModel], prefix: str, given: BaseModel | None
) -> Iterator[SettingDescription]:
    """The leaves of `model`; `given` is the default that an outer model has for the whole of it."""
    for name, field in model.model_fields.items():
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        default = default if given is None else getattr(given, name)
        inner = _submodel(field.annotation)
        if inner is not None:
            whole = default if isinstance(default, inner) else None
            yield from _leaves(inner, f"{prefix}{name}.", whole)
            continue
        annotation = field.annotation
        type_name = annotation.__name__ if isinstance(annotation, type) else str(annotation)
        yield SettingDescription(
            prefix + name,
            type_name.replace("typing.", ""),
            default,
            field.description or "",
            _kind_in_words(annotation),
            _range_in_words(field.metadata),
            _choices(field.annotation),
            _source(model, name),
        )


def _kind_in_words(annotation: Any) -> str:
    """`int | None` -> `whole number or none`."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind_in_words(inner[0])
    if origin is Literal:
        return "one of the choices"
    if origin in (Union, UnionType):
        plain = [_kind_in_words(one) for one in inner if one is not type(None)]
        return " or ".join([*plain, *(["none"] if type(None) in inner else [])])
    if origin is tuple and Ellipsis not in inner:
        return f"list of {len(inner)}: {', '.join(map(_kind_in_words, inner))}"
    if origin in (tuple, list, set, frozenset):
        return f"list: {_kind_in_words(inner[0])}"
    if origin is dict or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return "table"
    words = {bool: "true or false", int: "whole number", float: "number", str: "text", Path: "path"}
    return words.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _range_in_words(metadata: Sequence[Any]) -> str:
    """pydantic's bounds, `Field(ge=0, lt=1)`: `at least 0, below 1`."""
    words = (("ge", "at least"), ("gt", "above"), ("le", "at most"), ("lt", "below"))
    bounds = ((word, getattr(entry, name, None)) for entry in metadata for name, word in words)
    return ", ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)


def _choices(annotation: Any) -> tuple[str, ...]:
    """The words that a field may be: those of its `Literal`, or true and false."""
    if annotation is bool:
        return ("true", "false")
    if get_origin(annotation) is Literal:
        return tuple(str(word) for word in get_args(annotation))
    if get_origin(annotation) in (Union, UnionType):
        return tuple(word for one in get_args(annotation) for word in _choices(one))
    return ()


def _source(model: type[BaseModel], name: str) -> str:
    """What the class that declares (or redeclares) the field `name` says about its defaults."""
    for owner in model.__mro__:
        if name in inspect.get_annotations(owner):
            paragraphs = inspect.cleandoc(owner.__dict__.get("__doc__") or "").split("\n\n")
            telling = next((one for one in paragraphs if "default" in one.lower()), paragraphs[0])
            return " ".join(telling.split())
    return ""


def _submodel(annotation: Any) -> type[BaseModel] | None:
    """The settings model inside an annotation: `Inner` and `Inner | None` both give `Inner`.

    A sequence of models is one setting, a list of tables.
    """
    union = get_origin(annotation) in (Union, UnionType)
    for candidate in get_args(annotation) if union else (annotation,):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _parse_value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    value = parsed.pop("value")
    # More keys mean that the text had line breaks of its own; no setting is a date.
    if parsed or isinstance(value, datetime.date | datetime.time):
        return text
    return _bounded(value)


def _bounded(value: Any, depth: int = 0) -> Any:
    """Return `value`; ValueError where it is nested too deeply or holds a number too large."""
    if depth > DEEPEST:
        raise ValueError(f"more than {DEEPEST} tables or lists within each other")
    if isinstance(value, Mapping):
        for item in value.values():
            _bounded(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _bounded(item, depth + 1)
    elif isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        raise ValueError("a whole number of more than 64 bits")
    return value


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 3] + "..."


def _toml(value: Any) -> str:
    """A TOML value; a string that can only be one is left bare, as people write it."""
    if value is None:
        return "none"
    if isinstance(value, str):
        bare = value == value.strip() and _parse_value(value) == value
        return value if bare else json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_quoted, value))}]"
    if isinstance(value, Mapping):
        pairs = (f"{json.dumps(str(key))} = {_quoted(inner)}" for key, inner in value.items())
        return f"{{{', '.join(pairs)}}}"
    return repr(value) if isinstance(value, float) else str(value)


def _quoted(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else _toml(value)


def _usage_error(model: type[BaseModel], error: ValidationError) -> UsageError:
    problems = []
    hints = []
    for detail in error.errors():
        key = ".".join(str(part) for part in detail["loc"])
        if detail["type"] == "extra_forbidden":
            problem, hint = _unknown_key(model, key)
            problems.append(problem)
            hints.append(hint)
        else:
            problems.append(_bad_value(key, detail))
    return UsageError("\n".join(problems), "\n".join(dict.fromkeys(hints)))


def _unknown_key(model: type[BaseModel], key: str) -> tuple[str, str]:
    valid = [setting.key for setting in describe(model)]
    # A user rarely knows in which table a setting lives: the last part alone counts too.
    by_leaf = {name.rpartition(".")[2]: name for name in valid}
    leaf_matches = difflib.get_close_matches(key.rpartition(".")[2], by_leaf, n=3)
    nearest = list(
        dict.fromkeys(
            [*difflib.get_close_matches(key, valid, n=3), *(by_leaf[leaf] for leaf in leaf_matches)]
        )
    )
    meant = f" Did you mean {' or '.join(nearest[:3])}?" if nearest else ""
    return f"{_short(key)}: unknown setting.{meant}", f"Valid settings: {', '.join(valid)}."


# pydantic's types of errors for a value that is of another kind than its setting.
_KINDS = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    "string_type": "text",
}


def _bad_value(key: str, detail: ErrorDetails) -> str:
    where = f"{key}: " if key else ""  # a validator over the whole model names its fields itself
    return f"{where}{what_is_wrong(detail)}."


def what_is_wrong(detail: ErrorDetails) -> str:
    """What pydantic found wrong with one value, in the house's words and without a full stop."""
    shown = _short(repr(detail["input"]))
    if detail["type"] in _KINDS:
        return f"this has to be {_KINDS[detail['type']]}, and {shown} is not"
    said = detail["msg"].removeprefix("Value error, ")
    said = said.replace("Input should be", "this has to be", 1)
    said = (said[:1].lower() + said[1:]).removesuffix(".")
    # A validator over everything that was given has said which part of it is wrong.
    told = detail["type"] == "missing" or (detail["type"] == "value_error" and not detail["loc"])
    return said if told else f"{said}, got {shown}"
