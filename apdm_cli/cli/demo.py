"""`apdm demo`: the four commands on the packaged sample photos, and in words what they showed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apdm_cli.cli.console import stdout
from apdm_cli.cli.going_on import keeps
from apdm_cli.cli.guide import guided
from apdm_cli.cli.meanwhile import meanwhile
from apdm_cli.cli.options import OUTPUT, Root
from apdm_cli.errors import UsageError

if TYPE_CHECKING:
    from apdm_cli.pocket.samples import Sample

RUN, SUBJECT, NEIGHBOUR = "demo", "person-9", "person-2"
ATTACK, ADAPTER = "dreambooth", "lora"
# Early, so that the original's curve is seen as it rises; at the attack's own steps; and at three
# times as many.
BUDGETS = "0.25,0.5,1,3"
# Two processes are quicker on two cores than one of two threads.
WORKERS = min(2, os.cpu_count() or 1)
# What a newcomer can read at a glance; `apdm evaluate` scores with everything there is.
METRICS, CLASS_PICTURES = "dino,fid,same-seed", 64


def demo(
    subject: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help=f"The packaged identity to protect; {SUBJECT} without it."
        ),
    ] = None,
    neighbour: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Another identity, which should stay teachable; without it one of the same class.",
        ),
    ] = None,
    images: Annotated[
        int, typer.Option(metavar="N", help="How many pictures each attacked model draws.", min=2)
    ] = 16,
    out: Root = Path("runs"),
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh", help="Delete the run of an earlier demo first.", rich_help_panel=OUTPUT
        ),
    ] = False,
) -> None:
    """Protect, attack, evaluate and compare on the packaged sample photos.

    Takes a few minutes on two cores. A second call shows what is there already.
    """
    from apdm_cli.cli.attack import attack
    from apdm_cli.cli.compare import compare
    from apdm_cli.cli.evaluate import evaluate
    from apdm_cli.cli.protect import protect
    from apdm_cli.pocket.samples import sample
    from apdm_cli.runs.run import Run

    chosen = sample(SUBJECT if subject is None else subject)
    other = _other_than(chosen) if neighbour is None else sample(neighbour)
    if other == chosen:
        raise UsageError(
            f"--neighbour {other.name} is the identity that is protected",
            f"Name another one, such as {_other_than(chosen).name}.",
        )
    name = RUN if subject is None else f"{RUN}-{chosen.name}"
    if fresh and (out / name).is_dir():
        _remove(out, name)
    keeps("What is finished is kept.", drop=["--fresh"])
    started = next((run for run in Run.all(out) if run.name == name), None)
    _say(
        1,
        f"protect: change the model's weights so that {chosen.name} cannot be taught to it",
        f"apdm protect {_short(chosen.seen)} --class {chosen.class_noun} --name {name}",
    )
    attacks: list[tuple[list[str], list[Path] | None]] = [
        ([ATTACK, ADAPTER], None),
        ([ATTACK], [chosen.unseen]),
    ]
    if started is None or started.status != "done":
        ahead = []
        if WORKERS > 1:
            stdout.print("  meanwhile, a second process attacks the original", highlight=False)
            ahead = [_on_original(name, *one, images, out) for one in attacks]
        with guided(), meanwhile(ahead, lambda: _is_begun(name, out)):
            protect(
                [chosen.seen], chosen.class_noun, name=name, out=out, resume=started is not None
            )
    else:
        stdout.print("  already done (--fresh starts again)")
    looked = f"--budgets {BUDGETS} --images {images} --workers {WORKERS}"
    _say(
        2,
        "attack: teach the subject to the original and to the protected model, the same way; "
        "with the photos the protector saw, with others, and as an adapter",
        f"apdm attack {name} --plugin {ATTACK} --plugin {ADAPTER} {looked}\n"
        f"  apdm attack {name} --plugin {ATTACK} --photos {_short(chosen.unseen)} {looked}",
    )
    with guided():
        for plugin, photos in attacks:
            attack(
                name,
                plugin=plugin,
                photos=photos,
                budgets=BUDGETS,
                images=images,
                workers=WORKERS,
                out=out,
            )
    _say(
        3,
        "evaluate: draw with every attacked model, and score likeness, class pictures, and whether "
        f"somebody else ({other.name}) can still be taught",
        f"apdm evaluate {name} --metrics {METRICS} --images {images} "
        f"--class-images {CLASS_PICTURES} --neighbours {_short(other.seen)} --workers {WORKERS}",
    )
    with guided():
        evaluate(
            name,
            metrics=METRICS,
            images=images,
            class_images=CLASS_PICTURES,
            neighbours=[other.seen],
            workers=WORKERS,
            out=out,
        )
    _say(4, "compare: the answer, one picture, one report", f"apdm compare {name} --include-photos")
    # The packaged identities are invented: their photos may be shown.
    compare([name], include_photos=True, out=out)
    stdout.print(
        "\nLikeness is the mean cosine between pictures and photos in the pocket model's own "
        "feature extractor: 1 is the same, near 0 is somebody else. It says nothing about "
        "photographs.",
        highlight=False,
    )


def _other_than(chosen: Sample) -> Sample:
    """Who is taught beside `chosen`: `NEIGHBOUR`, or somebody else of the same class."""
    from apdm_cli.pocket.samples import samples

    alike = [one for one in samples().values() if one.class_noun == chosen.class_noun]
    others = [one for one in alike if one != chosen]
    return next((one for one in others if one.name == NEIGHBOUR), others[0])


def _say(number: int, what: str, command: str) -> None:
    stdout.print(f"\n[bold]{number}/4  {what}[/]", highlight=False)
    stdout.print(f"[dim]  {command}[/]", highlight=False, soft_wrap=True)


def _short(path: Path) -> str:
    """A packaged folder as a person would type it from the repository, where that is possible."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _on_original(
    name: str, plugins: list[str], photos: list[Path] | None, images: int, out: Path
) -> list[str]:
    """The command that does the part of an attack of the demo that needs no protected model."""
    words = ["attack", name, "--control-only", "--budgets", BUDGETS, "--images", str(images)]
    for plugin in plugins:
        words += ["--plugin", plugin]
    for folder in photos or []:
        words += ["--photos", str(folder)]
    return [*words, "--out", str(out)]


def _is_begun(name: str, out: Path) -> bool:
    """Whether a protection of this name is being made, and says whom it protects."""
    from apdm_cli.runs.run import Run

    return any(run.name == name and "subject" in run.manifest for run in Run.all(out))


def _remove(out: Path, name: str) -> None:
    """The run alone: the attacks on the original are still those that the next one needs."""
    from dataclasses import replace

    from apdm_cli.runs.cleaning import Kind, plan, remove

    planned = plan(out, [name])
    whole = tuple(one for one in planned.removable if one.kind is Kind.RUN)
    remove(replace(planned, removable=whole))
