"""Measure what the pocket model can do and write the numbers into its card.

    python -m benchmarks.pocket_card [--seeds 3] [--names 100]

Writes `benchmarks/results/pocket_card.json` and the table between the markers of
`apdm_cli/pocket/README.md`. Identities are held out: no training ever saw them.

    python -m benchmarks.pocket_card --model apdm_cli/pocket/weights --model CANDIDATE

measures other folders of weights in the same way, judged by the packaged extractor, and prints
them side by side; nothing is written but `--json FILE`.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from apdm_cli.diffusion.pictures import from_unit, to_pixels
from apdm_cli.evaluation.similarity import cosines
from apdm_cli.pocket.profile import SOURCE
from apdm_cli.runs.manifest import read_manifest
from benchmarks.ground import SEEN, SIMILARITY, UNSEEN, Ground, Person, Question
from benchmarks.pocket_lab import JUDGED_SEEDS, SEEDS_A, SEEDS_B, Lab, portraits
from pocket_training.renderer import Identity, identity, photo
from pocket_training.renderer.person import PersonTraits

REPOSITORY = Path(__file__).parents[1]
WEIGHTS = REPOSITORY / "apdm_cli" / "pocket" / "weights"
CARD = REPOSITORY / "apdm_cli" / "pocket" / "README.md"
RESULT = REPOSITORY / "benchmarks" / "results" / "pocket_card.json"
BEGIN, END = "<!-- measured -->", "<!-- /measured -->"
# Held-out seeds are those from 1 000 000 on; the card has its own, apart from search and effect.
CARD_SEEDS = 1_000_500
IDENTITIES = [("person", i) for i in range(6)] + [("dog", 0), ("cat", 0)]
DISTANCE_PICTURES = 512


# Small traits: what they are called, and a person without them.
TRAITS: dict[str, Callable[[PersonTraits], PersonTraits]] = {
    "glasses": lambda person: replace(person, glasses="none"),
    "freckles": lambda person: replace(person, freckles=False),
    "earrings": lambda person: replace(person, earrings=False),
}
BEARERS = 3  # persons with each trait
TRAIT_PHOTOS = range(100, 132)  # of each person, with and without: half to learn, half to test


def main(argv: Sequence[str] | None = None) -> None:
    """Measure everything and write it down."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3, help="attack seeds per identity")
    parser.add_argument("--names", type=int, default=100, help="trained names to recall")
    parser.add_argument(
        "--model", type=Path, action="append", default=[], help="another folder of weights"
    )
    parser.add_argument("--json", type=Path, help="where the rows of --model go")
    options = parser.parse_args(argv)
    folders = options.model or [WEIGHTS]
    found = [dict(measure(folder, options.names, options.seeds)) for folder in folders]
    if not options.model:
        write_card(found[0])
    elif options.json is not None:
        models = [{"model": str(f), "rows": r} for f, r in zip(folders, found, strict=True)]
        options.json.write_text(json.dumps({"machine": machine(), "models": models}, indent=2))
    print(table(found))


def write_card(rows: dict[str, dict[str, Any]]) -> None:
    """Write the packaged model's rows into its card and the results."""
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=2) + "\n")
    text = CARD.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    CARD.write_text(f"{head}{BEGIN}\n{table([rows])}\n{END}{tail}", encoding="utf-8")


def machine() -> str:
    """Processor and threads, for the timings."""
    return f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def measure(weights: Path, names: int, seeds: int) -> Iterable[tuple[str, dict[str, Any]]]:
    """Yield (row name, numbers with their n) of a folder of weights, printing as it goes."""
    source = SOURCE if weights == WEIGHTS else str(weights / "pipeline")
    with tempfile.TemporaryDirectory() as root:
        lab, ground = Lab(source), Ground(Path(root))
        traits = Ground(ground.root / "traits", images=32)
        parts: list[tuple[str, Callable[[], dict[str, Any]]]] = [
            ("size", partial(size, weights)),
            ("autoencoder", partial(autoencoder, lab)),
            ("extractor", partial(separation, lab)),
            ("names", partial(recall, lab, weights, names)),
            ("class pictures", partial(class_pictures_distance, lab)),
            ("drawing", partial(drawing, lab)),
            ("personalization", partial(personalization, lab, ground, seeds)),
            *((f"{trait} seen", partial(visible, lab, traits, trait)) for trait in TRAITS),
        ]
        for name, part in parts:
            row = {key: _rounded(value) for key, value in part().items()}
            print(name, json.dumps(row), flush=True)
            yield name, row


def size(weights: Path) -> dict[str, Any]:
    """Bytes of everything that ships: pipeline, extractor, photos."""
    total = sum(file.stat().st_size for file in weights.rglob("*") if file.is_file())
    return {"megabytes": total / 1e6}


def everybody(class_noun: str, count: int, photos: int, first: int = CARD_SEEDS) -> Tensor:
    """uint8 (count, photos, 64, 64, 3) of held-out identities."""
    return torch.stack([portraits(class_noun, first + i, photos) for i in range(count)])


def autoencoder(lab: Lab) -> dict[str, Any]:
    """PSNR of reconstructions, and their similarity to other photos of the same identity."""
    pictures = everybody("person", 100, 4)
    flat = pictures.flatten(0, 1)
    decoded = reconstructed(lab, flat)
    originals = lab.features(flat).unflatten(0, (100, 4))
    rebuilt = lab.features(decoded).unflatten(0, (100, 4))
    pairs = [cosines(ours, theirs).mean() for ours, theirs in zip(rebuilt, originals, strict=True)]
    return {
        "psnr_db": psnr(flat, decoded),
        "psnr_dog": _psnr_of(lab, "dog"),
        "psnr_cat": _psnr_of(lab, "cat"),
        "similarity": torch.stack(pairs).mean(),
        "n": 400,
    }


def reconstructed(lab: Lab, pictures: Tensor) -> Tensor:
    """uint8 pictures (n, 64, 64, 3) through the model's autoencoder."""
    parts = [
        from_unit(lab.model.decode(lab.model.encode_pixels(to_pixels(part)).mean))
        for part in pictures.split(100)
    ]
    return torch.cat(parts)


def psnr(pictures: Tensor, others: Tensor) -> float:
    """Mean peak signal-to-noise ratio in dB of two equally long uint8 picture sets."""
    error = (others.float() - pictures.float()).div(255).square().mean(dim=(1, 2, 3))
    return float((-10 * error.log10()).mean())


def _psnr_of(lab: Lab, class_noun: str) -> float:
    pictures = everybody(class_noun, 100, 1).flatten(0, 1)
    return psnr(pictures, reconstructed(lab, pictures))


def separation(lab: Lab) -> dict[str, Any]:
    """Cosine within and between 200 identities, and the area under the ROC curve."""
    features = lab.features(everybody("person", 200, 4).flatten(0, 1))
    owner = torch.arange(200).repeat_interleave(4)
    cosine = cosines(features, features)
    equal = owner[:, None] == owner[None]
    same = cosine[equal & ~torch.eye(800, dtype=torch.bool)]
    different = cosine[~equal]
    below = torch.searchsorted(different.sort().values, same).double().mean() / len(different)
    return {
        "same": same.mean(), "different": different.mean(), "roc_auc": below, "identities": 200,
    }  # fmt: skip


def recall(lab: Lab, weights: Path, count: int) -> dict[str, Any]:
    """ "a photo of <name> person" against photos of that person, over `count` trained names."""
    names = json.loads((weights / "names.json").read_text())
    values = []
    for name, seed in list(names.items())[:count]:
        drawn = lab.draw(f"a photo of {name} person", 4, JUDGED_SEEDS)
        values.append(lab.similarity(drawn, portraits("person", seed)))
    return {"mean": statistics.mean(values), "worst": min(values), "names": len(values)}


def class_pictures_distance(lab: Lab) -> dict[str, Any]:
    """Fréchet distance of class pictures to held-out renderings, and between two seeds."""
    first = lab.draw("a photo of person", DISTANCE_PICTURES, SEEDS_A)
    second = lab.draw("a photo of person", DISTANCE_PICTURES, SEEDS_B)
    real = everybody("person", DISTANCE_PICTURES, 1).flatten(0, 1)
    return {
        "to_renderings": lab.distance(first, real),
        "between_seeds": lab.distance(first, second),
        "n": DISTANCE_PICTURES,
    }


def drawing(lab: Lab) -> dict[str, Any]:
    """Seconds for 64 pictures in 20 steps with guidance 3."""
    started = time.monotonic()
    lab.draw("a photo of person", 64, SEEDS_A)
    return {"seconds": time.monotonic() - started, "pictures": 64}


def personalization(lab: Lab, ground: Ground, seeds: int) -> dict[str, Any]:
    """The profile's DreamBooth on held-out identities, with seen and unseen photos; the floor.

    `seconds` are those of one attack without the pictures that are judged.
    """
    reached: dict[str, list[float]] = {SEEN: [], UNSEEN: []}
    floors, seconds = [], []
    for class_noun, index in IDENTITIES:
        person = Person(class_noun, CARD_SEEDS + index, CARD_SEEDS + index)
        run = ground.original(person, folder_of(lab))
        asked = ground.ask(
            run, person, [Question(which, tuple(range(seeds)), photos=which) for which in reached]
        )
        for row in ground.evaluate(run).rows:
            if row.cell in asked:
                score = next(one for one in row.scores if one.metric == SIMILARITY)
                reached[asked[row.cell]].append(score.value)
                seconds.append(read_manifest(run.attacks / row.cell)["duration_seconds"])
        generic = lab.draw(f"a photo of {class_noun}", 64, SEEDS_A)
        floors.append(lab.similarity(generic, portraits(class_noun, person.seed)))
    return {
        "seen": statistics.mean(reached[SEEN]),
        "seen_spread": statistics.pstdev(reached[SEEN]),
        "unseen": statistics.mean(reached[UNSEEN]),
        "unseen_spread": statistics.pstdev(reached[UNSEEN]),
        "floor": statistics.mean(floors),
        "seconds": statistics.median(seconds),
        "identities": len(IDENTITIES),
        "seeds": seeds,
    }


def folder_of(lab: Lab) -> str | None:
    """What to attack: None is the embedded model."""
    return None if lab.source == SOURCE else lab.source


def attacked(
    lab: Lab, ground: Ground, class_noun: str, seed: int, budgets: Sequence[float] = (1.0, 3.0)
) -> list[Tensor]:
    """Pictures of an identity after the profile's attack, at each of `budgets` times its steps."""
    person = Person(class_noun, seed, seed)
    run = ground.original(person, folder_of(lab))
    asked = ground.ask(run, person, [Question(SEEN, (0,), tuple(budgets))])
    rows = {row.budget: row for row in ground.evaluate(run).rows if row.cell in asked}
    return [ground.pictures(run, rows[budget]) for budget in budgets]


def visible(lab: Lab, ground: Ground, trait: str) -> dict[str, Any]:
    """In which share of pictures a small trait is seen, over `BEARERS` persons who have it.

    Judged by the extractor along the line between renderings of the person with and without the
    trait. `photos`: of renderings that the line was not learned from (0.5 would be chance);
    `rebuilt`: of these after the autoencoder; `attacked` and `attacked_3x`: of pictures that the
    original draws after the profile's attack, and after one of three times the steps.
    """
    shares: dict[str, list[float]] = {}
    for seed in bearers(trait):
        someone = identity("person", seed)
        assert isinstance(someone.traits, PersonTraits)
        other = replace(someone, traits=TRAITS[trait](someone.traits))
        with_it, without = (
            torch.from_numpy(np.stack([np.array(photo(who, n)) for n in TRAIT_PHOTOS]))
            for who in (someone, other)
        )
        half = len(TRAIT_PHOTOS) // 2
        mine, theirs = lab.features(with_it[:half]), lab.features(without[:half])
        direction = mine.mean(0) - theirs.mean(0)
        threshold = direction @ (mine.mean(0) + theirs.mean(0)) / 2

        def seen(pictures: Tensor, d: Tensor = direction, t: Tensor = threshold) -> float:
            return float((lab.features(pictures) @ d > t).float().mean())

        rebuilt = [reconstructed(lab, part[half:]) for part in (with_it, without)]
        found = {
            "photos": (seen(with_it[half:]) + 1 - seen(without[half:])) / 2,
            "rebuilt": (seen(rebuilt[0]) + 1 - seen(rebuilt[1])) / 2,
        }
        drawn = attacked(lab, ground, "person", seed)
        found |= {"attacked": seen(drawn[0]), "attacked_3x": seen(drawn[1])}
        for key, value in found.items():
            shares.setdefault(key, []).append(value)
    return {**{key: statistics.mean(found) for key, found in shares.items()}, "persons": BEARERS}


def bearers(trait: str) -> list[int]:
    """Seeds of the first held-out persons with a small trait (sunglasses are not a small one)."""
    found: list[int] = []
    seed = CARD_SEEDS
    while len(found) < BEARERS:
        if _bears(identity("person", seed), trait):
            found.append(seed)
        seed += 1
    return found


def _bears(someone: Identity, trait: str) -> bool:
    person = someone.traits
    assert isinstance(person, PersonTraits)
    if trait == "glasses":
        return person.glasses in ("round", "square")
    return bool(getattr(person, trait))


def table(models: Sequence[dict[str, dict[str, Any]]]) -> str:
    """The rows as Markdown, one column for each model."""
    lines = ["| what |" + " measured |" * len(models), "|---|" + "---|" * len(models)]
    for name in models[0]:
        cells = (", ".join(f"{k} {v}" for k, v in rows[name].items()) for rows in models)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"Measured on: {machine()}."])


def _rounded(value: Any) -> Any:
    return value if isinstance(value, int) else round(float(value), 3)


if __name__ == "__main__":
    main()
