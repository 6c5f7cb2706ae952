"""How the time of a protection grows with its settings, on the embedded model.

    python -m benchmarks.scaling [--repeat 5]

Processor seconds of outer steps of the preset `published-code` over N_protect, N_per, the number
of photos and the side of the pictures, with the floating-point operations that torch counts; one
setting at a time. Writes `benchmarks/results/scaling.json` and `docs/images/scaling.svg`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed import PRESET, Workplace, counted
from benchmarks.trials import RESULTS

FIGURE = Path(__file__).parents[1] / "docs" / "images" / "scaling.svg"
LATENT = 8  # pixels to a side of one latent
OUTER = (5, 10, 20, 40)
INNER = (1, 2, 5, 10, 20)
PHOTOS = (1, 2, 4, 8, 16)
SIDES = (64, 96, 128, 192)
SHORT = {"steps_outer": 10_000, "steps_inner": 2, "prior_pictures": max(PHOTOS)}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write the numbers and the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=5, help="outer steps; their median counts")
    repeat = parser.parse_args(argv).repeat
    torch.set_num_threads(1)
    place = Workplace("pocket", "cpu", "float32")
    found: dict[str, Any] = {
        "model": "pocket",
        "preset": PRESET,
        "about": "processor seconds in one thread, and floating-point operations, of an outer "
        "step of two inner steps on 4 photos of 64 px, but for what a curve changes",
        "curves": {
            "outer steps": outer_steps(place),
            "inner steps of an outer one": {
                count: step(place, SHORT | {"steps_inner": count}, repeat) for count in INNER
            },
            "photos": {count: step(with_photos(place, count), SHORT, repeat) for count in PHOTOS},
            "pixels to a side": {side: step(with_side(side), SHORT, repeat) for side in SIDES},
        },
    }
    (RESULTS / "scaling.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    draw(found["curves"], FIGURE)
    print(json.dumps(found["curves"], indent=1))


def outer_steps(place: Workplace) -> dict[int, dict[str, float]]:
    """All of one run until then, the first step with its preparations included."""
    started, found = time.process_time(), {}
    for number, _ in enumerate(place.protect(SHORT), start=1):
        if number in OUTER:
            found[number] = {"seconds": time.process_time() - started}
        if number == max(OUTER):
            return found
    return found


def step(place: Workplace, settings: dict[str, Any], repeat: int) -> dict[str, float]:
    """The median of `repeat` outer steps, after one that also takes memory."""
    steps = place.protect(settings)
    next(steps)
    seconds = [_timed(steps) for _ in range(repeat)]
    return {"seconds": statistics.median(seconds), "flops": counted(lambda: next(steps))}


def _timed(steps: Iterator[Any]) -> float:
    started = time.process_time()
    next(steps)
    return time.process_time() - started


def with_photos(place: Workplace, count: int) -> Workplace:
    """The same for a subject of `count` photos."""
    photos = place.subject.photos
    rows = [index % len(photos) for index in range(count)]
    more = replace(
        photos,
        pixels=photos.pixels[rows],
        names=tuple(f"{row}-{photos.names[at]}" for row, at in enumerate(rows)),
        sha256=tuple(photos.sha256[at] for at in rows),
    )
    place.subject = replace(place.subject, photos=more)
    return place


def with_side(side: int) -> Workplace:
    """The model made for pictures of `side` pixels."""
    place = Workplace("pocket", "cpu", "float32")
    network: Any = place.model.trained
    network.register_to_config(sample_size=side // LATENT)
    return place


def draw(curves: dict[str, dict[int, dict[str, float]]], file: Path) -> None:
    """A panel for each setting, from zero."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2.8), layout="constrained")
    for axes, (name, rows) in zip(figure.subplots(1, len(curves)), curves.items(), strict=True):
        axes.plot(list(rows), [row["seconds"] for row in rows.values()], marker="o")
        axes.set(xlabel=name, xlim=(0, None), ylim=(0, None))
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("processor seconds")
    figure.savefig(file, metadata={"Date": None})


if __name__ == "__main__":
    main()
