"""The two errors a user is meant to see: everything else is a bug and keeps its traceback."""

from __future__ import annotations


class ApdmError(Exception):
    """Something outside the program is wrong: a file, a folder, a model, the memory.

    `what` says what happened and to which file or option; `hint` says what to do about it.
    The command line prints both as one short block and exits with `exit_code`.
    """

    exit_code = 1

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what, hint)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{stopped(self.what)} {self.hint}" if self.hint else self.what


class UsageError(ApdmError):
    """An option or a configuration value that cannot be meant: exit code 2."""

    exit_code = 2


def stopped(text: str) -> str:
    """`text` with a full stop, unless it ends with a mark of its own or says nothing."""
    return f"{text}." if text and (text[-1].isalnum() or text[-1] in ")]'\"%") else text


def said(error: BaseException) -> str:
    """What `error` says; its type where it cannot say anything: `__str__` is anybody's code."""
    try:
        text = str(error)
    except Exception:
        text = ""
    return text or type(error).__name__


def first_sentence(error: Exception) -> str:
    """What a library's error says, without its advice to programmers."""
    lines = str(error).strip().splitlines()
    text = lines[0].split(". If you want")[0] if lines else type(error).__name__
    return " ".join(text.split())[:200]
