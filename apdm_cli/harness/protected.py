"""The protected model of a run, and whose settings fit it: from files alone, nothing is loaded."""

from __future__ import annotations

from pathlib import Path

from apdm_cli.errors import ApdmError
from apdm_cli.pocket.profile import profile_by_architecture, profile_of
from apdm_cli.runs.run import Run

EXTERNAL = "external"


def external_folder(source: str) -> Path:
    """The folder of a model that was protected elsewhere; ApdmError for no pipeline's folder."""
    folder = Path(source).expanduser().resolve()
    if not (folder / "model_index.json").is_file():
        raise ApdmError(
            f"--model {source} is not a diffusers folder: it has no model_index.json",
            "Give the folder that save_pretrained wrote.",
        )
    return folder


def protected_folder(run: Run) -> Path:
    """Where the protected model of `run` lies; ApdmError when it is gone."""
    external = run.manifest.get(EXTERNAL)
    folder = Path(external["source"]) if external else run.model
    if not folder.is_dir():
        again = f"remove the run (apdm clean {run.path.name}) and make it again: {run.begun_by()}"
        raise ApdmError(
            f"The protected model {folder} is missing",
            "Put it back." if external else f"Put it back, or {again}",
        )
    return folder


def profile_of_run(run: Run) -> str:
    """Whose settings fit both models of `run`: "pocket", or "" for their family's defaults."""
    model = run.manifest.get("model")
    if model is not None:
        return profile_of(model["source"], model["digest"])
    return profile_by_architecture(protected_folder(run))
