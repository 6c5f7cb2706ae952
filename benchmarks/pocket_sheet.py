"""Models of the pocket's kind side by side, as pictures of identities that no training ever saw.

    python -m benchmarks.pocket_sheet --model apdm_cli/pocket/weights --model NEW --out sheet.png

For each identity one row per model: photos, their reconstructions by the autoencoder, pictures of
the class (the same seeds for every model), and what the model draws of the subject after the
profile's DreamBooth and after one of three times the steps.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from apdm_cli.pocket.profile import SOURCE
from benchmarks.ground import Ground
from benchmarks.pocket_card import CARD_SEEDS, WEIGHTS, attacked, bearers, reconstructed
from benchmarks.pocket_lab import SEEDS_A, Lab, portraits

EACH = 3  # pictures of each kind
ENLARGED = 2
HEADER = 18  # pixels
TITLES = ("photos", "reconstructed", "class", "attacked", "attacked, 3 x")


def identities() -> list[tuple[str, int]]:
    """Class and seed of who is shown: a person with each small trait, one more, a dog, a cat."""
    found = {bearers(trait)[0] for trait in ("glasses", "freckles", "earrings")}
    return [*(("person", seed) for seed in sorted(found | {CARD_SEEDS + 3})), ("dog", CARD_SEEDS),
            ("cat", CARD_SEEDS)]  # fmt: skip


def row(lab: Lab, ground: Ground, class_noun: str, seed: int) -> Iterator[Tensor]:
    """The pictures of one identity by one model, uint8 (EACH, 64, 64, 3) for each title."""
    photos = portraits(class_noun, seed, EACH)
    yield photos
    yield reconstructed(lab, photos)
    yield lab.draw(f"a photo of {class_noun}", EACH, SEEDS_A)
    yield from attacked(lab, ground, class_noun, seed)


def line(kinds: Sequence[Tensor]) -> Tensor:
    """Pictures side by side, with a gap between the kinds: (64, width, 3)."""
    gap = torch.full((kinds[0].shape[1], 6, 3), 255, dtype=torch.uint8)
    parts: list[Tensor] = []
    for kind in kinds:
        parts += [*kind, gap]
    return torch.cat(parts[:-1], 1)


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the sheet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, action="append", required=True, help="weights")
    parser.add_argument("--out", type=Path, required=True, help="a PNG")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as root:
        ground = Ground(Path(root), images=EACH)
        labs = [Lab(SOURCE if m == WEIGHTS else str(m / "pipeline")) for m in options.model]
        lines = [line(list(row(lab, ground, *who))) for who in identities() for lab in labs]
    picture = Image.fromarray(torch.cat(lines).numpy())
    picture = picture.resize((picture.width * ENLARGED, picture.height * ENLARGED), 0)
    sheet = Image.new("RGB", (picture.width, picture.height + HEADER), "white")
    sheet.paste(picture, (0, HEADER))
    pen = ImageDraw.Draw(sheet)
    for index, title in enumerate(TITLES):
        pen.text((index * (picture.width + 6 * ENLARGED) // len(TITLES), 3), title, "black")
    sheet.save(options.out)


if __name__ == "__main__":
    main()
