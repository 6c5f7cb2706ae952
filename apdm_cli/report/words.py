"""How metrics and numbers are put into words, for the terminal, Markdown and the report alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from apdm_cli.report.schema import Better, Interval, Line


class MetricWords(NamedTuple):
    """`title` is a heading, `explanation` one or two sentences for a reader who is new to it."""

    title: str
    explanation: str


_KNOWN = {
    "dino": MetricWords(
        "Similarity to the subject (dino)",
        "How much the pictures look like the subject: cosine between the extractor's features of "
        "every photo and every picture. 1 is the same, about 0 is somebody else. Lower protects "
        "better.",
    ),
    "clip-i": MetricWords(
        "Similarity to the photos (clip-i)",
        "Cosine between CLIP's features of every photo and every picture. Lower protects better.",
    ),
    "clip-t": MetricWords(
        "Agreement with the prompt (clip-t)",
        "Cosine between CLIP's features of a prompt and its picture.",
    ),
    "brisque": MetricWords(
        "Picture quality (brisque)",
        "A no-reference quality score: higher is worse pictures, so higher is what the paper "
        "counts as protection. Broken pictures score high whoever is in them.",
    ),
    "fid": MetricWords(
        "Distance between sets of pictures (fid)",
        "Fréchet distance between the features of two sets. Read it beside the distance between "
        "two seeds of the original model, which is what no change at all looks like.",
    ),
    "kid": MetricWords(
        "Distance between sets of pictures (kid)",
        "Kernel distance between the features of two sets; 0 is what no change looks like.",
    ),
    "same-seed": MetricWords(
        "Same picture as before (same-seed)",
        "Cosine between what the original and the protected model draw from one seed. 1: the "
        "protection left that picture alone.",
    ),
    "diversity": MetricWords(
        "Variety (diversity)",
        "1 − mean similarity between an attack's own pictures. Near 0 the model draws one and the "
        "same picture, which can look like protection.",
    ),
    "lpips": MetricWords(
        "Perceptual change (lpips)",
        "How far apart two pictures of one seed look. 0 is no change.",
    ),
    "identity": MetricWords(
        "Face similarity (identity)",
        "Cosine between face embeddings. Lower protects better.",
    ),
}

# Directions that have nothing to do with who is in the picture.
_GOOD_PICTURES: dict[str, Better] = {"brisque": "lower", "diversity": "higher"}

# Where the primary number of the verdict comes from, best first.
SIMILARITIES = ("dino", "identity", "clip-i")


def better_for_neighbours(metric: str, for_subject: Better) -> Better:
    """Which direction is good where somebody else is taught, who should not be protected.

    Good pictures stay good pictures; everything else is the opposite of what protects.
    """
    base = metric.partition("[")[0].removesuffix("-paper")
    if base in _GOOD_PICTURES:
        return _GOOD_PICTURES[base]
    return "higher" if for_subject == "lower" else "lower"


def words_of(metric: str, shown: str = "") -> MetricWords:
    """Title and explanation of a metric; an unknown one keeps its name.

    `shown` is the name to show, with its backend (`fid[pocket]`), where it differs.
    """
    base = metric.partition("[")[0].removesuffix("-paper")
    known = _KNOWN.get(base)
    if known is None:
        return MetricWords(shown or metric, "")
    return known._replace(title=known.title.replace(f"({base})", f"({shown or metric})"))


def number(value: float | None, like: float | None = None) -> str:
    """0.31, 12.3, 250: as many decimals as make sense for `like` (default: for itself)."""
    if value is None:
        return "–"
    size = abs(value if like is None else like)
    places = 2 if size < 10 else 1 if size < 100 else 0
    text = f"{value:.{places}f}"
    return text.lstrip("-") if _is_zero(text) else text.replace("-", "−")


def signed(value: float | None, like: float | None = None) -> str:
    """A difference, with its sign."""
    text = number(value, like)
    return text if value is None or text[0] == "−" or _is_zero(text) else f"+{text}"


def percent(value: float | None, like: float | None = None) -> str:
    """`0.534` as 53 %."""
    del like  # always whole percents
    return "–" if value is None else f"{round(100 * value)} %".replace("-", "−")


def with_interval(interval: Interval | None, show: Callable[..., str] = number) -> str:
    """`0.31 [0.25, 0.37]` or `83 % [70, 91]`; only the number where no interval is known."""
    if interval is None:
        return "–"
    if interval.low is None or interval.high is None:
        return show(interval.value)
    ends = (show(end, interval.value).removesuffix(" %") for end in (interval.low, interval.high))
    return f"{show(interval.value)} [{', '.join(ends)}]"


def _is_zero(text: str) -> bool:
    return not text.strip("-0.")


def verdict_on(line: Line) -> str:
    """`better`, `worse` or ``: what the difference does, only where its interval excludes zero."""
    if _no_direction(line):
        return ""
    if line.difference is None or not line.difference.excludes_zero:
        return ""
    fell = line.difference.value < 0
    return "better" if fell == (line.better == "lower") else "worse"


def direction(line: Line) -> str:
    """`lower is better`, said for whom."""
    if _no_direction(line):
        return "neither direction protects; near 0 is a collapse"
    whom = "" if line.role in ("utility", "neighbour", "neighbours") else " for the subject"
    return f"{line.better} is better{whom}"


def _no_direction(line: Line) -> bool:
    """Variety of an attack's pictures says whether it collapsed, not whether it is harmless."""
    return line.metric.startswith("diversity") and line.role in ("attack", "mean", "worst")
