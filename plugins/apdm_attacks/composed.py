"""Attacks that are made of trainings of another one, which is chosen by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, create_model

from apdm_cli.config import merge, resolve
from apdm_cli.errors import UsageError
from apdm_cli.extension.manager import choose
from apdm_cli.plugin import Attack, AttackConfig, Trainable

if TYPE_CHECKING:
    from apdm_cli.diffusion.model import DiffusionModel
    from apdm_cli.subject import Subject


class ComposedConfig(AttackConfig):
    """The name of the other attack; that attack's own options stand beside it."""

    attack: str = Field("dreambooth", description="the attack that is trained, by its name")


class Composed(Attack):
    """An attack that says how often, on what and from where another one trains."""

    Config = ComposedConfig

    def configure(
        self, profile: str, layers: Sequence[Mapping[str, Any]], attacks: Mapping[str, Attack]
    ) -> Any:
        """The other attack's options with its profile, and under them those of this one."""
        name = str(merge(*layers).get("attack", ComposedConfig.model_fields["attack"].default))
        other = choose(attacks, name)
        if not other.trains_once:
            known = sorted(n for n, attack in attacks.items() if attack.trains_once)
            raise UsageError(
                f"attack: {name} trains several times itself, and cannot be trained by {self.name}",
                f"Known are: {', '.join(known)}.",
            )
        profiles = (other.profiles.get(profile, {}), self.profiles.get(profile, {}))
        return resolve(self._config_over(other.Config), *profiles, *layers)

    def trainable(self, model: DiffusionModel, subject: Subject, config: Any) -> Trainable:
        """The other attack trains, never this one."""
        raise NotImplementedError(f"{self.name} trains through another attack")

    def _config_over(self, other: type[AttackConfig]) -> type[AttackConfig]:
        """`other` with the options that this attack adds or defines anew."""
        parts = [part for part in self.Config.__mro__ if issubclass(part, ComposedConfig)]
        fields = self.Config.model_fields
        own: dict[str, Any] = {
            name: (fields[name].annotation, fields[name])
            for part in reversed(parts)
            for name in part.__annotations__
        }
        return create_model(f"{self.Config.__name__}Over{other.__name__}", __base__=other, **own)
