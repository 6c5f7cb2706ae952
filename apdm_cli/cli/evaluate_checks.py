"""What `apdm evaluate` refuses before anything is drawn, or torch is imported."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from apdm_cli.evaluation.profiles import EvaluationSettings
    from apdm_cli.extension.manager import PluginManager
    from apdm_cli.runs.run import Run


def check_one(views: Sequence[Run], settings: EvaluationSettings) -> None:
    """Photos and neighbours are of one subject, or of its class."""
    from apdm_cli.errors import UsageError

    if len(views) > 1 and (settings.photos or settings.neighbours):
        option = "--photos" if settings.photos else "--neighbours"
        names = " and ".join(view.subject for view in views)
        raise UsageError(
            f"{option} is for one subject, and the run protects {names}",
            f"Add --subject {views[0].subject}, for example.",
        )


def check_before_torch(run: Run, settings: EvaluationSettings, manager: PluginManager) -> None:
    """Say that a name is wrong or a file is gone before torch is imported, which takes seconds."""
    from apdm_cli.diffusion.family import check_sampler_of_some
    from apdm_cli.diffusion.photo_decoding import require_readable
    from apdm_cli.evaluation.choosing import choose_metrics
    from apdm_cli.evaluation.prompts import load_prompts
    from apdm_cli.extension.manager import families, metrics
    from apdm_cli.subject import SubjectRecord

    run.require_done()
    choose_metrics(settings.metrics, settings.weights, metrics(manager))
    load_prompts(settings.prompts)
    if settings.captions is not None:
        load_prompts(str(settings.captions), "--captions")
    if settings.sampler is not None:
        check_sampler_of_some(families(manager), settings.sampler)
    for folder in settings.neighbours:
        require_readable([folder])
    SubjectRecord.from_manifest(run.manifest["subject"]).found(settings.photos)


def check_attacked(views: Sequence[Run], root: Path) -> None:
    """Minutes of drawing answer nothing before an attack: say so first."""
    from apdm_cli.errors import ApdmError
    from apdm_cli.runs.cells import finished_cells
    from apdm_cli.runs.run import DONE

    attacked = [run for run in views if run.status != DONE or finished_cells(run.attacks)]
    if len(attacked) == len(views):
        return
    run = next(run for run in views if run not in attacked)
    where = "" if root == Path("runs") else f" --out {shlex.quote(str(root))}"
    raise ApdmError(
        f"Run {run.name} was not attacked yet, so there is nothing to say about its protection",
        f"Attack it first: apdm attack {shlex.quote(run.name)} --plugin dreambooth{where}\n"
        "To score only what the protection cost everybody else: "
        f"apdm evaluate {shlex.quote(run.name)} --utility-only{where}"
        + "".join(
            f"\nTo score {one.subject}: apdm evaluate {shlex.quote(one.name)}{where}"
            for one in attacked
        ),
    )


def weights_of(given: list[str]) -> dict[str, str]:
    """`--weights NAME=PATH` as {name: path}; UsageError for one that is none, or is not there."""
    from apdm_cli.errors import UsageError

    found = {}
    for entry in given:
        name, equals, path = entry.partition("=")
        if not (name and equals and path):
            raise UsageError(
                f"--weights {entry}: expected NAME=PATH", "Example: --weights dino=~/dino"
            )
        # Without a separator it may be a name that a metric knows: clip=ViT-L-14:openai.
        if ("/" in path or path.startswith("~")) and not Path(path).expanduser().exists():
            raise UsageError(f"--weights {entry}: {path} does not exist", "Correct the path.")
        found[name] = path
    return found


def batch_size_of(text: str) -> int | None:
    """`--batch-size` as a number; None for auto."""
    from apdm_cli.errors import UsageError

    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(
            f"--batch-size {text}: expected a whole number from 1, or auto",
            "Example: --batch-size 8",
        )
    return int(text)
