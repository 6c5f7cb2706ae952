"""What a second rank costs a protection, and what 8 and 64 cards would exchange.

    python -m benchmarks.ranks [--steps 40]

Protects one person of the embedded model with one rank and with two, and takes the median time of
an outer step; needs two cores with nothing else to do. What cards would take is computed, from an
inner step that was measured on one (`benchmarks/results/gpu_h100.json`) and from the bytes of the
gradient at a bandwidth that is stated: nobody has run it on several cards. Writes
`benchmarks/results/ranks.json` and the tables between the markers of docs/scale.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from apdm_cli.cli.progress import WorkerLines
from apdm_cli.config import resolve
from apdm_cli.devices import devices_of_ranks
from apdm_cli.extension.manager import attacks, build_plugin_manager, choose, registered_protections
from apdm_cli.pocket.profile import POCKET, SOURCE
from apdm_cli.pocket.samples import sample
from apdm_cli.progress import Silent
from apdm_cli.protection.asked import AskedSubject
from apdm_cli.protection.request import ProtectRequest
from apdm_cli.protection.run import protect
from apdm_cli.protection.trajectories import ranks_of
from apdm_cli.runs.manifest import read_json, write_json_atomic

RESULTS = Path(__file__).parent / "results" / "ranks.json"
CARD = RESULTS.with_name("gpu_h100.json")
TABLE = Path(__file__).parents[1] / "docs" / "scale.md"
BEGIN, END = "<!-- ranks -->", "<!-- /ranks -->"
SUBJECT = "person-9"
WARM = 3  # steps that also take memory, and are not counted
# Few pictures to draw: they are no part of a step.
SETTINGS = {
    "prior_pictures": 8,
    "others": {"subjects": 2, "pictures": 2},
    "preservation": {"class_samples": 8, "caption_samples": 8},
}
# A U-Net of Stable Diffusion 1.5, and outer steps of 20 inner ones, as the paper has them.
WEIGHTS, INNER = 859_520_964, 20
CARDS = (8, 64)
GIGABYTES = (25, 3)  # a second, one way: a network of 200 Gbit/s, and one of 25


class Times(Silent):
    """A `Progress` that notes when every outer step ended."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self._counts = False

    def stage(self, description: str, total: int, done: int = 0, unit: str = "steps") -> None:
        """Only steps are counted."""
        self._counts = unit == "steps"

    def advance(self, count: int = 1, **terms: float) -> None:
        """Another one has ended."""
        if self._counts:
            self.steps.append(time.perf_counter())

    def said(self, sentence: str) -> None:
        """What goes wrong is worth reading."""
        print(sentence)


def seconds(folder: Path, ranks: int, steps: int, settings: dict[str, Any]) -> list[float]:
    """Of every outer step of a protection by so many ranks, the first ones left out."""
    plugins, photos = build_plugin_manager(()), sample(SUBJECT)
    method = choose(registered_protections(plugins), "apdm", "protection")
    protection = method.item
    asked = {**settings, "steps_outer": steps + WARM + 1}
    devices = devices_of_ranks("cpu", ranks)
    request = ProtectRequest(
        method=method,
        subjects=(AskedSubject((photos.seen,), photos.class_noun),),
        model=SOURCE,
        revision=None,
        name=f"ranks-{ranks}",
        root=folder,
        preset=POCKET.preset,
        settings=resolve(protection.Config, protection.preset(POCKET.preset), asked),
        seed=0,
        device=devices[0],
        dtype=torch.float32,
        attacks=attacks(plugins),
        checkpoint_every=1_000_000,
        ranks=ranks,
    )
    times = Times()
    with ranks_of(request, devices, None, lambda name: WorkerLines(times, name)) as joined:
        protect(request, times, ranks=joined)
    taken = [after - before for before, after in zip(times.steps, times.steps[1:], strict=False)]
    return taken[WARM:]


def measure(folder: Path, steps: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Medians of one rank and of two, and their ratio."""
    found: dict[str, Any] = {"steps": steps, "weights": _weights()}
    for ranks in (1, 2):
        found[f"seconds_{ranks}"] = statistics.median(seconds(folder, ranks, steps, settings))
    found["ratio"] = round(found["seconds_2"] / found["seconds_1"], 3)
    found["bytes"] = moved(found["weights"], 2)
    return found


def moved(weights: int, ranks: int) -> int:
    """Bytes that every rank sends, and receives, to have the mean of float32 gradients, in a ring:
    each part goes round once to be added up, and once more to be told."""
    return round(2 * (ranks - 1) / ranks * 4 * weights)


def computed(alone: float) -> list[dict[str, Any]]:
    """An outer step on cards, of which one takes `alone` seconds for it: that, and the time on the
    way."""
    return [
        {
            "cards": cards,
            "gigabytes_a_second": bandwidth,
            "bytes": moved(WEIGHTS, cards),
            "seconds_alone": round(alone, 3),
            "seconds": round(alone + moved(WEIGHTS, cards) / bandwidth / 1e9, 3),
        }
        for bandwidth in GIGABYTES
        for cards in CARDS
    ]


def _weights() -> int:
    from apdm_cli.extension.family import load_model

    model = load_model(SOURCE, torch.device("cpu"), torch.float32)
    return sum(weight.numel() for weight in model.trained.parameters())


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = []
    if "measured" in results:
        found = results["measured"]
        lines += [
            f"Measured, with the embedded model on a processor ({results['machine']}):",
            "",
            "| ranks | an outer step | trajectories in it | each rank sends, and receives |",
            "|---|---|---|---|",
            f"| 1 | {found['seconds_1']:.3f} s | 1 | nothing |",
            f"| 2 | {found['seconds_2']:.3f} s ({found['ratio']:.2f} times as long) | 2 | "
            f"{_size(found['bytes'])} |",
            "",
        ]
    lines += [
        f"Computed, and run by nobody: Stable Diffusion 1.5, an outer step of {INNER} inner ones "
        f"in {results['seconds_alone']:.2f} s (measured on one H100), nothing overlapped:",
        "",
        "| cards | each sends, and receives | at | an outer step | of one card alone |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['cards']} | {_size(row['bytes'])} | {row['gigabytes_a_second']} GB/s | "
        f"{row['seconds']:.2f} s | {row['seconds_alone']:.2f} s |"
        for row in results["computed"]
    ]
    return "\n".join(lines)


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def write(results: dict[str, Any]) -> None:
    """Both files."""
    write_json_atomic(RESULTS, results)
    before, _, rest = TABLE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    TABLE.write_text(f"{before}{BEGIN}\n{table(results)}\n{END}{after}", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, compute, write both files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=40, help="outer steps that count")
    parser.add_argument("--computed", action="store_true", help="measure nothing again")
    options = parser.parse_args(argv)
    card = read_json(CARD)["sd15"]["normal"]["seconds_per_outer_step"]
    results = read_json(RESULTS) if RESULTS.exists() else {}
    results |= {"seconds_alone": card, "computed": computed(card)}
    if not options.computed:
        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory() as name:
            results["measured"] = measure(Path(name), options.steps, SETTINGS)
        busy = f", {os.getloadavg()[0]:.1f} processes at work" if hasattr(os, "getloadavg") else ""
        version = f"{platform.machine()}, torch {torch.__version__}"
        results["machine"] = f"{os.cpu_count()} cores, {version}{busy} at the end"
    write(results)
    print(table(results))


if __name__ == "__main__":
    main()
