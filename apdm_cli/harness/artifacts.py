"""Put what an attack left onto the model that it attacked."""

from __future__ import annotations

from collections.abc import Mapping

from apdm_cli.diffusion.artifacts import LOADERS
from apdm_cli.diffusion.clip_skip import as_noted
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.errors import ApdmError
from apdm_cli.extension.attack import Artifact, Attack
from apdm_cli.extension.containment import contained
from apdm_cli.extension.manager import attacks, build_plugin_manager
from apdm_cli.harness.guard import checksum

HINT = "Give the model that was attacked; apdm finds it by the manifest of the cell."


def load_attacked(
    model: DiffusionModel, artifact: Artifact, available: Mapping[str, Attack] | None = None
) -> DiffusionModel:
    """A model of its own with `artifact` applied; `model` stays as it is.

    The kinds of `Artifact` are opened with diffusers' (or peft's) own loaders, so that the
    pictures are those a user of plain diffusers gets; another kind by the attack that names it.

    Args:
        available: attacks by name; None is every installed one.

    Raises:
        ApdmError: nothing is there, nobody opens its kind, or it was made for a model of another
            architecture.
    """
    if not artifact.path.is_dir() or not any(artifact.path.iterdir()):
        raise ApdmError(
            f"There is no artifact in {artifact.path}", "Run the attack again, with --rerun."
        )
    load = LOADERS.get(artifact.kind)
    try:
        if load is not None:
            return as_noted(load(model, artifact.path), artifact.path)
        opened = _opened_by(_opener(artifact.kind, available), model, artifact)
        return as_noted(opened, artifact.path)
    except ApdmError:
        raise
    except Exception as error:  # libraries and plugins raise anything on damaged files
        raise _misfit(artifact, error) from error


def _opened_by(attack: Attack, model: DiffusionModel, artifact: Artifact) -> DiffusionModel:
    """What `attack` makes of an artifact of its own kind; `model` has to stay as it is."""
    who = f"the attack {attack.name}, which opens {artifact.kind} artifacts,"
    before = checksum(model)
    with contained(who):
        opened = attack.load(model, artifact.path)
    if not isinstance(opened, DiffusionModel):
        raise ApdmError(f"{who} gave a {type(opened).__name__}, not a model")
    if checksum(model) != before:
        raise ApdmError(
            f"{who} changed the model that it was shown",
            "Its `load` must return a model of its own: `model.private_copy()` makes one.",
        )
    return opened


def _opener(kind: str, available: Mapping[str, Attack] | None) -> Attack:
    if available is None:
        available = attacks(build_plugin_manager())
    for attack in available.values():
        if kind in attack.kinds:
            return attack
    raise ApdmError(
        f"No installed attack opens artifacts of the kind {kind!r}",
        "Install the plugin that made it, or load its file with --plugin-file.",
    )


def _misfit(artifact: Artifact, error: Exception) -> ApdmError:
    lines = str(error).strip().splitlines()
    reason = lines[0][:200] if lines else type(error).__name__
    return ApdmError(
        f"The artifact {artifact.path} ({artifact.kind}) does not fit the model: {reason}", HINT
    )
