"""One protection on the pocket model, judged in every way that the issue asks for.

Attacks give one number per attack seed; `benchmarks.pocket_summary` makes means of them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from apdm_cli.config import resolve
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.picture_cache import SEEDS_PER_SET, class_pictures
from apdm_cli.extension.manager import attacks, build_plugin_manager
from apdm_cli.protection.bench import Bench, drawing, prepare
from apdm_cli.protection.compiling import compiled_forwards
from apdm_cli.protection.prompts import training_subject
from apdm_cli.randomness import Streams
from apdm_cli.subject import Subject
from apdm_protections.apdm import APDM
from benchmarks.pocket_lab import SAMPLER, SEEN, UNSEEN, Lab, as_pictures, held_out_subject

CLASS_PICTURES = 256
FLOOR_PICTURES = 64
SET_A, SET_B = 8, 9  # sets of sampling seeds: 8 000 000 ... and 9 000 000 ...


def undefended(
    lab: Lab, class_noun: str, seed: int, other_seed: int, attack_seeds: Sequence[int]
) -> dict[str, Any]:
    """What attacks reach on the original model, and the similarity of class pictures (floor)."""
    return {
        "floor": _floor(lab, held_out_subject(class_noun, seed, SEEN)),
        "other_floor": _floor(lab, held_out_subject(class_noun, other_seed, SEEN)),
        **_attacks(lab, lab.model, class_noun, seed, other_seed, attack_seeds),
    }


def protected(
    lab: Lab,
    settings: Mapping[str, Any],
    class_noun: str,
    seed: int,
    other_seed: int,
    attack_seeds: Sequence[int],
    protection_seed: int = 0,
) -> dict[str, Any]:
    """Protect one identity with whole `settings`, and judge it."""
    subject = held_out_subject(class_noun, seed, SEEN)
    model, seconds, last = protected_model(lab, subject, settings, protection_seed)
    prompt = subject.class_prompt
    original_a, original_b = (
        class_pictures(lab.model, prompt, CLASS_PICTURES, SAMPLER, lab.cache, seed=which)
        for which in (SET_A, SET_B)
    )
    protected_b = lab.draw(model, prompt, CLASS_PICTURES, SET_B * SEEDS_PER_SET)
    return {
        "protect_seconds": round(seconds, 1),
        **{k: round(v, 4) for k, v in last.items() if k != "learning_rate"},
        **_attacks(lab, model, class_noun, seed, other_seed, attack_seeds),
        "class_distance": lab.distance(protected_b, original_a),
        "class_distance_original": lab.distance(original_b, original_a),
        "class_same_seed": lab.same_seed_similarity(protected_b, original_b),
    }


def protected_model(
    lab: Lab, subject: Subject, settings: Mapping[str, Any], seed: int = 0
) -> tuple[DiffusionModel, float, dict[str, float]]:
    """Protect a private copy; returns it, the seconds, and the last outer step's values."""
    protection = APDM()
    resolved = resolve(protection.Config, settings)
    started = time.monotonic()
    model = lab.model.private_copy(text_encoders=False)
    inputs = protection.inputs(subject, resolved)
    ingredients = prepare(model, subject, inputs, drawing(model, resolved), lab.cache)
    last: dict[str, float] = {}
    with compiled_forwards(resolved.compiled == "auto", model.device) as compile_forward:
        bench = Bench(
            model,
            training_subject(subject, resolved.prompt_style),
            inputs,
            ingredients,
            Streams(seed),
            attacks(build_plugin_manager()),
            compile_forward=compile_forward,
        )
        for terms in protection.steps(bench, resolved):
            last = dict(terms)
    # The weights changed: a digest of the original would make caches lie.
    ref = replace(model.ref, digest=f"protected-{id(model)}-{time.monotonic_ns()}")
    return replace(model, ref=ref), time.monotonic() - started, last


def _floor(lab: Lab, subject: Subject) -> float:
    prompt = subject.class_prompt
    drawn = class_pictures(lab.model, prompt, FLOOR_PICTURES, SAMPLER, lab.cache, seed=SET_A)
    return lab.similarity(drawn, as_pictures(subject.photos))


def _attacks(
    lab: Lab, model: DiffusionModel, class_noun: str, seed: int, other_seed: int,
    attack_seeds: Sequence[int],
) -> dict[str, list[float]]:  # fmt: skip
    """Similarities by attack seed: the photos protected with, the same for three times as long,
    other photos of the same identity, another identity."""
    seen, unseen = (held_out_subject(class_noun, seed, part) for part in (SEEN, UNSEEN))
    other = held_out_subject(class_noun, other_seed, SEEN)
    stops = (lab.attack.steps, 3 * lab.attack.steps)
    both = [lab.attacked_similarities(model, seen, s, stops) for s in attack_seeds]
    return {
        "seen": [short for short, _ in both],
        "long": [long for _, long in both],
        "unseen": [lab.attacked_similarities(model, unseen, s)[0] for s in attack_seeds],
        "other": [lab.attacked_similarities(model, other, s)[0] for s in attack_seeds],
    }
