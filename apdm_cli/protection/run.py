"""A protection run from start, or from its last checkpoint, to a protected pipeline or photos."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from safetensors import SafetensorError

from apdm_cli.diffusion.compiling import compiled_forwards, not_compiled
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.errors import ApdmError
from apdm_cli.extension.containment import asked, contained
from apdm_cli.extension.image_protection import bound
from apdm_cli.extension.protection import Inputs
from apdm_cli.extension.protection_config import low_rank
from apdm_cli.progress import Progress, Silent
from apdm_cli.protection.bench import Bench
from apdm_cli.protection.checkpointing import Checkpoints
from apdm_cli.protection.fitting import smaller_settings
from apdm_cli.protection.ingredients import drawing, prepare
from apdm_cli.protection.keeping import keep_attackers, live_to_the_end
from apdm_cli.protection.machine import deterministic_algorithms, memory_hint, peaks
from apdm_cli.protection.perturbed import KEY, PerturbedPhotos, save_photos
from apdm_cli.protection.preview import draw_preview
from apdm_cli.protection.request import ProtectRequest
from apdm_cli.protection.result import EndsTheSame, Result, said_of, said_of_base
from apdm_cli.protection.several import in_words_of_training, ingredients_of, inputs_of
from apdm_cli.randomness import Streams
from apdm_cli.runs.atomic import new_folder, writing_to
from apdm_cli.runs.clock import Clock
from apdm_cli.runs.differences import require_same
from apdm_cli.runs.interrupts import NOTICE, Stopped, StopSignals
from apdm_cli.runs.jsonl import StepLog, read_rows
from apdm_cli.runs.ranks import Ranks
from apdm_cli.runs.run import DONE, Run, require_free
from apdm_cli.subject import Subject

CACHE = "_cache"
PINNED = (
    "model",
    "method",
    "configuration",
    "captions",
    "subject",
    "subjects",
    "onto",
    "seed",
    "dtype",
    "device",
    "low_memory",
    "compiled",
    "ranks",
    "keep_attackers",
)
# What ranks on several machines may not have, and rank 0 has written down.
OF_ALL_RANKS = tuple(key for key in PINNED if key != "device")
BY_ROUNDING = ("low_memory", "compiled")  # how the result depends on them


def protect(
    request: ProtectRequest,
    progress: Progress,
    *,
    resume: bool = False,
    ranks: Ranks | None = None,
) -> Run:
    """Protect `request`'s subjects; returns the finished run.

    Of several ranks each calls it: the first makes the run, the others walk trajectories of their
    own for it, and say nothing.

    An interrupted run goes on from its last whole checkpoint to the bit-identical end of an
    uninterrupted one (same machine, device, dtype and memory; on CUDA with `deterministic`).
    With other memory, which may be what lets it go on, it ends the same but for rounding.

    Raises:
        ApdmError: bad input, a run that exists, a loss that is no longer finite, no memory. A run
            that has no checkpoint yet leaves no folder behind.
        Stopped: after SIGINT or SIGTERM, with a checkpoint written.
    """
    ranks = ranks or Ranks()
    if not ranks.leads:
        return _accompany(request, ranks)
    run = Run.open(request.root, request.run_name) if resume else None
    if run is None:
        require_free(request.root, request.run_name)
    smaller = smaller_settings(request)
    with memory_hint(smaller):
        model, subjects, said = request.load()
    with asked(request.who):
        everybody = [*subjects, *request.earlier]
        inputs = inputs_of(request.protection, everybody, request.settings)
    for sentence in (*said, *request.compiling_doubts()):
        progress.said(sentence)
    described = request.manifest(model, subjects, inputs)
    if run is None:
        run = Run.create(request.root, request.run_name, **described)
    else:
        _resume(run, described)
        if run.manifest.get("low_memory") != request.low_memory:
            memory = "low" if request.low_memory else "normal"
            progress.said(
                f"The run goes on with --memory {memory}, which changes its result by rounding."
            )
    try:
        with memory_hint(smaller), deterministic_algorithms(request.settings.deterministic):
            ranks.wait()  # they wait for the folder
            checkpoints = _protect(request, run, model, subjects, inputs, progress, ranks)
            _finish(run, request, checkpoints, progress)
    except BaseException as error:
        kept = _give_up(run, error, resume)
        if kept and isinstance(error, ApdmError) and not isinstance(error, (Stopped, EndsTheSame)):
            error.hint = f"{error.hint} What was done is kept: --resume goes on with it.".lstrip()
        raise
    return run


def _accompany(request: ProtectRequest, ranks: Ranks) -> Run:
    """Walk another trajectory for the run that rank 0 makes; returns it as it was before its end.

    Raises:
        ApdmError: it sees another folder, model or photos than rank 0.
    """
    smaller = smaller_settings(request)
    with memory_hint(smaller):
        model, subjects, _ = request.load()
    with asked(request.who):
        inputs = inputs_of(request.protection, [*subjects, *request.earlier], request.settings)
    described = request.manifest(model, subjects, inputs)
    ranks.wait()
    run = Run.open(request.root, request.run_name)
    before, now = (_pinned(manifest, OF_ALL_RANKS) for manifest in (run.manifest, described))
    require_same(run.name, before, now, tuple(before))
    with memory_hint(smaller), deterministic_algorithms(request.settings.deterministic):
        checkpoints = _protect(request, run, model, subjects, inputs, Silent(), ranks)
    _save_result(checkpoints, wanted=False)
    return run


def _resume(run: Run, described: Mapping[str, Any]) -> None:
    if run.status != DONE:  # a finished run refuses by itself, whatever was asked
        if "method" not in run.manifest:
            raise ApdmError(
                f"Run {run.name} was begun by an earlier version of apdm and cannot go on in "
                "this one",
                "Begin it again under another --name.",
            )
        begun, wanted = run.manifest.get("ranks", 1), described["ranks"]
        if begun != wanted:
            raise ApdmError(
                f"Run {run.name} was begun with {begun} rank{'s' * (begun > 1)} and cannot go on "
                f"with {wanted}, because each has attackers and random draws of its own",
                f"Use --ranks {begun}, or choose another --name.",
            )
        before, now = (_pinned(manifest) for manifest in (run.manifest, described))
        if before.get("low_memory") != now["low_memory"]:
            before = {key: value for key, value in before.items() if key not in BY_ROUNDING}
        require_same(run.name, before, now, tuple(before))
    run.resume()


def _pinned(manifest: Mapping[str, Any], keys: Sequence[str] = PINNED) -> dict[str, Any]:
    """What must not change, with photos compared by content and not by where they lie."""
    pinned = {key: manifest[key] for key in keys if key in manifest}
    several, one = pinned.pop("subjects", ()), pinned.pop("subject", None)
    if several:
        pinned["subjects"] = [subject["name"] for subject in several]
    for subject in several:
        pinned[f"subject {subject['name']}"] = _pinned_subject(subject)
    pinned["model"] = pinned["model"]["digest"]
    return {**pinned, **({} if one is None else _pinned_subject(one))}


def _pinned_subject(recorded: Mapping[str, Any]) -> dict[str, Any]:
    words = dict(recorded)
    photos = words.pop("photos")
    files = photos["files"]
    return {
        "photos": [{"name": file["name"], "sha256": file["sha256"]} for file in files],
        "crop": photos.get("crop", "center"),
        "places": {file["name"]: file["at"] for file in files if "at" in file},
        "words": words,
    }


def _protect(
    request: ProtectRequest,
    run: Run,
    model: DiffusionModel,
    subjects: Sequence[Subject],
    inputs: Sequence[Inputs],
    progress: Progress,
    ranks: Ranks,
) -> Checkpoints:
    clock = Clock()
    settings, low = request.settings, request.low_memory
    sampler = drawing(model, settings, low_memory=low)
    if low:
        model.family.save_memory(model.components)
    cache, everybody = request.root / CACHE, [*subjects, *request.earlier]
    if not ranks.leads:
        ranks.wait()  # until everything is drawn
    ingredients = ingredients_of(
        model,
        everybody,
        inputs,
        lambda subject, asked: prepare(model, subject, asked, sampler, cache, progress),
    )
    if ranks.leads:
        ranks.wait()
    trained = in_words_of_training(everybody, settings.prompt_style)
    seats = zip(trained, inputs, ingredients, strict=True)
    streams = Streams(request.seed, ranks.own)
    with compiled_forwards(request.compiled, model.device) as compile_forward:
        bench = Bench(
            model,
            *next(seats),
            streams,
            request.attacks,
            low,
            compile_forward,
            adapter=low_rank(settings),
            eta=bound(settings),
            ranks=ranks,
        )
        for number, further in enumerate(seats, start=1):
            bench.seat(
                *further,
                earlier=number >= len(subjects),
                displacements=request.displacements_of(further[0]),
            )
        checkpoints = Checkpoints(run, bench, request.checkpoint_every, clock)

        def begin(total: int) -> int:
            first, said = checkpoints.restore()
            for sentence in said:
                progress.said(sentence)
            progress.stage("Protecting", total, first)
            return first

        bench.on_begin = begin
        with (
            StopSignals(lambda: progress.said(NOTICE)) as signals,
            _log(run, request, ranks) as log,
            _running(request),
        ):
            for number, terms in enumerate(request.protection.steps(bench, settings)):
                done = bench.first + number + 1
                due = checkpoints.due(done)
                terms, due, stopping = _agreed(ranks, terms, due, signals)
                if log is not None:
                    log.append({"step": done - 1, **terms})
                progress.advance(1, **request.shown(terms))
                drawn = settings.preview_every and done % settings.preview_every == 0
                if drawn and ranks.leads:
                    with not_compiled():
                        for subject in subjects:
                            whose = f"-{subject.name}" if len(subjects) > 1 else ""
                            file = run.path / "previews" / f"step-{done:06d}{whose}.png"
                            draw_preview(model, subject, file, sampler)
                if done == bench.total:
                    continue  # the pipeline itself is written next
                if due or stopping:
                    if log is not None:
                        log.sync()
                    checkpoints.save(done)
                if stopping:
                    raise _stopped(run, done, bench.total)
            ranks.require_same(bench.weights)
            if request.keep_attackers is not None and ranks.leads:
                live_to_the_end(bench, progress, lambda: signals.received)
                if signals.received:
                    if log is not None:
                        log.sync()
                    _save_result(checkpoints, wanted=True)
                    raise _stopped(run, bench.total, bench.total)
    return checkpoints


def _stopped(run: Run, done: int, total: int) -> Stopped:
    return Stopped(f"Run {run.name} was stopped after step {done} of {total}; nothing is lost.")


def _log(
    run: Run, request: ProtectRequest, ranks: Ranks
) -> contextlib.AbstractContextManager[StepLog | None]:
    """Of the terms of every step, which rank 0 writes."""
    if not ranks.leads:
        return contextlib.nullcontext()
    return StepLog(run.metrics_log, events=request.events)


def _agreed(
    ranks: Ranks, terms: Mapping[str, float], due: bool, signals: StopSignals
) -> tuple[Mapping[str, float], bool, bool]:
    """The same in all ranks: the means of a step's terms, whether a checkpoint is due (rank 0 says
    so), and whether to stop, because one of them has had a signal."""
    if ranks.count == 1:
        return terms, due, signals.received
    mine = signals.latest if signals.received else 0
    rows = ranks.gather([float(due), float(mine), *terms.values()])
    signalled = int(max(row[1] for row in rows))
    if signalled:
        StopSignals.latest = signalled
    means = (sum(values) / len(values) for values in list(zip(*rows, strict=True))[2:])
    return dict(zip(terms, means, strict=True)), bool(rows[0][0]), signalled > 0


@contextlib.contextmanager
def _running(request: ProtectRequest) -> Iterator[None]:
    """The steps of a protection: a bug of the house keeps its traceback, another's is named."""
    ours = request.method.origin.distribution == "apdm"
    with (contained if ours else asked)(request.who):
        yield


def _save_result(checkpoints: Checkpoints, *, wanted: bool) -> None:
    """A checkpoint of the result where rank 0 wants one. Every rank asks once, at its end."""
    (leading, *_) = checkpoints.ranks.gather([float(wanted)], patiently=True)
    if leading[0]:
        checkpoints.save(checkpoints.bench.total)


def _finish(
    run: Run, request: ProtectRequest, checkpoints: Checkpoints, progress: Progress
) -> None:
    fields: dict[str, Any] = {}
    # First: a difference is merged into the network below.
    if request.keep_attackers is not None and not run.displacements.exists():
        with new_folder(run.displacements) as folder, writing_to(run.displacements):
            rank = request.keep_attackers
            keep_attackers(checkpoints.bench, request, rank, folder, progress)
    if (eta := bound(request.settings)) is not None:
        photos = checkpoints.bench.subject.photos
        if not run.photos.exists():
            with new_folder(run.photos) as folder, writing_to(run.photos):
                save_photos(checkpoints.bench.perturbation, photos.names, folder)
        fields[KEY] = PerturbedPhotos.written(run, eta, photos.names, photos.sha256).as_manifest()
    elif not run.model.exists():
        result = Result(checkpoints.bench, request)
        if result.problem is not None:
            _save_result(checkpoints, wanted=True)  # for --resume, which saves otherwise
            raise result.problem
        if result.base is not None:
            progress.said(said_of_base(result.base))
            fields["eight_bits"] = asdict(result.base)
        if result.rounding is not None:
            progress.said(said_of(result.rounding))
            fields["rounding"] = asdict(result.rounding)
        try:
            with new_folder(run.model) as folder, writing_to(run.model):
                result.save(folder)
        except SafetensorError as error:  # a full disk, for one
            raise ApdmError(
                f"{run.model} cannot be written: {error}",
                "Free some space, then run the same command again.",
            ) from error
    _save_result(checkpoints, wanted=False)
    run.finish(
        duration_seconds=round(checkpoints.clock.seconds, 1),
        **peaks(request.device),
        summary=curve_summary(read_rows(run.metrics_log)),
        low_memory=request.low_memory,
        compiled=request.compiled,
        **fields,
    )
    shutil.rmtree(run.checkpoints, ignore_errors=True)


def curve_summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The end of a curve: the number of steps, and every term's mean over the last tenth of them.

    A single step has one or a few samples and says little.
    """
    last = rows[-max(1, len(rows) // 10) :]
    names = dict.fromkeys(name for row in rows for name in row if name != "step")
    summary: dict[str, Any] = {"steps": len(rows)}
    for name in names:
        values = [row[name] for row in last if row.get(name) is not None]
        summary[name] = sum(values) / len(values) if values else None
    return summary


def _give_up(run: Run, error: BaseException, resumed: bool) -> bool:
    """Leave what can be resumed, and nothing else; returns whether there is something."""
    kept = resumed or any(run.checkpoints.glob("step-*"))
    if not kept:
        run.discard()
    elif isinstance(error, Exception) and not isinstance(error, Stopped):
        with contextlib.suppress(ApdmError):  # a full disk: the first error is the one to show
            run.fail(error)
    run.release()
    return kept
