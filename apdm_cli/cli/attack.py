"""`apdm attack`: parse, call one function, render."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from apdm_cli.cli.attack_answer import list_attacks, report
from apdm_cli.cli.cluster import check_cluster, chosen_cluster
from apdm_cli.cli.console import stderr, stdout, warn
from apdm_cli.cli.going_on import keeps, nothing_yet
from apdm_cli.cli.options import (
    COMPUTE,
    OUTPUT,
    ClusterAddress,
    Devices,
    DryRun,
    Dtype,
    GpusPerWorker,
    Guidance,
    Images,
    Json,
    Log,
    PluginFile,
    Prompts,
    Root,
    Sampler,
    SamplerSteps,
    SubjectName,
    Workers,
)
from apdm_cli.errors import UsageError

if TYPE_CHECKING:
    from apdm_cli.harness.arms import ArmName

KEEPS = "Finished attacks are kept, and one that was begun goes on from its last checkpoint."
RERUN_KEEPS = "Attacks that were finished are kept; with --rerun they are begun again."
ATTACKS, ATTACKER, METHOD = "Attacks", "The attacker", "Method"


def attack(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN", help="The protect run to attack; without it the newest finished one."
        ),
    ] = None,
    subject: SubjectName = None,
    plugin: Annotated[
        list[str] | None,
        typer.Option(
            "--plugin",
            metavar="NAME",
            help="An attack by its name. May be given several times.",
            rich_help_panel=ATTACKS,
        ),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A list of attacks: quick (the default), standard, wild, full or a TOML file.",
            rich_help_panel=ATTACKS,
        ),
    ] = None,
    list_them: Annotated[
        bool,
        typer.Option("--list", help="List the attacks and the suites.", rich_help_panel=ATTACKS),
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Attack a model that was protected elsewhere.",
            rich_help_panel=ATTACKS,
        ),
    ] = None,
    original: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="The model that --model was made from.",
            rich_help_panel=ATTACKS,
        ),
    ] = None,
    photos: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH",
            help="Other photos than those of the run. May be given several times.",
            rich_help_panel=ATTACKER,
        ),
    ] = None,
    identifier: Annotated[
        str | None,
        typer.Option(
            metavar="WORD",
            help="Another identifier than the run's.",
            rich_help_panel=ATTACKER,
        ),
    ] = None,
    subject_class: Annotated[
        str | None,
        typer.Option(
            metavar="NOUN",
            help="Another class noun than the run's.",
            rich_help_panel=ATTACKER,
        ),
    ] = None,
    transform: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Change the photos first: flip, blur, crop, jpeg or noise. May be given several "
            "times.",
            rich_help_panel=ATTACKER,
        ),
    ] = None,
    crop: Annotated[
        Literal["center", "face", "none"] | None,
        typer.Option(
            metavar="HOW",
            help="Cut the photos in another way than the protector: center, face or none. It holds "
            "for every attack, whatever a suite says.",
            rich_help_panel=ATTACKER,
        ),
    ] = None,
    clean_photos: Annotated[
        int,
        typer.Option(
            "--clean-photos",
            metavar="K",
            help="Of a run that protects photos: how many of them the attacker has unprotected.",
            rich_help_panel=ATTACKER,
            min=0,
        ),
    ] = 0,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A TOML file with a table per attack.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="ATTACK.KEY=VALUE",
            help="One setting, over all others; without ATTACK it goes to every attack. May be "
            "given several times.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    budgets: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,...",
            help="Multiples of each attack's steps at which it is looked at, such as 0.5,1,3. "
            "Without it, a suite has its own, and --plugin has 1.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="N", help="The first seed.", rich_help_panel=METHOD)
    ] = 0,
    seeds: Annotated[
        int,
        typer.Option(
            metavar="N", help="How many seeds to attack with.", rich_help_panel=METHOD, min=1
        ),
    ] = 1,
    no_control: Annotated[
        bool,
        typer.Option(
            "--no-control", help="Do not attack the original as well.", rich_help_panel=METHOD
        ),
    ] = False,
    control_only: Annotated[
        bool,
        typer.Option(
            "--control-only",
            help="Attack the original alone, which may begin while RUN is being protected.",
            rich_help_panel=METHOD,
        ),
    ] = False,
    prompts: Prompts = "identity",
    images: Images = 30,
    sampler: Sampler = None,
    sampler_steps: SamplerSteps = None,
    guidance: Guidance = None,
    rerun: Annotated[
        bool,
        typer.Option(
            "--rerun", help="Run cells again that are finished already.", rich_help_panel=OUTPUT
        ),
    ] = False,
    keep: Annotated[
        Literal["artifact", "difference", "pictures"],
        typer.Option(
            metavar="WHAT",
            help="What stays of every attacked model: artifact, all of it; difference, what full "
            "fine-tuning moved, in bfloat16; or pictures, those that --prompts and --images name.",
            rich_help_panel=OUTPUT,
        ),
    ] = "artifact",
    dry_run: DryRun = False,
    log: Log = None,
    out: Root = Path("runs"),
    json: Json = False,
    device: Devices = "auto",
    workers: Workers = None,
    cluster: ClusterAddress = None,
    gpus_per_worker: GpusPerWorker = None,
    send_photos: Annotated[
        bool,
        typer.Option(
            "--send-photos",
            help="With --cluster: send the run and the subject's photos, which are private, to the "
            "machines, which need not see the folder of runs.",
            rich_help_panel=COMPUTE,
        ),
    ] = False,
    dtype: Dtype = "auto",
    plugin_file: PluginFile = None,
    checkpoint_every: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Steps between two checkpoints; 0 writes one a minute.",
            rich_help_panel=COMPUTE,
            min=0,
        ),
    ] = 0,
    cell_timeout: Annotated[
        float,
        typer.Option(
            metavar="S",
            help="End an attack on one model after S seconds; 0 waits for ever.",
            rich_help_panel=COMPUTE,
            min=0,
        ),
    ] = 0,
) -> None:
    """Personalize the original and the protected model the same way.

    Every attack runs on both: without the original a low score proves nothing. Several commands
    may work on one run at once; each takes the next cell that nobody holds. At every budget but the
    last, pictures are drawn on the way: give apdm evaluate the same drawing options later.
    """
    from apdm_cli.cli.plugins import load_plugins

    if not list_them:
        nothing_yet()
    manager = load_plugins(plugin_file or ())
    if list_them:
        list_attacks(manager, json)
        return
    from apdm_cli.config import parse_assignments, read_toml, resolve
    from apdm_cli.devices import check_names, names_of_devices, resolve_devices, resolve_dtype
    from apdm_cli.diffusion.family import check_sampler_of_some
    from apdm_cli.evaluation.profiles import EvaluationSettings
    from apdm_cli.evaluation.prompts import load_prompts
    from apdm_cli.extension.manager import attacks, families, metrics, registered_attacks
    from apdm_cli.harness.request import AttackRequest
    from apdm_cli.harness.suites import parse_budgets
    from apdm_cli.runs.early import LIBRARIES, beginning
    from apdm_cli.runs.events import require_tensorboard
    from apdm_cli.runs.run import Run

    out = Run.root_of(out, run)
    settings = (read_toml(config) if config else {}, parse_assignments(assignments or []))
    drawing = resolve(
        EvaluationSettings,
        {
            "prompts": prompts,
            "images": images,
            "sampler": sampler,
            "steps": sampler_steps,
            "guidance": guidance,
        },
    )
    request = AttackRequest(
        root=out,
        run=run,
        subject=subject,
        model=model,
        original=original,
        plugins=tuple(plugin or ()),
        suite=suite,
        photos=tuple(photos or ()),
        identifier=identifier,
        class_noun=subject_class,
        transforms=tuple(transform or ()),
        clean_photos=clean_photos,
        crop=crop,
        seeds=tuple(range(seed, seed + seeds)),
        settings=settings,
        wanted=_wanted(no_control, control_only),
        budgets=None if budgets is None else parse_budgets(budgets),
        pictures=drawing.model_dump(mode="json", exclude_defaults=True),
        known=families(manager),
    )
    # Whatever can be wrong without a model is said now: torch takes seconds to import.
    request.check(registered_attacks(manager))
    names = names_of_devices(device, workers)
    for name in names:
        check_names(name, dtype)
    load_prompts(prompts)
    check_cluster(cluster, device, gpus_per_worker, send_photos=send_photos)
    if cluster is not None:
        request = replace(request, root=out.resolve())  # the same for every machine
    if log is not None:
        require_tensorboard()
    if sampler is not None:
        check_sampler_of_some(families(manager), sampler)

    # They import while this process does, which only then knows what there is for them to do.
    helpers = 0 if dry_run or cluster else len(names) - 1
    with beginning(helpers, ("apdm_cli.harness.workers", *LIBRARIES)):
        from apdm_cli.evaluation.drawing import attack_drawing
        from apdm_cli.harness.execute import Execution, stamps
        from apdm_cli.harness.judge import make_judge
        from apdm_cli.harness.workers import Share
        from apdm_cli.runs.workers import helping, threads_each

        targets = resolve_devices("cpu") if cluster else resolve_devices(device, workers)
        machines = chosen_cluster(
            cluster, workers, device, gpus_per_worker, dtype, send_photos=send_photos
        )
        precision = resolve_dtype(machines.dtype if machines else dtype, targets[0])
        request = replace(request, device=targets[0], dtype=precision)
        pictures = attack_drawing(drawing)
        arms, cells, said = request.plan(registered_attacks(manager), pictures, write=not dry_run)
        if dry_run:
            from apdm_cli.cli.attack_plan import show_plan
            from apdm_cli.harness.forecast import forecast

            show_plan(forecast(cells, arms, out, rerun=rerun), arms, targets, said, json=json)
            return
        for sentence in said:
            warn(sentence)

        from apdm_cli.cli.attack_display import open_display

        keeps(RERUN_KEEPS if rerun else KEEPS, run=None if run or model else arms.run.name)
        others = targets[1 : sum(rerun or not cell.finished for cell in cells)]
        share = Share(
            request.of_run(arms.run),
            pictures,
            before=stamps(cells),
            threads=threads_each(1 + len(others)),
            plugin_files=tuple(plugin_file or ()),
            rerun=rerun,
            checkpoint_every=checkpoint_every,
            cell_timeout=cell_timeout,
            events=log is not None,
            keep=keep,
        )
        with open_display(live=stdout.is_terminal and stderr.is_terminal) as display:
            execution = Execution(
                arms,
                request.root,
                display,
                judge=make_judge(metrics(manager)),
                rerun=rerun,
                checkpoint_every=checkpoint_every,
                attacks=attacks(manager),
                cell_timeout=cell_timeout,
                events=log is not None,
                keep=keep,
                before=share.before,
                helped=bool(others) or cluster is not None,
            )
            if machines is not None:
                from apdm_cli.harness.cluster_attack import attack_on_cluster

                outcomes = attack_on_cluster(machines, share, execution, cells)
            else:
                with helping(share, others, display.watch):
                    outcomes = execution.run(cells)
        on_photos = arms.perturbed is not None
        report(arms.run.name, outcomes, json=json, root=out, photos=on_photos)


def _wanted(no_control: bool, control_only: bool) -> Sequence[ArmName]:
    """Which models are attacked."""
    from apdm_cli.harness.plan import BOTH

    if no_control and control_only:
        raise UsageError(
            "--no-control and --control-only leave no model to attack.", "Give one of them."
        )
    return ("original",) if control_only else ("protected",) if no_control else BOTH
