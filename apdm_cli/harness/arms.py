"""What every attack runs on: the original and the protected model, or photos.

A run that protects photos has no model of its own: both arms are the original model, and in the
protected one the attacker has the perturbed photos.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch

from apdm_cli.diffusion.family import Family
from apdm_cli.diffusion.model import DiffusionModel, ModelRef
from apdm_cli.diffusion.saving import add_difference, holds_difference
from apdm_cli.digests import folder_digest
from apdm_cli.errors import ApdmError
from apdm_cli.extension.attack import Artifact
from apdm_cli.extension.family import load_model
from apdm_cli.harness.artifacts import load_attacked
from apdm_cli.harness.guard import checksum
from apdm_cli.harness.protected import (
    EXTERNAL,
    external_folder,
    profile_of_run,
    protected_folder,
)
from apdm_cli.pocket.profile import same_model
from apdm_cli.protection.perturbed import PerturbedPhotos
from apdm_cli.runs.atomic import writing_to
from apdm_cli.runs.lock import holding
from apdm_cli.runs.names import slug
from apdm_cli.runs.run import DONE, Run, free_name
from apdm_cli.subject import SubjectRecord

ArmName = Literal["original", "protected"]


class Arms:
    """The original and the protected model of a run, loaded when first needed.

    Args:
        run: a protect run, finished where its protected model is asked for; or one that stands for
            a model protected elsewhere.
        known: families of models by name; those of the installed plugins, if None.

    Attributes:
        perturbed: the photos of a run that protects photos; None where it protects the model.
    """

    def __init__(
        self,
        run: Run,
        device: torch.device,
        dtype: torch.dtype,
        known: Mapping[str, Family] | None = None,
    ) -> None:
        self.run, self.device, self.dtype, self.known = run, device, dtype, known
        self.perturbed = PerturbedPhotos.of(run)
        self._loaded: dict[str, DiffusionModel] = {}
        self._sums: dict[str, dict[str, tuple[int, int]]] = {}
        self._refs: dict[str, ModelRef] = {}

    def of(self, view: Run) -> Arms:
        """The same models, for the view of the run for one of its subjects."""
        other = copy.copy(self)
        other.run = view
        return other

    @property
    def has_original(self) -> bool:
        """Whether the original is known; it is not for a model that was protected elsewhere."""
        return self.run.manifest.get("model") is not None

    def weights_of(self, arm: ArmName) -> ArmName:
        """The arm whose weights those of `arm` are: where photos are protected, the original's."""
        return arm if self.perturbed is None else "original"

    def learnt(self, arm: ArmName, subject: SubjectRecord, clean_photos: int = 0) -> SubjectRecord:
        """`subject` as the attacker of `arm` finds it: with perturbed photos, or as it is.

        Args:
            clean_photos: how many of the perturbed ones are found clean, too.

        Raises:
            UsageError, ApdmError: see `PerturbedPhotos.learnt`.
        """
        if self.perturbed is None or arm == "original":
            return subject
        return self.perturbed.learnt(subject, clean_photos)

    def ref(self, arm: ArmName) -> ModelRef:
        """What `load` will load, without loading it."""
        arm = self.weights_of(arm)
        if arm not in self._refs:
            self._refs[arm] = self._original_ref() if arm == "original" else self._protected_ref()
        return self._refs[arm]

    def load(self, arm: ArmName) -> DiffusionModel:
        """The model of an arm; the same object every time.

        Raises:
            ApdmError: it cannot be loaded, or is not the model that the run was made with.
        """
        arm = self.weights_of(arm)
        if arm not in self._loaded:
            model = self._original() if arm == "original" else self._protected()
            # Both are drawn and attacked alike: as what the original is.
            self._loaded[arm] = replace(model, profile=self.profile())
            self._sums[arm] = checksum(self._loaded[arm])
        return self._loaded[arm]

    def require_unchanged(self, who: str) -> None:
        """Refuse to go on with models that `who` has changed; they are loaded again.

        Whatever is drawn or trained with a changed model would be kept under the digest of the
        original, and used by others.

        Args:
            who: whose code ran: "the attack lora".

        Raises:
            ApdmError: `who` and the first changed tensor are named.
        """
        changed = []
        for arm in list(self._loaded):
            before, now = self._sums[arm], checksum(self._loaded[arm])
            keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
            if keys:
                changed.append((arm, keys[0]))
                del self._loaded[arm]
        if changed:
            arm, key = changed[0]
            raise ApdmError(
                f"{who} has changed the {arm} model itself ({key})",
                "A plugin must leave alone what it is shown; an attack trains `bench.model`, its "
                "own copy.",
            )

    def profile(self) -> str:
        """Whose settings fit these models: "pocket", or "" for the defaults of their family."""
        return profile_of_run(self.run)

    def _original_ref(self) -> ModelRef:
        model = self.run.manifest.get("model")
        if model is None:
            raise ApdmError(
                f"Run {self.run.name} names no original model",
                "Give it with --original, or leave the control arm out with --no-control.",
            )
        return ModelRef(model["source"], model.get("revision"), model["digest"])

    def _protected_ref(self) -> ModelRef:
        self.run.require_done()
        folder = protected_folder(self.run)
        return ModelRef(str(folder), None, folder_digest(folder))

    def _original(self) -> DiffusionModel:
        ref = self._original_ref()
        model = load_model(ref.source, self.device, self.dtype, ref.revision, self.known)
        if not same_model(model.ref.digest, ref.digest):
            raise ApdmError(
                f"{ref.source} is not the model that run {self.run.name} protected any more: its "
                f"weights had the SHA-256 {ref.digest[:12]}..., and now it is "
                f"{model.ref.digest[:12]}...",
                "Put the old weights back, or protect the new ones in a run of their own.",
            )
        # What was drawn and trained with it is kept under the digest that the run knows.
        return replace(model, ref=ref)

    def _protected(self) -> DiffusionModel:
        ref = self.ref("protected")
        folder = Path(ref.source)
        if (folder / "model_index.json").is_file():
            return load_model(ref.source, self.device, self.dtype, known=self.known)
        # `apdm protect --save` wrote the trained component alone, or what is added to it.
        original = self.load("original")
        if folder.is_dir() and holds_difference(folder, original.family):
            whole = original.private_copy()
            add_difference(whole.family, whole.components, folder)
        else:
            whole = load_attacked(original, Artifact("pipeline", folder))
        return replace(whole, ref=ref)


def external_run(
    root: Path,
    source: str,
    original: str | None,
    known: Mapping[str, Family] | None = None,
    *,
    write: bool = True,
    **fields: Any,
) -> Run:
    """A run that stands for a model protected elsewhere; made once, found again.

    Args:
        source: diffusers folder of the protected model.
        original: the model it was made from (path, hub id or "pocket"), if known.
        known: families of models by name; those of the installed plugins, if None.
        write: make its folder, unless it is there; otherwise the run is in memory alone.
        fields: for the manifest: subject, seed.

    Raises:
        ApdmError: `source` is no folder of a pipeline.
    """
    folder = external_folder(source)
    external = {"source": str(folder), "digest": folder_digest(folder)}
    model = None
    if original is not None:
        cpu = torch.device("cpu")
        model = asdict(load_model(original, cpu, known=known).ref)
    manifest = {EXTERNAL: external, "model": model, **fields}
    if not write:
        described = {"name": _name(root, folder), "status": DONE, **manifest}
        return _found(root, manifest) or Run(root / described["name"], described)
    with writing_to(root):
        root.mkdir(parents=True, exist_ok=True)
    with holding(root, waiting=lambda: None):  # a moment: another process may make the same run
        return _found(root, manifest) or _made(root, _name(root, folder), manifest)


def _found(root: Path, manifest: Mapping[str, Any]) -> Run | None:
    kept = (EXTERNAL, "model", "subject")
    for run in Run.all(root):
        same = all(run.manifest.get(key) == manifest.get(key) for key in kept)
        if same and run.status == DONE:
            return run
    return None


def _name(root: Path, folder: Path) -> str:
    return free_name(root, slug(folder.name) or EXTERNAL)


def _made(root: Path, name: str, manifest: Mapping[str, Any]) -> Run:
    run = Run.create(root, name, schema=1, **manifest, configuration={}, preset=None)
    run.finish(duration_seconds=0.0, summary={})
    return run
