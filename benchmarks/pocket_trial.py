"""One protection on the pocket model, judged in every way that the issue asks for."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from apdm_cli.config import resolve
from apdm_cli.diffusion.class_pictures import SEEDS_PER_SET, class_pictures
from apdm_cli.protection.build import assemble, prepare
from apdm_cli.protection.settings import ProtectionSettings, preset
from apdm_cli.randomness import Streams
from apdm_cli.subject import Subject
from benchmarks.pocket_lab import SAMPLER, SEEN, UNSEEN, Lab, as_pictures, cut, held_out_subject

CLASS_PICTURES = 256
SET_A, SET_B = 8, 9  # sets of sampling seeds: 8 000 000 ... and 9 000 000 ...


def undefended(lab: Lab, class_noun: str, seed: int, attack_seeds: Sequence[int]) -> dict[str, Any]:
    """What the attack reaches on the original model: means over `attack_seeds`."""
    seen, unseen = _photo_sets(class_noun, seed)
    class_drawn = class_pictures(lab.model, seen.class_prompt, 64, SAMPLER, lab.cache, seed=SET_A)
    return {
        "floor": lab.similarity(class_drawn, as_pictures(seen.photos)),
        **_attacks(lab, lab.model, seen, unseen, attack_seeds),
    }


def other_gain(lab: Lab, model: Any, class_noun: str, seed: int, attack_seed: int) -> float:
    """Similarity gained by personalizing somebody else: what a protection should leave alone."""
    other = held_out_subject(class_noun, seed, SEEN)
    return lab.attacked_similarities(model, other, attack_seed)[0]


def protected_model(
    lab: Lab, subject: Subject, overrides: Mapping[str, Any], seed: int = 0
) -> tuple[Any, float, dict[str, float]]:
    """Protect a private copy; returns it, the seconds, and the last outer step's values."""
    settings = resolve(ProtectionSettings, preset("pocket"), overrides)
    started = time.monotonic()
    model = lab.model.private_copy(text_encoder=False)
    ingredients = prepare(model, subject, settings, lab.cache)
    last: dict[str, float] = {}
    for step in assemble(model, subject, settings, Streams(seed), ingredients).iterate():
        last = vars(step)
    # The weights changed: a digest of the original would make caches lie.
    ref = replace(model.ref, digest=f"protected-{id(model)}-{time.monotonic_ns()}")
    return replace(model, ref=ref), time.monotonic() - started, last


def trial(
    lab: Lab,
    overrides: Mapping[str, Any],
    class_noun: str,
    seed: int,
    other_seed: int,
    attack_seeds: Sequence[int],
    baseline: Mapping[str, Any],
) -> dict[str, Any]:
    """Protect one identity and judge it; `baseline` is `undefended` of the same identity."""
    seen, unseen = _photo_sets(class_noun, seed)
    model, seconds, last = protected_model(lab, seen, overrides)
    reached = _attacks(lab, model, seen, unseen, attack_seeds)
    other = sum(other_gain(lab, model, class_noun, other_seed, s) for s in attack_seeds)
    prompt = seen.class_prompt
    original_a, original_b = (
        class_pictures(lab.model, prompt, CLASS_PICTURES, SAMPLER, lab.cache, seed=which)
        for which in (SET_A, SET_B)
    )
    protected_b = lab.draw(model, prompt, CLASS_PICTURES, SET_B * SEEDS_PER_SET)
    floor = baseline["floor"]
    return {
        "protect_seconds": round(seconds, 1),
        **{k: round(v, 4) for k, v in last.items() if k not in ("index", "learning_rate")},
        **reached,
        "other": other / len(attack_seeds),
        **{f"cut_{k}": cut(baseline[k], reached[k], floor) for k in ("seen", "unseen", "long")},
        "class_distance": lab.distance(protected_b, original_a),
        "class_distance_original": lab.distance(original_b, original_a),
        "class_same_seed": lab.same_seed_similarity(protected_b, original_b),
    }


def _photo_sets(class_noun: str, seed: int) -> tuple[Subject, Subject]:
    return held_out_subject(class_noun, seed, SEEN), held_out_subject(class_noun, seed, UNSEEN)


def _attacks(
    lab: Lab, model: Any, seen: Subject, unseen: Subject, attack_seeds: Sequence[int]
) -> dict[str, float]:
    """Mean similarity after the attack: seen photos, unseen ones, and three times as long."""
    steps = lab.attack.steps
    reached = np.array([
        [
            *lab.attacked_similarities(model, seen, s, (steps, 3 * steps)),
            *lab.attacked_similarities(model, unseen, s),
        ]
        for s in attack_seeds
    ])  # fmt: skip
    return dict(zip(("seen", "long", "unseen"), reached.mean(axis=0).tolist(), strict=True))
