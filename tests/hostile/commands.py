"""The commands that plugins and damaged cells are put through, and what is looked at after."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

from apdm_cli.cli.main import main

PATIENCE = 120  # seconds until a command that waits for a pipe is called stuck
Said = Callable[..., tuple[int, str]]  # arguments → exit code, and what was said
QUICK = ("steps=2", "prior_pictures=2", "sampler_steps=2")


def outcome(
    arguments: list[str], capfd: pytest.CaptureFixture[str], patience: int = PATIENCE
) -> tuple[int, str]:
    """Exit code and what was said; a command that waits fails the test."""

    def stuck(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"apdm {' '.join(arguments)[:200]} waits")

    before = signal.signal(signal.SIGALRM, stuck)
    signal.alarm(patience)
    try:
        with pytest.raises(SystemExit) as ended, contextlib.suppress(UnicodeEncodeError):
            main(arguments)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    captured = capfd.readouterr()
    code = ended.value.code
    return code if isinstance(code, int) else 0, captured.out + captured.err


def attack(root: Path, file: Path | None, *names: str) -> list[str]:
    settings = [part for setting in QUICK for part in ("--set", setting)]
    chosen = [part for name in names or ("bad",) for part in ("--plugin", name)]
    common = ["--out", str(root), "--device", "cpu"]
    plugins = ["--plugin-file", str(file)] if file else []
    return ["attack", "run", *chosen, *common, *plugins, *settings]


def protect(
    made: Path, tmp_path: Path, model: Path | None = None, method: Path | None = None
) -> list[str]:
    """`apdm protect` by the house's method, or by the one called "bad" in the file `method`."""
    settings = ["prior_pictures=2", "sampler_steps=2"]
    if method is None:
        settings += ["steps_outer=1", "steps_inner=1"]
    chosen = ["--plugin-file", str(method), "--method", "bad"] if method else []
    options = [part for setting in settings for part in ("--set", setting)]
    common = ["--class", "dog", "--model", str(model or made / "model"), "--device", "cpu"]
    where = ["--out", str(tmp_path / "runs")]
    return ["protect", str(made / "photos"), *common, *where, *options, *chosen]


def evaluate(made: Path, root: Path, *more: str, metrics: str = "dino") -> list[str]:
    drawing = ["--images", "2", "--class-images", "2", "--steps", "1", "--sampler", "ddim"]
    scoring = ["--metrics", metrics, "--weights", f"pocket-vit={made / 'vit'}"]
    return ["evaluate", "run", "--out", str(root), "--device", "cpu", *drawing, *scoring, *more]


def scored(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, all of stdout as JSON, and stderr."""
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--json"])
    printed = capfd.readouterr()
    code = ended.value.code
    return code if isinstance(code, int) else 0, json.loads(printed.out), printed.err


def state() -> tuple[Any, ...]:
    return (
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_num_threads(),
        tuple(torch.get_rng_state().tolist()),
        os.getcwd(),
    )
