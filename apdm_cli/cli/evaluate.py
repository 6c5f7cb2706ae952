"""`apdm evaluate`: parse, call one function, render."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apdm_cli.cli.cluster import check_cluster, chosen_cluster
from apdm_cli.cli.console import display, print_json, stdout, warn
from apdm_cli.cli.going_on import keeps, nothing_yet
from apdm_cli.cli.guide import say_answer, say_next
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

if TYPE_CHECKING:
    from apdm_cli.evaluation.profiles import EvaluationSettings
    from apdm_cli.extension.manager import PluginManager
    from apdm_cli.runs.run import Run
    from apdm_cli.scores import Score, ScoreRow, ScoresFile

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
    from apdm_cli.evaluation.profiles import EvaluationSettings
    from apdm_cli.runs.run import Run
    from apdm_cli.user_config import load_config

    nothing_yet()
    settings = resolve(
        EvaluationSettings,
        {
            "metrics": tuple(name.strip() for name in metrics.split(",") if name.strip()),
            "weights": {**load_config().values.weights, **_weights(weights or [])},
            "photos": tuple(photos or ()),
            "neighbours": tuple(neighbours or ()),
            "captions": captions,
            "prompts": prompts,
            "images": images,
            "class_images": class_images,
            "sampler": sampler,
            "steps": steps,
            "guidance": guidance,
            "batch_size": _batch_size(batch_size),
            "seed": seed,
        },
    )
    check_cluster(cluster, device, gpus_per_worker)
    root = out if cluster is None else out.resolve()  # the same for every machine
    chosen = Run.open(root, run) if run else Run.newest_finished(root)
    keeps(KEEPS, run=None if run else chosen.name)
    views = chosen.each if subject is None else [chosen.of_subject(subject)]
    _check_one(views, settings)
    if not (utility_only or yes):
        _check_attacked(views, out)
    manager = load_plugins(plugin_file or ())
    for view in views:
        _check_before_torch(view, settings, manager)
    here = workers if cluster is None else 1  # it makes the scores
    for name in names_of_devices(device, here):
        check_names(name, dtype)

    from apdm_cli.diffusion.photo_files import listed
    from apdm_cli.evaluation.evaluate import evaluate_run
    from apdm_cli.evaluation.together import Team

    target, *others = resolve_devices(device, here)
    precision = resolve_dtype(dtype, target)
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
    machines = chosen_cluster(cluster, workers, device, gpus_per_worker, dtype)
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
            _report(result, view, verbose, several=len(results) > 1)
        _say_next(chosen if subject is None else views[0], [one for _, one in results], out)
    missing = [one for _, result in results for one in result.missing]
    if missing:
        warn(
            f"Not everything that was asked for is there: {listed(missing, 10)}",
            "Everything else was scored. Why each is missing is said above and in the report.",
        )
        raise typer.Exit(1)


def _report(result: ScoresFile, run: Run, verbose: bool, *, several: bool) -> None:
    from apdm_cli.report.evaluated import EvaluatedRun
    from apdm_cli.report.variants import with_named_variants
    from apdm_cli.scores import SCORES

    shown = with_named_variants(EvaluatedRun(run, result, {}, ())).scores
    _render(shown, verbose, f"{result.run}: " if several else "")
    where = run.evaluation / SCORES
    stdout.print(f"Scores: {where}", soft_wrap=True, highlight=False, style="dim")


def _say_next(run: Run, results: Sequence[ScoresFile], root: Path) -> None:
    if all(any(row.role == "attack" for row in result.rows) for result in results):
        say_next(f"apdm compare {run.name}", root)
    else:
        say_next(f"apdm attack {run.name} --plugin dreambooth", root)


def _check_one(views: Sequence[Run], settings: EvaluationSettings) -> None:
    """Photos and neighbours are of one subject, or of its class."""
    from apdm_cli.errors import UsageError

    if len(views) > 1 and (settings.photos or settings.neighbours):
        option = "--photos" if settings.photos else "--neighbours"
        names = " and ".join(view.subject for view in views)
        raise UsageError(
            f"{option} is for one subject, and the run protects {names}",
            f"Add --subject {views[0].subject}, for example.",
        )


def _check_before_torch(run: Run, settings: EvaluationSettings, manager: PluginManager) -> None:
    """Say that a name is wrong or a file is gone before torch is imported, which takes seconds."""
    from apdm_cli.diffusion.family import check_sampler_of_some
    from apdm_cli.diffusion.photo_files import find_photos
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
        find_photos([folder])
    SubjectRecord.from_manifest(run.manifest["subject"]).found(settings.photos)


def _check_attacked(views: Sequence[Run], root: Path) -> None:
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
        f"Attack it first: apdm attack {run.name} --plugin dreambooth{where}\n"
        "To score only what the protection cost everybody else: "
        f"apdm evaluate {run.name} --utility-only{where}"
        + "".join(f"\nTo score {one.subject}: apdm evaluate {one.name}{where}" for one in attacked),
    )


def _weights(given: list[str]) -> dict[str, str]:
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


def _batch_size(text: str) -> int | None:
    from apdm_cli.errors import UsageError

    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(
            f"--batch-size {text}: expected a whole number from 1, or auto",
            "Example: --batch-size 8",
        )
    return int(text)


def _render(result: ScoresFile, verbose: bool, whose: str) -> None:
    """The answer, then two tables: who is in the pictures, and the price for everybody else."""
    from rich.markup import escape

    from apdm_cli.report.assemble import judge

    say_answer(whose + judge(result).answer)
    sampler = result.sampler
    stdout.print(
        f"[bold]{escape(result.run)}[/], {sampler['sampler']}, {sampler['steps']} steps, "
        f"guidance {sampler['guidance']:g}; value ± half its 95 % interval",
        highlight=False,
    )
    rows = [row for row in result.rows if row.scores]
    utility = [row for row in rows if row.role == "utility"]
    _tables("Pictures of the subject", [row for row in rows if row.role != "utility"], verbose)
    _tables("Pictures of everything else", utility, verbose)
    asked = result.asked.get("metrics") or ()
    for missing in result.unavailable:
        if verbose or missing.metric in asked:
            stdout.print(
                f"[dim]not scored: {missing.metric} ({escape(missing.reason)})[/]",
                highlight=False,
                soft_wrap=True,
            )


def _tables(title: str, rows: Sequence[ScoreRow], verbose: bool) -> None:
    """As many metrics as fit beside each other; the others below, or counted."""
    if not rows:
        return
    shown = {score.metric: score.shown for row in rows for score in row.scores}
    room = stdout.width - max(min(24, len(_name(row))) for row in rows) - 2 - 11 - 7
    groups: list[list[str]] = [[]]
    left = room
    for metric in shown:
        texts = [_shown(score) for row in rows for score in row.scores if score.metric == metric]
        width = max(len(metric), *map(len, texts)) + 2
        if groups[-1] and width > left:
            groups.append([])
            left = room
        groups[-1].append(metric)
        left -= width
    for metrics in groups if verbose else groups[:1]:
        _table(title, rows, metrics)
        named = [f"{name} is {shown[name]}" for name in metrics if shown[name] != name]
        if named:
            stdout.print(f"{', '.join(named)}", style="dim", markup=False, highlight=False)
    hidden = [metric for metrics in groups[1:] for metric in metrics]
    if hidden and not verbose:
        stdout.print(
            f"Also scored (--verbose shows them): {', '.join(hidden)}",
            style="dim",
            markup=False,
            highlight=False,
        )


def _table(title: str, rows: Sequence[ScoreRow], metrics: Sequence[str]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, padding=(0, 1), pad_edge=False)
    table.add_column(title.lower().removeprefix("pictures of ").capitalize())
    table.add_column("Model", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True)
    for metric in metrics:
        table.add_column(escape(metric), justify="right", no_wrap=True)
    for row in rows:
        scores = {score.metric: score for score in row.scores}
        cells = [_shown(scores[metric]) if metric in scores else "" for metric in metrics]
        if any(cells):
            counts = _counts([scores[metric] for metric in metrics if metric in scores])
            table.add_row(escape(_name(row)), row.arm, counts, *cells)
    stdout.print(table, highlight=False)
    reasons = {
        f"{score.metric}: none where {score.why}"
        for row in rows
        for score in row.scores
        if score.why
    }
    for reason in sorted(reasons):
        stdout.print(reason, style="dim", markup=False, highlight=False)


def _name(row: ScoreRow) -> str:
    role = "" if row.role in ("attack", "utility") else f"{row.role}: "
    return role + row.label + (f", seed {row.seed}" if row.seed else "")


def _counts(scores: Sequence[Score]) -> str:
    """Scored pictures, and after a minus those that could not be; the worst of the metrics."""
    n = min(score.n for score in scores)
    skipped = max(score.skipped for score in scores)
    return f"{n}−{skipped}" if skipped else str(n)


def _shown(score: Score) -> str:
    if not score.has_value:
        return "none"
    number = f"{score.value:.2f}" if abs(score.value) >= 10 else f"{score.value:.3f}"
    if score.low is None or score.high is None:
        return number
    return f"{number} ± {(score.high - score.low) / 2:.2g}"
