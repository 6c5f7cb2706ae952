"""The jobs of the pocket benchmarks: one protection of one identity, attacked and evaluated.

A job says everything that its result depends on (weights, settings, attacks, numbers of pictures),
so that a log never answers for anything else.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from apdm_cli.config import parse_assignments
from apdm_cli.harness.suites import SuiteEntry, load_suite
from apdm_cli.pocket.profile import POCKET
from apdm_cli.runs.run import Run
from benchmarks.ground import (
    METHOD,
    RECIPES,
    ROOT,
    Ground,
    Person,
    Question,
    digest,
    keep_all,
    weights,
    whole_settings,
)
from benchmarks.jobs import Job, run_jobs

RESULTS = Path(__file__).parent / "results"


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Let the command line say how to protect: `--preset NAME`, and `--set KEY=VALUE` over it."""
    parser.add_argument("--preset", default=POCKET.preset)
    parser.add_argument(
        "--set",
        dest="over",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of the protection over its preset; may be given several times. The table "
        "is printed then, and the JSON file stays that of the preset",
    )


def asked_settings(asked: argparse.Namespace) -> dict[str, Any]:
    """The whole settings that such a command line asks for."""
    return whole_settings({"preset": asked.preset, **parse_assignments(asked.over)})


def job(
    person: Person,
    variant: str,
    settings: Mapping[str, Any],
    questions: Sequence[Question],
    ground: Ground,
    protection_seed: int = 0,
    method: str = METHOD,
) -> dict[str, Any]:
    """One protection of `person` with whole `settings`; `variant` is their name for readers.

    `method` is a part of the job where it is another than `apdm`: jobs of before stay what they
    were.
    """
    return {
        "class": person.class_noun,
        "identity": person.seed,
        "other": person.other,
        **({"further": list(person.further)} if person.further else {}),
        "variant": variant,
        **({} if method == METHOD else {"method": method}),
        "settings": dict(settings),
        "protection_seed": protection_seed,
        "model": weights(),
        "attack": dict(POCKET.attack),
        "questions": [table_of(question) for question in questions],
        "images": ground.images,
        "class_images": ground.class_images,
        **({"sampler_steps": ground.sampler_steps} if ground.sampler_steps else {}),
    }


def table_of(question: Question) -> dict[str, Any]:
    """A question as a table of JSON; of a suite with what it holds, which may change."""
    table = {key: value for key, value in asdict(question).items() if value is not None}
    if question.suite is not None:
        held = load_suite(question.suite)
        table[RECIPES] = digest([held.budgets, [_recipe(entry) for entry in held.attack]])
    return table


def _recipe(entry: SuiteEntry) -> dict[str, Any]:
    """An entry of a suite; without a crop of its own it is what it was before it could have one."""
    left_out = {"suite"} if entry.own_crop else {"suite", "crop"}
    return entry.model_dump(mode="json", exclude=left_out)


def work(asked: Job) -> dict[str, Any]:
    """Run one job in this process.

    Returns floors and ceilings of the identity and of the others, how like the protected one the
    others are before anything was trained, seconds, the last part of the protection's
    curve, and every row of scores with the question that it answers.
    """
    further = tuple(asked.get("further", ()))
    person = Person(asked["class"], asked["identity"], asked["other"], further)
    ground = Ground(
        Path(asked["root"]), asked["images"], asked["class_images"], asked.get("sampler_steps")
    )
    seed = asked["protection_seed"]
    # The photos follow from the identity; everything else that makes the run is in its name.
    method = asked.get("method", METHOD)
    others_method = [] if method == METHOD else [method]
    made_of = digest([asked["settings"], asked["model"], *others_method])
    name = f"{person.name}-{asked['variant']}-{made_of}-seed-{seed}"
    run = ground.protect(person, asked["settings"], name, seed, method)
    return answers_of(ground, run, person, asked["questions"])


def answers_of(
    ground: Ground, run: Run, person: Person, questions: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The result of `work` for a run that is there, or the view of one for one of its people."""
    answers = ground.ask(run, person, map(Question.of, questions))
    scores = ground.evaluate(run)
    floor, ceiling = ground.bounds(run, person.class_noun, person.seed)
    return {
        "floor": floor,
        "ceiling": ceiling,
        "others": {
            name: _other(ground, run, person, other) for name, other in person.others.items()
        },
        "protect_seconds": ground.processor_seconds(run),
        "protect_seconds_on_the_clock": run.manifest["duration_seconds"],
        "protection": run.manifest["summary"],
        "left_out": [one.reason for one in scores.left_out],
        "rows": keep_all(scores.rows, answers),
    }


def _other(ground: Ground, run: Run, person: Person, other: int) -> dict[str, float]:
    floor, ceiling = ground.bounds(run, person.class_noun, other)
    likeness = ground.likeness(run, person.class_noun, person.seed, other)
    return {"floor": floor, "ceiling": ceiling, "likeness": likeness}


def run(
    jobs: Sequence[dict[str, Any]],
    log: Path,
    *,
    root: Path = ROOT,
    workers: int = 2,
    cluster: str | None = None,
) -> list[dict[str, Any]]:
    """The rows {"job", "result"} of `jobs`, from `log` or computed."""
    return run_jobs(jobs, InFolder(work, root), log, workers, cluster)


def of_settings(
    rows: Sequence[dict[str, Any]], settings: Mapping[str, Any], but: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Those rows of a log that have `settings`; where it has none, that have what its last one has.

    Args:
        but: settings that may differ.
    """

    def compared(settings: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in settings.items() if key not in but}

    def measured(row: Mapping[str, Any]) -> tuple[Any, ...]:
        job = row["job"]
        return compared(job["settings"]), job["model"], job["attack"]

    wanted = compared(settings)
    last = next((row for row in reversed(rows) if measured(row)[0] == wanted), rows[-1])
    return [row for row in rows if measured(row) == measured(last)]


def newest(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each protection the last row: it may have been asked again about more."""
    found = {
        (row["job"]["class"], row["job"]["identity"], row["job"]["protection_seed"]): row
        for row in rows
    }
    return list(found.values())


class InFolder:
    """Tells a job where its runs lie, which changes no result and is no part of its identity."""

    def __init__(self, work: Any, root: Path) -> None:
        self.work, self.root = work, root

    def __call__(self, asked: Job) -> Mapping[str, Any]:
        return dict(self.work({**asked, "root": str(self.root)}))
