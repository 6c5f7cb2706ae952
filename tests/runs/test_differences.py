"""What differs between two requests, in words a user can act on."""

from typing import Any

import pytest

from apdm_cli.errors import ApdmError
from apdm_cli.runs.differences import differences, require_same

BEFORE: dict[str, Any] = {
    "config": {"beta": 1.0, "l2p": {"steps": 20}, "prompts": ["a", "b"]},
    "model": {"digest": "aa"},
    "photos": [{"name": "0.jpg", "sha256": "x"}, {"name": "1.jpg", "sha256": "y"}],
}


def with_photos(*pairs):
    return {**BEFORE, "photos": [{"name": name, "sha256": digest} for name, digest in pairs]}


def test_equal_values_have_no_differences():
    assert (
        differences(BEFORE, {**BEFORE, "config": {**BEFORE["config"], "prompts": ("a", "b")}}) == []
    )


def test_values_are_named_by_their_place():
    now = {**BEFORE, "config": {"beta": 2.0, "l2p": {"steps": 30}, "prompts": ["a"], "new": True}}
    assert differences(BEFORE, now) == [
        "config.beta was 1.0 and is now 2.0",
        "config.l2p.steps was 20 and is now 30",
        'config.prompts was ["a", "b"] and is now ["a"]',
        "config.new was not set and is now true",
    ]


def test_a_missing_value_and_a_null_are_told_apart():
    assert differences({"a": None}, {}) == ["a was null and is not set now"]


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (with_photos(("0.jpg", "x")), ["photo 1.jpg is missing now"]),
        (with_photos(("0.jpg", "x"), ("1.jpg", "y"), ("2.jpg", "z")), ["photo 2.jpg is new"]),
        (with_photos(("0.jpg", "x"), ("1.jpg", "z")), ["photo 1.jpg has other content"]),
        (
            with_photos(("1.jpg", "y"), ("0.jpg", "x")),
            ["the photos are in another order or number"],
        ),
    ],
)
def test_photos_by_name(now, said):
    assert differences(BEFORE, now) == said


def test_the_first_few_and_how_many_more():
    lines = differences({}, {str(key): key for key in range(9)}, limit=2)
    assert len(lines) == 3 and lines[-1] == "and 7 more differences"


def test_resume_with_other_settings_is_refused():
    require_same("ann", {**BEFORE, "status": "failed"}, BEFORE, tuple(BEFORE))
    with pytest.raises(
        ApdmError, match=r"ann .* model\.digest was \"aa\" and is now \"bb\""
    ) as caught:
        require_same("ann", BEFORE, {**BEFORE, "model": {"digest": "bb"}}, ["config", "model"])
    assert "--name" in caught.value.hint
