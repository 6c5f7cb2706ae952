"""What the simulated attackers of a configuration are: registered attacks with their settings."""

from __future__ import annotations

from collections.abc import Mapping

from apdm_cli.errors import UsageError
from apdm_cli.extension.attack import Attack
from apdm_cli.extension.manager import choose
from apdm_cli.extension.protection import Kind
from apdm_cli.protection.settings import ProtectionSettings, SimulatedKind


def path_kind(config: ProtectionSettings, attacks: Mapping[str, Attack]) -> Kind:
    """The attack of `path`. UsageError for an unknown attack, or a setting that it lacks."""
    path = config.path
    return _kind(config, attacks, "path", SimulatedKind(attack=path.attack, settings=path.settings))


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


def _kind(
    config: ProtectionSettings, attacks: Mapping[str, Attack], where: str, entry: SimulatedKind
) -> Kind:
    base = {
        **config.path.model_dump(exclude={"attack", "settings"}),
        "optimizer": config.optimizer,
        "weight_decay": config.weight_decay,
    }
    try:
        attack = choose(attacks, entry.attack)
        if not attack.trains_once:
            raise UsageError(
                f"{attack.name} is made of several trainings and cannot be simulated",
                "Name the attack that it trains with.",
            )
        chosen = attack.configure("", (base, entry.settings), attacks)
        fields = type(chosen).model_fields
        for option in ("captions", "masks", "photo_count", "clip_skip", "text_learning_rate"):
            if option in fields and getattr(chosen, option) != fields[option].default:
                raise UsageError(f"{option} is for attacks only", "Leave it out.")
    except UsageError as error:
        raise UsageError(f"{where}: {error.what}", error.hint) from None
    return Kind(attack, chosen, entry.identifier, entry.photos, entry.weight)
