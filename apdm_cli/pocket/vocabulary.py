"""The words that the embedded model knows, read from its tokenizer's file without loading it."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

TOKENIZER = Path(__file__).parent / "weights" / "pipeline" / "tokenizer" / "tokenizer.json"
# Nouns that can name the class of a subject, those first that the model was trained to draw.
DRAWN = ("person", "dog", "cat")
OTHERS = (
    "man", "woman", "boy", "girl", "child", "baby", "human", "lady", "guy", "puppy", "kitten",
    "animal", "pet", "bird", "horse", "bear", "clock", "toy", "backpack", "bag", "sneaker", "shoe",
    "boot", "vase", "can", "bowl", "teapot", "candle", "cartoon", "plushie", "monster", "robot",
    "car", "bicycle", "house", "chair", "table", "plant", "flower", "duck", "wolf",
)  # fmt: skip
NOUNS = (*DRAWN, *OTHERS)


def words() -> frozenset[str]:
    """Every token of the embedded model's tokenizer; none in an installation without it."""
    try:
        return frozenset(json.loads(TOKENIZER.read_text(encoding="utf-8"))["model"]["vocab"])
    except (OSError, ValueError, KeyError, TypeError):
        return frozenset()


def unknown_words(text: str) -> list[str]:
    """Those of the words in `text` that the embedded tokenizer certainly has no token for.

    It splits at `,` and `.` too: what holds one of them is left for the tokenizer itself to judge.
    """
    known = words()
    return [
        word
        for word in text.split()
        if known
        and not {",", "."} & set(word)
        and unicodedata.normalize("NFC", word).lower() not in known
    ]


def class_nouns() -> list[str]:
    """The nouns for --class that the embedded model knows, those that it draws first."""
    known = words()
    return [noun for noun in NOUNS if noun in known]
