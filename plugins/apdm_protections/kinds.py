"""What the simulated attackers of a configuration are: registered attacks with their settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from apdm_cli.errors import UsageError
from apdm_cli.extension.attack import Attack, AttackConfig
from apdm_cli.extension.manager import choose
from apdm_cli.extension.protection import Kind
from apdm_cli.protection.settings import ProtectionSettings, SimulatedKind

# What an attack's own harness does: to photos, to captions, to the text encoder, around a step, to
# what is saved.
_HARNESS = (
    *("captions", "masks", "unmasked_weight", "photo_count", "buckets", "clip_skip"),
    *("accumulation", "ema", "export"),
)
_DRAWING = ("prior_pictures", "sampler_steps", "sampler_guidance")


def path_kind(config: ProtectionSettings, attacks: Mapping[str, Attack]) -> Kind:
    """The attack of `path`. UsageError for an unknown attack, or a setting that it lacks."""
    path = config.path
    entry = SimulatedKind(attack=path.attack, settings=path.settings)
    return _kind(config, attacks, "path", entry, named_in="path.attack")


def pool(config: ProtectionSettings, attacks: Mapping[str, Attack]) -> list[Kind]:
    """What attackers may be, at least one. UsageError like `path_kind`."""
    entries = config.attackers.pool
    if not entries:
        return [path_kind(config, attacks)]
    return [
        _kind(config, attacks, f"attackers.pool, entry {number}", entry)
        for number, entry in enumerate(entries, start=1)
    ]


def simulated(config: ProtectionSettings, attacks: Mapping[str, Attack]) -> list[Kind]:
    """Whatever trains inside this protection: attackers, and learners of others."""
    path, found = [path_kind(config, attacks)], list[Kind]()
    if config.attackers.kind == "persistent":
        found += pool(config, attacks)
    elif config.steps_inner > 0:
        found += path
    return found + (path if config.others.count else [])


def simulated_kind(
    where: str,
    name: str,
    layers: Sequence[Mapping[str, Any]],
    attacks: Mapping[str, Attack],
    *,
    named_in: str = "",
) -> Kind:
    """The attack called `name` with the settings of `layers`, as something that is simulated.

    Args:
        where: the setting of the protection that has its settings, for messages.
        layers: later ones win; the last one is what was typed, those below are the protection's.
        named_in: the setting that has `name`; `where` unless given.

    Raises:
        UsageError: there is no such attack, it lacks a setting, it cannot be simulated, or a
            setting would change nothing where it is.
    """
    place = named_in or where
    try:
        attack = _simulable(name, attacks)
        place = where
        chosen = attack.configure("", layers, attacks)
        _require_effect(attack, chosen, layers)
    except UsageError as error:
        raise UsageError(f"{place}: {error.what}", error.hint) from None
    return Kind(attack, chosen)


def _simulable(name: str, attacks: Mapping[str, Attack]) -> Attack:
    found = {each: attack for each, attack in attacks.items() if _can_be_simulated(attack)}
    if name in attacks and name not in found:
        raise UsageError(
            f"{name} is not one training that begins with the model as it is, and cannot be "
            "simulated",
            f"Those that can be are: {', '.join(sorted(found))}.",
        )
    return choose(found, name)


def _can_be_simulated(attack: Attack) -> bool:
    return attack.trains_once and type(attack).prepare is Attack.prepare


def _require_effect(
    attack: Attack, chosen: AttackConfig, layers: Sequence[Mapping[str, Any]]
) -> None:
    """Refuse what was typed and would change nothing."""
    *given, typed = layers
    below = {name: value for layer in given for name, value in layer.items()}
    # The number of steps is the protection's, and matters only to a rate that falls towards it.
    steps = ("steps",) if "steps" in below or attack.continues(chosen) else ()
    fields = type(chosen).model_fields
    changed = {
        option
        for option in fields.keys() & typed.keys()
        if getattr(chosen, option) != below.get(option, fields[option].default)
    }
    for option in (*_HARNESS, *_DRAWING, *steps):
        if option not in changed:
            continue
        if option in _DRAWING:
            value = getattr(chosen, option)
            hint = f"Class pictures are the protection's: use --set {option}={value}."
        else:
            hint = "Leave it out."
        raise UsageError(f"{option} is for attacks only", hint)
    if "prodigy_d0" in changed and chosen.optimizer != "prodigy":
        raise UsageError("prodigy_d0 is for optimizer = prodigy only", "Leave it out.")
    if "multires_iterations" in changed and not chosen.multires_noise:
        raise UsageError("multires_iterations is for multires_noise above 0 only", "Leave it out.")


def _kind(
    config: ProtectionSettings,
    attacks: Mapping[str, Attack],
    where: str,
    entry: SimulatedKind,
    *,
    named_in: str = "",
) -> Kind:
    base = {
        **config.path.model_dump(exclude={"attack", "settings"}),
        "optimizer": config.optimizer,
        "weight_decay": config.weight_decay,
    }
    layers = base, entry.settings
    kind = simulated_kind(where, entry.attack, layers, attacks, named_in=named_in)
    return replace(kind, identifier=entry.identifier, photos=entry.photos, weight=entry.weight)
