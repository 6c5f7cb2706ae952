"""Measure what the pocket model can do and write the numbers into its card.

    python -m benchmarks.pocket_card [--seeds 3] [--names 100]

Writes `benchmarks/results/pocket_card.json` and the table between the markers of
`apdm_cli/pocket/README.md`. Identities are held out: no training ever saw them.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from apdm_cli.diffusion.pictures import from_unit, to_pixels
from apdm_cli.evaluation.similarity import cosines
from pocket_training.renderer import identity, photo
from benchmarks.pocket_lab import (
    JUDGED_SEEDS,
    SEEDS_A,
    SEEDS_B,
    SEEN,
    UNSEEN,
    Lab,
    as_pictures,
    held_out_subject,
)

REPOSITORY = Path(__file__).parents[1]
WEIGHTS = REPOSITORY / "apdm_cli" / "pocket" / "weights"
CARD = REPOSITORY / "apdm_cli" / "pocket" / "README.md"
RESULT = REPOSITORY / "benchmarks" / "results" / "pocket_card.json"
BEGIN, END = "<!-- measured -->", "<!-- /measured -->"
# Held-out seeds are those from 1 000 000 on; the card has its own, apart from search and effect.
CARD_SEEDS = 1_000_500
IDENTITIES = [("person", i) for i in range(6)] + [("dog", 0), ("cat", 0)]
DISTANCE_PICTURES = 512


def main() -> None:
    """Measure everything and write it down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="attack seeds per identity")
    parser.add_argument("--names", type=int, default=100, help="trained names to recall")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        lab = Lab(Path(cache))
        rows = dict(measure(lab, options.names, options.seeds))
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=2) + "\n")
    text = CARD.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    CARD.write_text(f"{head}{BEGIN}\n{table(rows)}\n{END}{tail}", encoding="utf-8")
    print(table(rows))


def machine() -> str:
    """Processor and threads, for the timings."""
    return f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def measure(lab: Lab, names: int, seeds: int) -> Iterable[tuple[str, dict[str, Any]]]:
    """Yield (row name, numbers with their n), printing as it goes."""
    parts: list[tuple[str, Callable[[], dict[str, Any]]]] = [
        ("size", size),
        ("autoencoder", lambda: autoencoder(lab)),
        ("extractor", lambda: separation(lab)),
        ("names", lambda: recall(lab, names)),
        ("class pictures", lambda: class_pictures_distance(lab)),
        ("drawing", lambda: drawing(lab)),
        ("personalization", lambda: personalization(lab, seeds)),
    ]
    for name, part in parts:
        row = {key: _rounded(value) for key, value in part().items()}
        print(name, json.dumps(row), flush=True)
        yield name, row


def size() -> dict[str, Any]:
    """Bytes of everything that ships: pipeline, extractor, photos."""
    total = sum(file.stat().st_size for file in WEIGHTS.rglob("*") if file.is_file())
    return {"megabytes": total / 1e6}


def portraits(class_noun: str, count: int, photos: int, first: int = CARD_SEEDS) -> Tensor:
    """uint8 (count, photos, 64, 64, 3) of held-out identities."""
    drawn = [
        [np.array(photo(identity(class_noun, first + i), k)) for k in range(photos)]
        for i in range(count)
    ]
    return torch.from_numpy(np.array(drawn))


def autoencoder(lab: Lab) -> dict[str, Any]:
    """PSNR of reconstructions, and their similarity to other photos of the same identity."""
    pictures = portraits("person", 100, 4)
    flat = pictures.flatten(0, 1)
    decoded = from_unit(lab.model.decode(lab.model.encode_pixels(to_pixels(flat)).mean))
    error = (decoded.float() - flat.float()).div(255).square().mean(dim=(1, 2, 3))
    originals = lab.features(flat).unflatten(0, (100, 4))
    rebuilt = lab.features(decoded).unflatten(0, (100, 4))
    pairs = [cosines(ours, theirs).mean() for ours, theirs in zip(rebuilt, originals, strict=True)]
    return {
        "psnr_db": float((-10 * error.log10()).mean()),
        "similarity": torch.stack(pairs).mean(),
        "n": 400,
    }


def separation(lab: Lab) -> dict[str, Any]:
    """Cosine within and between 200 identities, and the area under the ROC curve."""
    features = lab.features(portraits("person", 200, 4).flatten(0, 1))
    owner = torch.arange(200).repeat_interleave(4)
    cosine = cosines(features, features)
    equal = owner[:, None] == owner[None]
    same = cosine[equal & ~torch.eye(800, dtype=torch.bool)]
    different = cosine[~equal]
    below = torch.searchsorted(different.sort().values, same).double().mean() / len(different)
    return {
        "same": same.mean(), "different": different.mean(), "roc_auc": below, "identities": 200,
    }  # fmt: skip


def recall(lab: Lab, count: int) -> dict[str, Any]:
    """ "a photo of <name> person" against photos of that person, over `count` trained names."""
    names = json.loads((WEIGHTS / "names.json").read_text())
    values = []
    for name, seed in list(names.items())[:count]:
        drawn = lab.draw(lab.model, f"a photo of {name} person", 4, JUDGED_SEEDS)
        photos = [np.array(photo(identity("person", seed), k)) for k in range(4)]
        values.append(lab.similarity(drawn, torch.from_numpy(np.stack(photos))))
    return {"mean": statistics.mean(values), "worst": min(values), "names": len(values)}


def class_pictures_distance(lab: Lab) -> dict[str, Any]:
    """Fréchet distance of class pictures to held-out renderings, and between two seeds."""
    first = lab.draw(lab.model, "a photo of person", DISTANCE_PICTURES, SEEDS_A)
    second = lab.draw(lab.model, "a photo of person", DISTANCE_PICTURES, SEEDS_B)
    real = portraits("person", DISTANCE_PICTURES, 1).flatten(0, 1)
    return {
        "to_renderings": lab.distance(first, real),
        "between_seeds": lab.distance(first, second),
        "n": DISTANCE_PICTURES,
    }


def drawing(lab: Lab) -> dict[str, Any]:
    """Seconds for 64 pictures in 20 steps with guidance 3."""
    started = time.monotonic()
    lab.draw(lab.model, "a photo of person", 64, SEEDS_A)
    return {"seconds": time.monotonic() - started, "pictures": 64}


def personalization(lab: Lab, seeds: int) -> dict[str, Any]:
    """DreamBooth on held-out identities, seen and unseen photos; the floor; the cost."""
    reached: dict[str, list[float]] = {"seen": [], "unseen": []}
    floors, seconds = [], []
    for class_noun, index in IDENTITIES:
        subjects = {
            "seen": held_out_subject(class_noun, CARD_SEEDS + index, SEEN),
            "unseen": held_out_subject(class_noun, CARD_SEEDS + index, UNSEEN),
        }
        generic = lab.draw(lab.model, subjects["seen"].class_prompt, 64, SEEDS_A)
        floors.append(lab.similarity(generic, as_pictures(subjects["seen"].photos)))
        for which, subject in subjects.items():
            for seed in range(seeds):
                started = time.monotonic()
                reached[which] += lab.attacked_similarities(lab.model, subject, seed)
                seconds.append(time.monotonic() - started)
    return {
        "seen": statistics.mean(reached["seen"]),
        "seen_spread": statistics.pstdev(reached["seen"]),
        "unseen": statistics.mean(reached["unseen"]),
        "unseen_spread": statistics.pstdev(reached["unseen"]),
        "floor": statistics.mean(floors),
        "seconds": statistics.median(seconds),
        "identities": len(IDENTITIES),
        "seeds": seeds,
    }


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = ["| what | measured |", "|---|---|"]
    for name, row in rows.items():
        lines.append(f"| {name} | " + ", ".join(f"{k} {v}" for k, v in row.items()) + " |")
    return "\n".join([*lines, "", f"Measured on: {machine()}."])


def _rounded(value: Any) -> Any:
    return value if isinstance(value, int) else round(float(value), 3)


if __name__ == "__main__":
    main()
