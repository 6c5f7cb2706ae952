"""`apdm protect`: parse, call one function, render."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from apdm_cli.cli.console import display, print_json, stdout
from apdm_cli.cli.going_on import keeps, nothing_yet
from apdm_cli.cli.guide import say_answer, say_next
from apdm_cli.cli.options import (
    COMPUTE,
    OUTPUT,
    Device,
    DryRun,
    Dtype,
    Json,
    Log,
    PluginFile,
    Root,
    Verbose,
)
from apdm_cli.cli.progress import WorkerLines, format_duration
from apdm_cli.cli.protect_checks import (
    check_before_torch,
    check_kept,
    check_onto,
    check_run,
    subjects_asked,
)
from apdm_cli.cli.protect_plan import show_plan, show_settings

if TYPE_CHECKING:
    import torch

    from apdm_cli.protection.request import ProtectRequest
    from apdm_cli.runs.launched import Launched
    from apdm_cli.runs.run import Run

SUBJECT, METHOD = "Subject and model", "Method"
# Where to look at the next attack: early too, so that the original's curve is seen as it rises.
BUDGETS = "0.25,0.5,1,3"


def protect(
    photos: Annotated[
        list[Path] | None,
        typer.Argument(metavar="PHOTOS", help="Folders of photos, or single files."),
    ] = None,
    class_noun: Annotated[
        str | None,
        typer.Option(
            "--class",
            metavar="NOUN",
            help="What the photos show: person, dog, ...",
            rich_help_panel=SUBJECT,
        ),
    ] = None,
    identifier: Annotated[
        str,
        typer.Option(metavar="WORD", help="The attacker's word for it.", rich_help_panel=SUBJECT),
    ] = "sks",
    subject: Annotated[
        list[str] | None,
        typer.Option(
            "--subject",
            metavar="SPEC",
            help="One of several: NAME=PATH:NOUN(:WORD).",
            rich_help_panel=SUBJECT,
        ),
    ] = None,
    onto: Annotated[
        str | None,
        typer.Option(
            "--onto",
            metavar="RUN",
            help="Add to what a run protects.",
            rich_help_panel=SUBJECT,
        ),
    ] = None,
    keep_attackers: Annotated[
        int | None,
        typer.Option(
            metavar="RANK",
            help="For a later --onto; they draw the subject.",
            rich_help_panel=SUBJECT,
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            "--model", metavar="MODEL", help="Folder, file or hub id.", rich_help_panel=SUBJECT
        ),
    ] = "pocket",
    revision: Annotated[
        str | None,
        typer.Option(metavar="REV", help="Which revision of a hub id.", rich_help_panel=SUBJECT),
    ] = None,
    method: Annotated[
        str,
        typer.Option(metavar="NAME", help="One that apdm plugins lists.", rich_help_panel=METHOD),
    ] = "apdm",
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Its starting settings: pocket, paper, ...",
            show_default=False,
            rich_help_panel=METHOD,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A TOML file that overrides the preset.", rich_help_panel=METHOD
        ),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="One setting, over both; may be repeated.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    crop: Annotated[
        Literal["center", "face", "none"],
        typer.Option(metavar="HOW", help="center, face or none.", rich_help_panel=SUBJECT),
    ] = "center",
    ignore_unreadable: Annotated[
        bool,
        typer.Option(
            "--ignore-unreadable",
            help="Leave out pictures that cannot be read.",
            rich_help_panel=SUBJECT,
        ),
    ] = False,
    forget_paths: Annotated[
        bool,
        typer.Option(
            "--forget-paths",
            help="Do not keep where the photos are.",
            rich_help_panel=SUBJECT,
        ),
    ] = False,
    seed: Annotated[
        int, typer.Option(metavar="N", help="The seed of every draw.", rich_help_panel=METHOD)
    ] = 0,
    device: Device = "auto",
    ranks: Annotated[
        int | None,
        typer.Option(
            "--ranks",
            metavar="N",
            min=1,
            help="Processes together, each on a card.",
            show_default=False,
            rich_help_panel=COMPUTE,
        ),
    ] = None,
    dtype: Dtype = "auto",
    plugin_file: PluginFile = None,
    memory: Annotated[
        Literal["normal", "low"],
        typer.Option(help="low needs less and is slower.", rich_help_panel=COMPUTE),
    ] = "normal",
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="NAME",
            help="The run's name; else FOLDER-NOUN.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    out: Root = Path("runs"),
    save: Annotated[
        Literal["pipeline", "trained-only", "unet-only", "adapter"],
        typer.Option(
            metavar="KIND",
            help="pipeline; or trained-only, or adapter.",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = "pipeline",
    checkpoint_every: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="In steps; 0 is by the clock.",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an unfinished run.", rich_help_panel=OUTPUT)
    ] = False,
    dry_run: DryRun = False,
    log: Log = None,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Make a model refuse to learn the subject of some photos.

    Writes runs/NAME with the protected pipeline or photos. No photo is copied.
    """
    from apdm_cli.cli.plugins import load_plugins
    from apdm_cli.config import parse_assignments, read_toml, resolve
    from apdm_cli.devices import check_names, devices_of_ranks, resolve_dtype
    from apdm_cli.errors import UsageError
    from apdm_cli.extension.containment import asked
    from apdm_cli.extension.image_protection import bound
    from apdm_cli.extension.manager import attacks, choose, families, registered_protections
    from apdm_cli.extension.protection_config import low_rank
    from apdm_cli.pocket.profile import POCKET, SOURCE, profile_of, profile_of_folder
    from apdm_cli.protection.asked import check_subjects, default_run_name
    from apdm_cli.protection.onto import open_onto, require_displacements
    from apdm_cli.runs.events import require_tensorboard
    from apdm_cli.runs.launched import launched

    nothing_yet()
    place = launched()
    if place is not None and dry_run and not place.leads:
        return
    plugins = load_plugins(plugin_file or ())
    chosen = choose(registered_protections(plugins), method, "protection")
    protection, known_attacks = chosen.item, attacks(plugins)
    below = None
    if onto is not None:
        check_onto(model, revision, save)
        added = subjects_asked(photos or [], class_noun, identifier, subject or [])
        below = open_onto(out, onto, added, name or default_run_name(added))
        model, original = str(below.model), below.manifest["model"]
        fits = bool(profile_of(original["source"], original["digest"]))
    else:
        fits = model == SOURCE or bool(profile_of_folder(Path(model).expanduser()))
    assigned = (read_toml(config) if config else {}, parse_assignments(assignments or []))
    with asked(f"the protection {method}"):
        named = preset or protection.preset_for(POCKET.preset if fits else "")
        settings = resolve(protection.Config, protection.preset(named), *assigned)
        protection.check(settings, known_attacks)
        living_on = protection.living_on(settings, known_attacks)
        wants = protection.wants_displacements(settings)
    check_kept(keep_attackers, living_on, resume)
    if wants:
        require_displacements(below)
    if save != "pipeline" and bound(settings) is not None:
        raise UsageError(
            f"--save {save}: {method} protects photos, and there is no model to save",
            "Leave --save out.",
        )
    if save == "adapter" and low_rank(settings) is None:
        raise UsageError(
            "--save adapter: all weights of the model are trained, so there is no adapter",
            "Add --set train=adapter, or use --save trained-only.",
        )
    if dry_run and not photos and class_noun is None and not subject:
        show_settings(named, settings.model_dump(mode="json"), json)
        return
    subjects = subjects_asked(photos or [], class_noun, identifier, subject or [])
    if crop == "face":
        from apdm_cli.diffusion.faces import require_detector

        require_detector()
    check_subjects(
        subjects,
        protection,
        ignore_unreadable=ignore_unreadable,
        together=below is not None,
    )
    check_before_torch(subjects, model, revision, ignore_unreadable)
    for word in device.split(","):
        check_names(word.strip(), dtype)
    if log is not None:
        require_tensorboard()
    if not dry_run and (place is None or place.leads):
        check_run(out, name or default_run_name(subjects), resume)

    from apdm_cli.protection.request import ProtectRequest
    from apdm_cli.protection.trajectories import check_ranks

    targets = (
        devices_of_ranks(device, ranks) if place is None else _device_of_rank(place, device, ranks)
    )
    target, count = targets[0], len(targets) if place is None else place.count
    check_ranks(protection, count)
    request = ProtectRequest(
        method=chosen,
        subjects=subjects,
        model=model,
        revision=revision,
        name=name,
        root=out,
        preset=named,
        settings=settings,
        seed=seed,
        device=target,
        dtype=resolve_dtype(dtype, target),
        low_memory=memory == "low",
        checkpoint_every=checkpoint_every,
        crop=crop,
        ignore_unreadable=ignore_unreadable,
        forget_paths=forget_paths,
        events=log is not None,
        trained_only=save in ("trained-only", "unet-only"),
        adapter_only=save == "adapter",
        attacks=known_attacks,
        known=families(plugins),
        onto=below,
        ranks=count,
        keep_attackers=keep_attackers,
    )
    if dry_run:
        show_plan(request, json)
    else:
        _protect(request, targets, place, plugin_file or (), resume, json, verbose)


def _device_of_rank(place: Launched, device: str, ranks: int | None) -> list[torch.device]:
    """Where a process computes that a launcher has started: on the card of its number."""
    from apdm_cli.devices import resolve_device
    from apdm_cli.errors import UsageError

    if ranks not in (None, place.count):
        raise UsageError(
            f"--ranks {ranks}: a launcher has started {place.count} processes.",
            "Leave --ranks out, or start apdm without the launcher.",
        )
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(
            f"--device {device}: the launcher says which card each process has.",
            "Use --device cuda or cpu, or leave it out.",
        )
    found = resolve_device(device)
    return [resolve_device(f"cuda:{place.local}") if found.type == "cuda" else found]


def _protect(
    request: ProtectRequest,
    targets: Sequence[torch.device],
    place: Launched | None,
    plugin_files: Sequence[Path],
    resume: bool,
    json: bool,
    verbose: bool,
) -> None:
    from apdm_cli.protection.run import protect as run_protect
    from apdm_cli.protection.trajectories import ranks_of
    from apdm_cli.runs.interrupts import Stopped

    try:
        with (
            display() as shown,
            ranks_of(
                request,
                targets,
                place,
                lambda name: WorkerLines(shown, name),
                plugin_files=plugin_files,
                resume=resume,
            ) as ranks,
        ):
            run = run_protect(request, shown, resume=resume, ranks=ranks)
    except (Stopped, KeyboardInterrupt) as stopped:
        if place is not None and not place.leads:  # rank 0 says it
            raise SystemExit(getattr(stopped, "exit_code", 130)) from stopped
        again = [] if place is None else [f"--ranks={place.count}"]
        if (request.root / request.run_name).is_dir():  # otherwise there was no checkpoint yet
            keeps("What was done until the last checkpoint is kept.", add=[*again, "--resume"])
        else:
            keeps("Nothing but the class pictures that were drawn so far is kept.")
        raise
    if place is not None and not place.leads:
        return
    if json:
        print_json({**run.manifest, "path": run.path})
    else:
        _report(run, request, verbose)


def _report(run: Run, request: ProtectRequest, verbose: bool) -> None:
    from apdm_cli.extension.image_protection import bound

    took = format_duration(float(run.manifest["duration_seconds"]))
    names = ", ".join(view.manifest["subject"]["name"] for view in run.each)
    photos = run.photos if bound(request.settings) is not None else None
    what = "model" if photos is None else "photos"
    verb, does = ("is", "it protects") if photos is None else ("are", "they protect")
    say_answer(
        f"The protected {what} of {names} {verb} ready after {took}; only an attack can show how "
        f"well {does}."
    )
    if verbose:
        from apdm_cli.extension.containment import asked

        with asked(request.who):
            said = request.protection.result(run.manifest["summary"], request.settings)
        stdout.print(f"In its own terms: {said}.", highlight=False, markup=False)
    where = f"Model: {run.model}" if photos is None else f"Photos to publish: {photos}"
    stdout.print(where, soft_wrap=True, highlight=False, markup=False)
    command = f"apdm attack {shlex.quote(run.name)} --plugin dreambooth --budgets {BUDGETS}"
    say_next(command, request.root)
