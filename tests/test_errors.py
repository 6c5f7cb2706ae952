"""What an error carries to the command line."""

from __future__ import annotations

import copy

import pytest

from apdm_cli.errors import ApdmError, UsageError


def test_exit_codes_tell_surroundings_from_usage() -> None:
    assert ApdmError("x").exit_code == 1
    assert UsageError("x").exit_code == 2
    assert issubclass(UsageError, ApdmError)


def test_text_has_both_parts() -> None:
    error = ApdmError("photos: empty folder.", "Put pictures there.")
    assert (error.what, error.hint) == ("photos: empty folder.", "Put pictures there.")
    assert str(error) == "photos: empty folder. Put pictures there."
    assert str(ApdmError("photos: empty folder.")) == "photos: empty folder."


@pytest.mark.parametrize("kind", [ApdmError, UsageError])
def test_a_copy_keeps_both_parts(kind: type[ApdmError]) -> None:
    # Copying and sending to another process rebuild an exception from its arguments.
    error = copy.copy(kind("what", "hint"))
    assert type(error) is kind
    assert (error.what, error.hint) == ("what", "hint")
