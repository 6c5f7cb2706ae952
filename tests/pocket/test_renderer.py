"""The procedural portraits: deterministic, recognizable, and described in closed vocabulary."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pocket_training.renderer import CLASSES, attributes, identity, photo, vocabulary
from pocket_training.renderer.person import PersonTraits

REPOSITORY = Path(__file__).parents[2]
DIGEST_SCRIPT = """
import hashlib
from pocket_training.renderer import CLASSES, identity, photo
pixels = b"".join(photo(identity(noun, 5), 3).tobytes() for noun in CLASSES)
print(hashlib.sha256(pixels).hexdigest())
"""


def face(noun: str, seed: int, photo_seed: int) -> np.ndarray:
    """Coarse colours of the face region, float (6, 5, 3), less the photo's mean brightness."""
    picture = photo(identity(noun, seed), photo_seed).crop((17, 8, 47, 44)).resize((5, 6))
    colours = np.asarray(picture, dtype=float)
    return colours / colours.mean()


@pytest.mark.parametrize("noun", CLASSES)
def test_photo_is_deterministic(noun: str) -> None:
    first, second = (photo(identity(noun, 11), 4).tobytes() for _ in range(2))
    assert first == second


def test_photo_does_not_depend_on_the_hash_seed() -> None:
    pixels = b"".join(photo(identity(noun, 5), 3).tobytes() for noun in CLASSES)
    elsewhere = subprocess.run(
        [sys.executable, "-c", DIGEST_SCRIPT],
        env={**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert elsewhere.stdout.strip() == hashlib.sha256(pixels).hexdigest()


@pytest.mark.parametrize("noun", CLASSES)
@pytest.mark.parametrize("size", [32, 64, 96])
def test_photo_has_the_size_and_mode_asked_for(noun: str, size: int) -> None:
    picture = photo(identity(noun, 0), 0, size)
    assert picture.size == (size, size)
    assert picture.mode == "RGB"


def test_photo_refuses_an_empty_size() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        photo(identity("cat", 0), 0, 0)


def test_unknown_class_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"horse.*person, dog, cat"):
        identity("horse", 0)


@pytest.mark.parametrize("noun", CLASSES)
def test_identities_and_photos_differ(noun: str) -> None:
    one, other = identity(noun, 1), identity(noun, 2)
    assert one != other
    assert photo(one, 0).tobytes() != photo(other, 0).tobytes()
    assert photo(one, 0).tobytes() != photo(one, 1).tobytes()


@pytest.mark.parametrize("noun", CLASSES)
def test_photos_of_one_identity_are_closer_than_those_of_others(noun: str) -> None:
    faces = np.array([[face(noun, seed, k) for k in range(4)] for seed in range(12)])
    distances = np.abs(faces[:, :, None, None] - faces[None, None]).mean(axis=(-3, -2, -1))
    same = np.array([distances[i, :, i, :][~np.eye(4, dtype=bool)] for i in range(12)])
    others = np.array([distances[i, :, j, :] for i in range(12) for j in range(12) if i != j])
    assert same.mean() < 0.6 * others.mean()


@pytest.mark.parametrize("noun", CLASSES)
def test_attributes_are_short_and_within_the_vocabulary(noun: str) -> None:
    known = set(vocabulary())
    for seed in range(300):
        phrases = attributes(identity(noun, seed))
        assert 2 <= len(phrases) <= 5
        assert {word for phrase in phrases for word in phrase.split()} <= known


def test_vocabulary_is_sorted_lower_case_and_has_the_classes() -> None:
    words = vocabulary()
    assert list(words) == sorted(set(words))
    assert all(word.isalpha() and word.islower() for word in words)
    assert set(CLASSES) <= set(words)


def test_every_word_of_the_vocabulary_occurs() -> None:
    people = [attributes(identity(noun, seed)) for noun in CLASSES for seed in range(1500)]
    used = {word for phrases in people for phrase in phrases for word in phrase.split()}
    assert used | set(CLASSES) == set(vocabulary())


def test_traits_of_people_are_distributed() -> None:
    drawn = [identity("person", seed).traits for seed in range(200)]
    people = [traits for traits in drawn if isinstance(traits, PersonTraits)]
    assert len(people) == 200
    assert len({person.hair_style for person in people}) >= 7
    assert 40 < sum(person.glasses != "none" for person in people) < 130
    assert 10 < sum(person.hat != "none" for person in people) < 100
    assert len({person.beard for person in people}) == 5


@pytest.mark.parametrize("noun", CLASSES)
def test_identities_are_nearly_all_distinct(noun: str) -> None:
    assert len({identity(noun, seed).traits for seed in range(1000)}) == 1000
