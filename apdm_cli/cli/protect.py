"""`apdm protect`: parse, call one function, render."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from apdm_cli.cli.console import display, note, print_json, stdout
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
from apdm_cli.cli.progress import format_duration

if TYPE_CHECKING:
    from apdm_cli.protection.asked import AskedSubject
    from apdm_cli.protection.request import ProtectRequest
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
            help="One of several: rex=photos/rex:dog.",
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
        str, typer.Option(metavar="NAME", help="apdm, naive or a plugin's.", rich_help_panel=METHOD)
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

    Writes runs/NAME with the protected pipeline. The photos are never copied.
    Several subjects: --subject NAME=PATH:NOUN (or NAME=PATH:NOUN:WORD) for each.
    """
    from apdm_cli.cli.plugins import load_plugins
    from apdm_cli.config import parse_assignments, read_toml, resolve
    from apdm_cli.devices import check_names, resolve_device, resolve_dtype
    from apdm_cli.errors import UsageError
    from apdm_cli.extension.containment import asked
    from apdm_cli.extension.manager import attacks, choose, families, registered_protections
    from apdm_cli.extension.protection import low_rank
    from apdm_cli.pocket.profile import POCKET, SOURCE, profile_of, profile_of_folder
    from apdm_cli.protection.asked import check_subjects, default_run_name
    from apdm_cli.protection.onto import open_onto, require_displacements
    from apdm_cli.runs.events import require_tensorboard

    nothing_yet()
    plugins = load_plugins(plugin_file or ())
    chosen = choose(registered_protections(plugins), method, "protection")
    protection, known_attacks = chosen.item, attacks(plugins)
    below = None
    if onto is not None:
        _check_onto(model, revision, save)
        added = _subjects(photos or [], class_noun, identifier, subject or [])
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
        lives_on = protection.attackers_live_on(settings)
        wants = protection.wants_displacements(settings)
    _check_kept(keep_attackers, lives_on)
    if wants:
        require_displacements(below)
    if save == "adapter" and low_rank(settings) is None:
        raise UsageError(
            "--save adapter: all weights of the model are trained, so there is no adapter",
            "Add --set train=adapter, or use --save trained-only.",
        )
    if dry_run and not photos and class_noun is None and not subject:
        _show_settings(named, settings.model_dump(mode="json"), json)
        return
    subjects = _subjects(photos or [], class_noun, identifier, subject or [])
    if crop == "face":
        from apdm_cli.diffusion.faces import require_detector

        require_detector()
    check_subjects(
        subjects,
        protection,
        ignore_unreadable=ignore_unreadable,
        together=below is not None,
    )
    _check_before_torch(subjects, model, revision)
    check_names(device, dtype)
    if log is not None:
        require_tensorboard()
    if not dry_run:
        _check_run(out, name or default_run_name(subjects), resume)

    from apdm_cli.protection.request import ProtectRequest

    target = resolve_device(device)
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
        keep_attackers=keep_attackers,
    )
    if dry_run:
        _plan(request, json)
    else:
        _protect(request, resume, json, verbose)


def _subjects(
    photos: Sequence[Path], class_noun: str | None, identifier: str, several: Sequence[str]
) -> tuple[AskedSubject, ...]:
    """Whom to protect: one by photos and class, or those of --subject."""
    from apdm_cli.errors import UsageError
    from apdm_cli.protection.asked import EXAMPLE, AskedSubject, parse_subject

    if several:
        if photos or class_noun is not None:
            raise UsageError(
                "--subject says photos and class: PHOTOS and --class do not go with it.", EXAMPLE
            )
        return tuple(parse_subject(text, identifier) for text in several)
    if not photos:
        raise UsageError("No photos given.", "Example: apdm protect ./photos --class person")
    if class_noun is None:
        raise UsageError(
            "--class is missing: what is the subject?",
            "Example: apdm protect ./photos --class person",
        )
    return (AskedSubject(tuple(photos), class_noun, identifier),)


def _check_onto(model: str, revision: str | None, save: str) -> None:
    """Refuse what says of the model that is begun with something else than --onto."""
    from apdm_cli.errors import UsageError
    from apdm_cli.pocket.profile import SOURCE

    if model != SOURCE or revision is not None:
        raise UsageError(
            "--onto begins with the run's own model.", "Leave --model and --revision out."
        )
    if save == "adapter":
        raise UsageError(
            "--onto: an adapter alone would miss what its run had protected before",
            "Leave --save adapter out.",
        )


def _check_kept(rank: int | None, lives_on: bool) -> None:
    """Refuse to keep attackers where there are none, or nothing of them."""
    from apdm_cli.errors import UsageError

    if rank is None:
        return
    if rank < 1:
        raise UsageError(f"--keep-attackers {rank}: a rank is at least 1", "Usual is 8.")
    if not lives_on:
        raise UsageError(
            "--keep-attackers: with these settings no simulated attacker lives to the end",
            "Use --method apdm and a preset whose attackers persist, or leave it out.",
        )


def _check_before_torch(subjects: Sequence[AskedSubject], model: str, revision: str | None) -> None:
    """Say what is wrong with the model or the words before torch is imported."""
    from apdm_cli.diffusion.source import check_source
    from apdm_cli.diffusion.words import check_pocket_vocabulary, check_word
    from apdm_cli.pocket.profile import SOURCE

    check_source(model, revision)
    if model == SOURCE:
        for one in subjects:
            noun, word = one.options
            check_pocket_vocabulary(
                check_word(one.class_noun, noun), check_word(one.identifier, word)
            )


def _check_run(root: Path, name: str, resume: bool) -> None:
    """Say that the name is taken, or that there is nothing to resume, before torch is imported."""
    from apdm_cli.runs.run import Run, require_free

    if resume:
        Run.open(root, name).require_unfinished()
    else:
        require_free(root, name)


def _protect(request: ProtectRequest, resume: bool, json: bool, verbose: bool) -> None:
    from apdm_cli.protection.run import protect as run_protect
    from apdm_cli.runs.interrupts import Stopped

    try:
        with display() as shown:
            run = run_protect(request, shown, resume=resume)
    except (Stopped, KeyboardInterrupt):
        if (request.root / request.run_name).is_dir():  # otherwise there was no checkpoint yet
            keeps("What was done until the last checkpoint is kept.", add=["--resume"])
        else:
            keeps("Nothing but the class pictures that were drawn so far is kept.")
        raise
    if json:
        print_json({**run.manifest, "path": run.path})
    else:
        _report(run, request, verbose)


def _report(run: Run, request: ProtectRequest, verbose: bool) -> None:
    took = format_duration(float(run.manifest["duration_seconds"]))
    names = ", ".join(view.manifest["subject"]["name"] for view in run.each)
    say_answer(
        f"The protected model of {names} is ready after {took}; only an attack can show how well "
        "it protects."
    )
    if verbose:
        from apdm_cli.extension.containment import asked

        with asked(request.who):
            said = request.protection.result(run.manifest["summary"], request.settings)
        stdout.print(f"In its own terms: {said}.", highlight=False, markup=False)
    stdout.print(f"Model: {run.model}", soft_wrap=True, highlight=False, markup=False)
    command = f"apdm attack {shlex.quote(run.name)} --plugin dreambooth --budgets {BUDGETS}"
    say_next(command, request.root)


def _plan(request: ProtectRequest, json: bool) -> None:
    from apdm_cli.protection.plan import measure

    plan = measure(request)
    if json:
        print_json(plan)
        return
    stdout.print(f"[bold]Plan for {request.run_name}[/] (nothing is written)", highlight=False)
    _show_settings(request.preset, plan["configuration"], json=False)
    for sentence in plan["said"]:
        note(sentence)
    for line in plan["lines"]:
        stdout.print(line, highlight=False, markup=False)


def _show_settings(preset: str, configuration: dict[str, Any], json: bool) -> None:
    if json:
        print_json({"preset": preset, "configuration": configuration})
        return
    from rich.table import Table

    table = Table(show_header=False, box=None, padding=(0, 2))
    for key, value in [("preset", preset), *_flat(configuration)]:
        table.add_row(key, str(value))
    stdout.print(table)


def _flat(table: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in table.items():
        rows += _flat(value, f"{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return rows
