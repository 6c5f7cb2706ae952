"""How the two arms of a run are spoken of: two models, or one model and two sets of photos."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

Protects = Literal["model", "photos"]


class ArmWords(NamedTuple):
    """What sentences and headings say of the arms.

    Attributes:
        on_original, on_protected: where an attack took place: "lora does as well {on_protected}".
        of_original, of_protected: what a likeness was got from, and what was attacked.
        titles: of pictures and charts, by arm.
        attacked: what a legend says of each arm.
        unchanged: what is said of everybody else in the place of what was measured; "" where the
            protection may have changed something for them.
        meaning: of "original, protected", for whoever reads a report for the first time.
    """

    on_original: str
    on_protected: str
    of_original: str
    of_protected: str
    titles: dict[str, str]
    attacked: dict[str, str]
    unchanged: str
    meaning: str


_MODELS = ArmWords(
    on_original="on the original",
    on_protected="on the protected model",
    of_original="the original",
    of_protected="the protected model",
    titles={"original": "original model", "protected": "protected model"},
    attacked={"original": "original model, attacked", "protected": "protected model, attacked"},
    unchanged="",
    meaning="Every attack is run twice: on the model as it was and on the protected model, with "
    "the same photos, seed, noise and number of steps. Without the first, a low score could "
    "simply mean a weak attack.",
)
_PHOTOS = ArmWords(
    on_original="with the original photos",
    on_protected="with the perturbed photos",
    of_original="the original photos",
    of_protected="the perturbed photos",
    titles={"original": "original photos", "protected": "perturbed photos"},
    attacked={
        "original": "attacked with the original photos",
        "protected": "attacked with the perturbed photos",
    },
    unchanged="the model is not changed",
    meaning="Here the photos are protected. Every attack is run twice on one and the same model: "
    "with the photos as they were and with the perturbed ones, with the same seed, noise and "
    "number of steps. Without the first, a low score could simply mean a weak attack.",
)


def protects(manifest: Mapping[str, Any]) -> Protects:
    """What the run with this manifest protects. Equal models in both arms would not tell."""
    return "photos" if manifest.get("perturbed") else "model"


def words_for(what: Protects) -> ArmWords:
    """Those of a run that protects a model, or photos."""
    return _PHOTOS if what == "photos" else _MODELS
