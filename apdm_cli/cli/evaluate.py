"""`apdm evaluate`: parse, call one function, render."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from apdm_cli.cli.cluster import check_cluster, chosen_cluster
from apdm_cli.cli.console import display, print_json, warn
from apdm_cli.cli.evaluate_answer import report, say_what_is_next
from apdm_cli.cli.evaluate_checks import (
    batch_size_of,
    check_attacked,
    check_before_torch,
    check_one,
    weights_of,
)
from apdm_cli.cli.going_on import keeps, nothing_yet
from apdm_cli.cli.options import (
    DRAWING,
    ClusterAddress,
    Devices,
    DryRun,
    Dtype,
    GpusPerWorker,
    Guidance,
    Images,
    Json,
    PluginFile,
    Prompts,
    Root,
    Sampler,
    Steps,
    SubjectName,
    Verbose,
    Workers,
)
from apdm_cli.cli.progress import WorkerLines

SCORING = "Scoring"
KEEPS = "Pictures that were drawn are kept; scores are written at the end, all at once."


def evaluate(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN", help="The run to evaluate; without it the newest finished one."
        ),
    ] = None,
    subject: SubjectName = None,
    metrics: Annotated[
        str,
        typer.Option(
            metavar="NAME,...",
            help="Which metrics to score with; auto is every one that can be used.",
            rich_help_panel=SCORING,
        ),
    ] = "auto",
    weights: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PATH",
            help="Where the weights of a metric are. May be given several times.",
            rich_help_panel=SCORING,
        ),
    ] = None,
    photos: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH",
            help="Where the photos are now, if they were moved. May be given several times.",
            rich_help_panel=SCORING,
        ),
    ] = None,
    neighbours: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH",
            help="Photos of somebody else, to see whether they can still be taught. May be given "
            "several times.",
            rich_help_panel=SCORING,
        ),
    ] = None,
    captions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A text file of general captions, one a line, to draw and score as well.",
            rich_help_panel=SCORING,
        ),
    ] = None,
    plugin_file: PluginFile = None,
    prompts: Prompts = "identity",
    images: Images = 30,
    class_images: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="How many class pictures to draw with each model. Without it 128 for the embedded "
            "model, and otherwise as many as --images.",
            rich_help_panel=DRAWING,
            min=2,
        ),
    ] = None,
    sampler: Sampler = None,
    steps: Steps = None,
    guidance: Guidance = None,
    batch_size: Annotated[
        str,
        typer.Option(
            metavar="N",
            help="How many pictures to draw at once, or auto; no score depends on it.",
            rich_help_panel=DRAWING,
        ),
    ] = "auto",
    seed: Annotated[
        int,
        typer.Option(metavar="N", help="The seed of the pictures.", rich_help_panel=DRAWING, min=0),
    ] = 0,
    utility_only: Annotated[
        bool,
        typer.Option(
            "--utility-only",
            help="Go on where nothing was attacked yet, and score only what the protection cost "
            "everybody else.",
            rich_help_panel=SCORING,
        ),
    ] = False,
    yes: Annotated[
        bool,
        # Two long names in one row are cut on a narrow terminal.
        typer.Option("--yes", help="The same as --utility-only.", hidden=True),
    ] = False,
    dry_run: DryRun = False,
    out: Root = Path("runs"),
    device: Devices = "auto",
    workers: Workers = None,
    cluster: ClusterAddress = None,
    gpus_per_worker: GpusPerWorker = None,
    dtype: Dtype = "auto",
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Draw pictures with every attacked model and score them.

    Writes evaluation/scores.json into the run. Pictures are kept and not drawn twice. Several
    workers, here or of a cluster, share the drawing; the pictures are the same. The exit code is 1
    when an attack or a metric that was asked for is missing from it.
    """
    from apdm_cli.cli.plugins import load_plugins
    from apdm_cli.config import resolve
    from apdm_cli.devices import check_names, names_of_devices, resolve_devices, resolve_dtype
    from apdm_cli.diffusion.photo_files import listed
    from apdm_cli.evaluation.profiles import EvaluationSettings
    from apdm_cli.runs.atomic import require_writable
    from apdm_cli.runs.run import Run
    from apdm_cli.scores import SCORES
    from apdm_cli.user_config import load_config

    nothing_yet()
    settings = resolve(
        EvaluationSettings,
        {
            "metrics": tuple(name.strip() for name in metrics.split(",") if name.strip()),
            "weights": {**load_config().values.weights, **weights_of(weights or [])},
            "photos": tuple(photos or ()),
            "neighbours": tuple(neighbours or ()),
            "captions": captions,
            "prompts": prompts,
            "images": images,
            "class_images": class_images,
            "sampler": sampler,
            "steps": steps,
            "guidance": guidance,
            "batch_size": batch_size_of(batch_size),
            "seed": seed,
        },
    )
    check_cluster(cluster, device, gpus_per_worker)
    out = Run.root_of(out, run)
    root = out if cluster is None else out.resolve()  # the same for every machine
    chosen = Run.open(root, run) if run else Run.newest_finished(root)
    keeps(KEEPS, run=None if run else chosen.name)
    views = chosen.each if subject is None else [chosen.of_subject(subject)]
    check_one(views, settings)
    if not (utility_only or yes):
        check_attacked(views, out)
    manager = load_plugins(plugin_file or ())
    for view in views:
        check_before_torch(view, settings, manager)
        if not dry_run:
            require_writable(view.evaluation / SCORES, parents=True)
    here = workers if cluster is None else 1  # it makes the scores
    names = names_of_devices(device, here)
    for name in names:
        check_names(name, dtype)

    from apdm_cli.runs.early import LIBRARIES, beginning

    # They import while this process does, which only then knows what there is for them to draw.
    helpers = 0 if dry_run else len(names) - 1
    with beginning(helpers, ("apdm_cli.evaluation.together", *LIBRARIES)):
        from apdm_cli.evaluation.evaluate import evaluate_run
        from apdm_cli.evaluation.together import Team

        target, *others = resolve_devices(device, here)
        machines = chosen_cluster(cluster, workers, device, gpus_per_worker, dtype)
        precision = resolve_dtype(machines.dtype if machines else dtype, target)
        if dry_run:
            from apdm_cli.cli.evaluate_plan import show_plans
            from apdm_cli.evaluation.forecast import forecast_evaluation

            plans = {
                view.name: forecast_evaluation(
                    root, view, settings, manager, device=target, dtype=precision
                )
                for view in views
            }
            show_plans(plans, settings.metrics, target, precision, json=json)
            return
        results = []
        with display(say=warn) as shown:
            watch = partial(WorkerLines, shown)
            team = Team(tuple(others), watch, tuple(plugin_file or ()), machines)
            for view in views:
                result = evaluate_run(
                    root,
                    view,
                    settings,
                    shown,
                    device=target,
                    dtype=precision,
                    plugins=manager,
                    team=team if others or machines else None,
                )
                results.append((view, result))
    if json:
        tables = {view.name: result.as_json() for view, result in results}
        print_json({"runs": tables} if len(tables) > 1 else tables[views[0].name])
    else:
        for view, result in results:
            report(result, view, verbose, several=len(results) > 1)
        say_what_is_next(chosen if subject is None else views[0], [one for _, one in results], out)
    missing = [one for _, result in results for one in result.missing]
    if missing:
        warn(
            f"Not everything that was asked for is there: {listed(missing, 10)}",
            "Everything else was scored. Why each is missing is said above and in the report.",
        )
        raise typer.Exit(1)
