"""`apdm demo`: the four commands on the packaged sample photos, and in words what they showed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from apdm_cli.cli.console import stdout
from apdm_cli.cli.options import OUTPUT, Root

RUN = "demo"
ATTACK = "dreambooth"
# What a newcomer can read at a glance; `apdm evaluate` scores with everything there is.
METRICS, CLASS_PICTURES = "dino,fid,same-seed", 64


def demo(
    subject: Annotated[
        str | None, typer.Option(help="Packaged identity [default: person-1].")
    ] = None,
    neighbour: Annotated[
        str, typer.Option(help="Another identity, which should stay teachable.")
    ] = "person-2",
    images: Annotated[int, typer.Option(help="Pictures per attacked model.", min=2)] = 16,
    out: Root = Path("runs"),
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Delete the demo's run first.", rich_help_panel=OUTPUT)
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

    chosen, other = sample(subject or "person-1"), sample(neighbour)
    name = RUN if subject is None else f"{RUN}-{chosen.name}"
    if fresh and (out / name).is_dir():
        _remove(out, name)
    started = next((run for run in Run.all(out) if run.name == name), None)
    _say(
        1,
        f"protect: change the model's weights so that {chosen.name} cannot be taught to it",
        f"apdm protect {_short(chosen.seen)} --class {chosen.class_noun} --name {name}",
    )
    if started is None or started.status != "done":
        protect([chosen.seen], chosen.class_noun, name=name, out=out, resume=started is not None)
    else:
        stdout.print("  already done (--fresh starts again)")
    _say(
        2,
        "attack: teach the subject to the original and to the protected model, the same way; "
        "once with the photos the protector saw, once with others",
        f"apdm attack {name} --plugin {ATTACK}\n"
        f"  apdm attack {name} --plugin {ATTACK} --photos {_short(chosen.unseen)}",
    )
    attack(name, plugin=[ATTACK], out=out)
    attack(name, plugin=[ATTACK], photos=[chosen.unseen], out=out)
    _say(
        3,
        "evaluate: draw with every attacked model, and score likeness, class pictures, and whether "
        f"somebody else ({other.name}) can still be taught",
        f"apdm evaluate {name} --metrics {METRICS} --images {images} "
        f"--class-images {CLASS_PICTURES} --neighbours {_short(other.seen)}",
    )
    evaluate(
        name,
        metrics=METRICS,
        images=images,
        class_images=CLASS_PICTURES,
        neighbours=[other.seen],
        out=out,
    )
    _say(4, "compare: one table, one picture, one report", f"apdm compare {name}")
    compare([name], out=out)
    _explain(out / name)


def _say(number: int, what: str, command: str) -> None:
    stdout.print(f"\n[bold]{number}/4  {what}[/]", highlight=False)
    stdout.print(f"[dim]  {command}[/]", highlight=False, soft_wrap=True)


def _short(path: Path) -> str:
    """A packaged folder as a person would type it from the repository, where that is possible."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _remove(out: Path, name: str) -> None:
    import shutil

    shutil.rmtree(out / name)


def _explain(folder: Path) -> None:
    """What was shown, in plain words, from comparison.json."""
    from apdm_cli.runs.manifest import read_json

    run = read_json(folder / "comparison.json")["runs"][0]
    stdout.print("\n[bold]What this showed[/]")
    stdout.print(f"  {run['verdict']}", highlight=False)
    for line in run["lines"]:
        sentence = _sentence(line)
        if sentence:
            stdout.print(f"  {sentence}", highlight=False)
    stdout.print(
        "  Similarity is the mean cosine between pictures and photos in the pocket model's own "
        "feature extractor: 1 is the same, near 0 is somebody else. It says nothing about "
        "photographs.",
        highlight=False,
    )
    stdout.print(f"\n  Look at it:  {folder / 'contact_sheet.png'}", soft_wrap=True)
    stdout.print(f"  The report:  {folder / 'report.html'}", soft_wrap=True)


def _sentence(line: dict[str, Any]) -> str:
    if line["metric"] != "dino" or not (line["original"] and line["protected"]):
        return ""
    before, after = line["original"]["value"], line["protected"]["value"]
    if line["role"] == "attack":
        cut = line["cut"]
        gone = f": {cut['value']:.0%} of what it gained is gone" if cut else ""
        return f"{line['label']}: similarity {before:.2f} on the original, {after:.2f} on the " + (
            f"protected model{gone}."
        )
    if line["role"] == "neighbour":
        return (
            f"Teaching somebody else: similarity {before:.2f} on the original, {after:.2f} on the "
            "protected model."
        )
    return ""
