"""A protection run from start, or from its last checkpoint, to a protected pipeline."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from apdm_cli.diffusion.loading import save_pipeline
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.errors import ApdmError
from apdm_cli.protection.build import assemble, prepare
from apdm_cli.protection.l2p import LearningToProtect, OuterStep
from apdm_cli.protection.preview import draw_preview
from apdm_cli.protection.request import ProtectRequest
from apdm_cli.randomness import Streams
from apdm_cli.runs.atomic import new_folder
from apdm_cli.runs.checkpoints import latest, save_checkpoint
from apdm_cli.runs.differences import require_same
from apdm_cli.runs.interrupts import Stopped, StopSignals
from apdm_cli.runs.jsonl import StepLog, read_rows, truncate_log
from apdm_cli.runs.run import DONE, Run
from apdm_cli.subject import Subject

CACHE = "_cache"
SECONDS_BETWEEN_CHECKPOINTS = 60.0
PINNED = ("model", "configuration", "subject", "seed", "dtype", "device", "low_memory")


class Watcher(Protocol):
    """What the command shows while a run goes on."""

    def said(self, sentence: str) -> None:
        """Something the user should know."""

    def stage(self, description: str) -> None:
        """A stage begins."""

    def step(self, step: OuterStep) -> None:
        """An outer step was taken."""


@dataclass
class _Progress:
    """Where a run stands."""

    streams: Streams
    bilevel: LearningToProtect
    first: int = 0


def protect(request: ProtectRequest, watcher: Watcher, *, resume: bool = False) -> Run:
    """Protect `request`'s subject; returns the finished run.

    Everything that can be wrong with the input is found before the run's folder is made. An
    interrupted run goes on from its last whole checkpoint to the bit-identical end of an
    uninterrupted one (same machine, device and dtype).

    Raises:
        ApdmError: bad input, a run that exists, a loss that is no longer finite, no memory.
        Stopped: after SIGINT or SIGTERM, with a checkpoint written.
    """
    with _memory_hint():
        model, subject, said = request.load()
        for sentence in said:
            watcher.said(sentence)
        fields = request.manifest(model, subject)
        run = _open(request, fields) if resume else None
        if run is None:
            run = Run.create(request.root, request.run_name, "protect", **fields)
        started = time.monotonic()
        try:
            _protect(request, run, model, subject, watcher)
        except Stopped:
            run.release()
            raise
        except BaseException as error:
            run.fail(error)
            raise
        _finish(run, request, model, time.monotonic() - started)
        return run


def _open(request: ProtectRequest, fields: dict[str, Any]) -> Run:
    run = Run.open(request.root, request.run_name)
    if run.status == DONE:
        run.resume()  # raises: nothing to resume
    before, now = (_pinned(manifest) for manifest in (run.manifest, fields))
    require_same(run.name, before, now, tuple(before))
    run.resume()
    return run


def _pinned(manifest: dict[str, Any]) -> dict[str, Any]:
    """What must not change, with photos compared by content and not by where they lie."""
    pinned = {key: manifest[key] for key in PINNED if key in manifest}
    subject = dict(pinned.pop("subject"))
    pinned["photos"] = subject.pop("photos")["files"]
    pinned["model"] = pinned["model"]["digest"]
    return {**pinned, "words": subject}


def _protect(
    request: ProtectRequest, run: Run, model: DiffusionModel, subject: Subject, watcher: Watcher
) -> None:
    watcher.stage("Drawing class pictures with the original model")
    ingredients = prepare(model, subject, request.settings, request.root / CACHE)
    streams = Streams(request.seed)
    bilevel = assemble(
        model, subject, request.settings, streams, ingredients, low_memory=request.low_memory
    )
    progress = _Progress(streams, bilevel)
    _restore(run, progress, watcher)
    watcher.stage("Protecting")
    for step in read_rows(run.metrics_log):
        watcher.step(OuterStep(**{"index": step.pop("step"), **step}))
    checkpoint = _due(request.checkpoint_every)
    with StopSignals() as signals, StepLog(run.metrics_log) as log:
        for step in bilevel.iterate(progress.first):
            log.append({"step": step.index, **_row(step)})
            watcher.step(step)
            done = step.index + 1
            if request.settings.preview_every and done % request.settings.preview_every == 0:
                draw_preview(model, subject, run.path / "previews" / f"step-{done:06d}.png")
            if signals.received or checkpoint(done):
                log.sync()
                save_checkpoint(run.checkpoints, done, _state(progress))
            if signals.received:
                raise Stopped(
                    f"run {run.name} was stopped after step {done} of "
                    f"{request.settings.steps_outer}; nothing is lost",
                    "Go on with the same command and --resume.",
                )


def _row(step: OuterStep) -> dict[str, Any]:
    row = asdict(step)
    row.pop("index")
    return row


def _due(every: int) -> Callable[[int], bool]:
    """Whether a checkpoint is due after `done` steps: every N steps, or once a minute for 0."""
    last = time.monotonic()

    def due(done: int) -> bool:
        nonlocal last
        if every:
            return done % every == 0
        if time.monotonic() - last < SECONDS_BETWEEN_CHECKPOINTS:
            return False
        last = time.monotonic()
        return True

    return due


def _state(progress: _Progress) -> dict[str, Any]:
    return {
        "weights": progress.bilevel.start.unet.state_dict(),
        "optimizer": progress.bilevel.outer_optimizer.state_dict(),
        "streams": progress.streams.state_dict(),
    }


def _restore(run: Run, progress: _Progress, watcher: Watcher) -> None:
    checkpoint, torn = latest(run.checkpoints)
    for name in torn:
        watcher.said(f"checkpoint {name} is damaged: going on from the one before")
    truncate_log(run.metrics_log, checkpoint.step if checkpoint else 0)
    if checkpoint is None:
        return
    state = checkpoint.load()
    progress.bilevel.start.unet.load_state_dict(state["weights"])
    progress.bilevel.outer_optimizer.load_state_dict(state["optimizer"])
    progress.streams.load_state_dict(state["streams"])
    progress.first = checkpoint.step
    watcher.said(f"going on from step {checkpoint.step}")


def _finish(run: Run, request: ProtectRequest, model: DiffusionModel, seconds: float) -> None:
    if not run.model.exists():
        with new_folder(run.model) as folder:
            save_pipeline(model, folder, unet_only=request.unet_only)
    seconds += float(run.manifest.get("duration_seconds", 0.0))
    rows = read_rows(run.metrics_log)
    run.finish(
        duration_seconds=round(seconds, 1),
        peak_memory_bytes=peak_memory(request.device),
        summary=rows[-1] if rows else {},
    )
    for path in sorted(run.checkpoints.glob("**/*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    if run.checkpoints.is_dir():
        run.checkpoints.rmdir()


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: of the process on the CPU, of the allocator on CUDA."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


class _memory_hint:
    """Turn an out-of-memory error into one that says what to lower."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        text = str(error)
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or (
            isinstance(error, RuntimeError) and "not enough memory" in text
        ):
            raise ApdmError(
                "there is not enough memory",
                "use --memory low, --dtype bf16, or lower batch_size, path.batch_size and "
                "preservation.batch_size with --set",
            ) from error


def cache_folder(root: Path) -> Path:
    """Where pictures and latents that a model drew by itself are kept."""
    return root / CACHE
