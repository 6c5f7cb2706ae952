"""Makes the pocket model from a seed: `python -m apdm_cli.pocket.train`.

Each stage is skipped when it is done and resumed when it was interrupted. The stages and their
files are described in `apdm_cli.pocket.training`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from apdm_cli.pocket.training.plan import Plan, scaled
from apdm_cli.pocket.training.workshop import Workshop, pick_device, write_json

WEIGHTS = Path(__file__).parent / "weights"
STAGES = ("pictures", "autoencoder", "extractor", "latents", "text", "denoiser", "identifiers",
          "assembly")  # fmt: skip
TIMED = ("autoencoder", "extractor", "text", "denoiser", "identifiers")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m apdm_cli.pocket.train", description=__doc__)
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="where the model is written")
    parser.add_argument("--work", type=Path, default=Path("pocket_work"), help="checkpoints, log")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="1 is the shipped model's size")
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


def _stage_work(stage: str, shop: Workshop, minutes: float | None, out: Path) -> dict[str, Any]:
    # Imported one by one: diffusers and transformers take seconds that `--help` need not.
    if stage == "pictures":
        from apdm_cli.pocket.training.pictures import make as make_pictures

        return make_pictures(shop)
    if stage == "autoencoder":
        from apdm_cli.pocket.training import autoencoder

        return autoencoder.train(shop, minutes)
    if stage == "extractor":
        from apdm_cli.pocket.training import extractor

        return extractor.train(shop, minutes)
    if stage == "latents":
        from apdm_cli.pocket.training import latents

        return latents.make(shop)
    if stage == "text":
        from apdm_cli.pocket.training import text

        return text.train(shop, minutes)
    if stage == "denoiser":
        from apdm_cli.pocket.training import denoiser

        return denoiser.train(shop, minutes)
    if stage == "identifiers":
        from apdm_cli.pocket.training import identifiers

        return identifiers.train(shop, minutes)
    from apdm_cli.pocket.training import assembly

    return assembly.write(shop, out)


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
    options.work.mkdir(parents=True, exist_ok=True)
    device = pick_device(options.device)
    plan = scaled(replace(Plan(), seed=options.seed), options.scale)
    # Several processes on one GPU would only get in each other's way.
    workers = options.workers if device == "cpu" else 1
    shop = Workshop(options.work, plan, workers, device)
    _check_plan(shop)
    threads = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)  # the sum of a reduction depends on the number of threads
    try:
        _run_stages(options, shop)
    finally:
        torch.set_num_threads(threads)


def _run_stages(options: argparse.Namespace, shop: Workshop) -> None:
    if options.only == "assembly" or not options.out.exists():
        # Asked for by name, or missing in this place: writing it again costs a second.
        shop.path("assembly.json").unlink(missing_ok=True)
    for stage in STAGES if options.only is None else (options.only,):
        minutes = options.minutes.get(stage)
        shop.run(stage, partial(_stage_work, stage, shop, minutes, options.out))


if __name__ == "__main__":
    main()
