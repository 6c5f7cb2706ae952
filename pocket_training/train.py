"""Makes the pocket model from a seed: `python -m pocket_training.train`.

Each stage is skipped when it is done and resumed when it was interrupted. The stages and their
files are described in `pocket_training`.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pocket_training.plan import PLANS, scaled
from pocket_training.workshop import Workshop, pick_device, write_json

WEIGHTS = Path(__file__).parents[1] / "apdm_cli" / "pocket" / "weights"
STAGES = ("pictures", "captions", "autoencoder", "extractor", "latents", "text", "denoiser",
          "identifiers", "assembly")  # fmt: skip
# The stages with a budget, and their shares of a time for everything.
TIMED = {"autoencoder": 0.40, "extractor": 0.05, "text": 0.04, "denoiser": 0.40,
         "identifiers": 0.11}  # fmt: skip
RESERVE = 40.0  # seconds of such a time for what comes between these stages


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pocket_training.train", description=__doc__)
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="where the model is written")
    parser.add_argument("--work", type=Path, default=Path("pocket_work"), help="checkpoints, log")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plan", choices=tuple(PLANS), default="cpu", help="sizes and lengths")
    parser.add_argument("--scale", type=float, default=1.0, help="1 is the plan's size")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--only", choices=STAGES, help="run this stage alone")
    parser.add_argument(
        "--minutes",
        nargs="*",
        default=[],
        metavar="STAGE=MINUTES",
        help=f"as many steps as fit into this time, for {', '.join(TIMED)}",
    )
    parser.add_argument(
        "--within",
        type=float,
        metavar="SECONDS",
        help="as many steps of every stage as fit when everything has to end within this time",
    )
    parser.add_argument(
        "--extractor", type=Path, metavar="FOLDER", help="keep this extractor, do not train one"
    )
    parser.add_argument(
        "--start", type=Path, metavar="FOLDER", help="go on from what --results wrote elsewhere"
    )
    parser.add_argument(
        "--results",
        type=Path,
        metavar="FOLDER",
        help="put the weights so far, in one file, and contact sheets here after each stage",
    )
    options = parser.parse_args(argv)
    budgets: dict[str, float] = {}
    for item in options.minutes:
        stage, _, minutes = item.partition("=")
        try:
            budgets[stage] = float(minutes)
        except ValueError:
            parser.error(f"--minutes wants STAGE=MINUTES, not {item!r}")
        if stage not in TIMED or budgets[stage] <= 0:
            parser.error(f"--minutes: {item!r}: a stage out of {', '.join(TIMED)}, above 0")
    if options.workers < 1:
        parser.error("--workers must be at least 1")
    options.minutes = budgets
    return options


@dataclass(frozen=True)
class Budget:
    """How many minutes a stage may take: as asked, or its share of what is left, or no limit."""

    asked: dict[str, float]
    end: float | None  # by `time.monotonic`

    def minutes(self, stage: str) -> float | None:
        """The minutes for `stage`, which begins now."""
        if stage in self.asked or self.end is None or stage not in TIMED:
            return self.asked.get(stage)
        order = list(TIMED)
        to_come = sum(TIMED[later] for later in order[order.index(stage) :])
        left = self.end - RESERVE - time.monotonic()
        return max(left, 1.0) * TIMED[stage] / to_come / 60


def _stage_work(
    stage: str, shop: Workshop, budget: Budget, options: argparse.Namespace
) -> dict[str, Any]:
    # Imported one by one: diffusers and transformers take seconds that `--help` need not.
    minutes = budget.minutes(stage)
    if stage == "pictures":
        from pocket_training.pictures import make as make_pictures

        return make_pictures(shop)
    if stage == "captions":
        from pocket_training import captions

        return captions.write_banks(shop)
    if stage == "autoencoder":
        from pocket_training import autoencoder

        return autoencoder.train(shop, minutes)
    if stage == "extractor":
        from pocket_training import extractor

        if options.extractor is not None:
            return extractor.keep(shop, options.extractor)
        return extractor.train(shop, minutes)
    if stage == "latents":
        from pocket_training import latents

        return latents.make(shop)
    if stage == "text":
        from pocket_training import text

        return text.train(shop, minutes)
    if stage == "denoiser":
        from pocket_training import denoiser

        return denoiser.train(shop, minutes)
    if stage == "identifiers":
        from pocket_training import identifiers

        return identifiers.train(shop, minutes)
    from pocket_training import assembly

    return assembly.write(shop, options.out)


def _check_plan(shop: Workshop) -> None:
    """A work folder belongs to one plan and one number of workers: both change the result."""
    path = shop.path("plan.json")
    wanted = {**shop.plan.as_json(), "workers": shop.workers}
    if path.exists() and json.loads(path.read_text("utf-8")) != wanted:
        raise SystemExit(
            f"{shop.folder} holds a training with another seed, scale or number of workers: "
            "choose another --work or delete it"
        )
    write_json(wanted, path)


def main(argv: Sequence[str] | None = None) -> None:
    """The command; `argv` without the program's name."""
    options = _arguments(argv)
    end = None if options.within is None else time.monotonic() + options.within
    options.work.mkdir(parents=True, exist_ok=True)
    device = pick_device(options.device)
    plan = scaled(replace(PLANS[options.plan], seed=options.seed), options.scale)
    # Several processes on one GPU would only get in each other's way.
    workers = options.workers if device == "cpu" else 1
    cores = workers if device == "cpu" else os.cpu_count() or 1
    shop = Workshop(options.work, plan, workers, device, cores, options.start)
    _check_plan(shop)
    threads = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)  # the sum of a reduction depends on the number of threads
    else:
        torch.backends.cudnn.benchmark = True  # shapes never change within a stage
        torch.set_num_threads(min(4, threads))  # more of them only wait for each other
    try:
        _run_stages(options, shop, Budget(options.minutes, end))
    finally:
        torch.set_num_threads(threads)


def _run_stages(options: argparse.Namespace, shop: Workshop, budget: Budget) -> None:
    if options.only == "assembly" or not options.out.exists():
        # Asked for by name, or missing in this place: writing it again costs a second.
        shop.path("assembly.json").unlink(missing_ok=True)
    for stage in STAGES if options.only is None else (options.only,):
        shop.run(stage, partial(_stage_work, stage, shop, budget, options))
        if options.results is not None and stage in ("autoencoder", "denoiser", "identifiers"):
            from pocket_training import assembly

            assembly.deliver(shop, options.results)


if __name__ == "__main__":
    main()
