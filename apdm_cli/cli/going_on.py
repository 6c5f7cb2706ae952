"""What is said after Ctrl-C: what was kept, and the whole command that goes on.

A command says before its long work what of it stays, whenever it ends (`keeps`). Where it is
interrupted, `main` prints that and the command as it was typed, with what it takes to go on.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field


@dataclass
class _Left:
    """What an interrupted process leaves, as far as it is known.

    Attributes:
        typed: the arguments of this process; none where `apdm` was not started by a shell.
        kept: one or two sentences; none where nothing can be gone on with.
        run: the run that was chosen where none was typed.
        add: options that go on, where they are not there.
        drop: options that would throw away what is kept.
    """

    typed: tuple[str, ...] = ()
    kept: str = ""
    run: str | None = None
    add: tuple[str, ...] = ()
    drop: frozenset[str] = field(default_factory=frozenset)


_left = _Left()


def began(arguments: Sequence[str]) -> None:
    """Note what was typed; nothing is kept so far."""
    global _left
    _left = _Left(tuple(arguments))


def nothing_yet() -> None:
    """Say that a command has only looked so far: it begins again."""
    from apdm_cli.cli.guide import is_guided

    if not is_guided():
        keeps("Nothing was begun yet.")


def keeps(
    kept: str, *, run: str | None = None, add: Sequence[str] = (), drop: Collection[str] = ()
) -> None:
    """Say what stays if this process is interrupted from now on; replaces what was said before.

    Args:
        kept: whole sentences, for the user.
        run: name of the run, where the command was typed without it.
        add: options that the command needs to go on, such as --resume.
        drop: options that would begin again from the start, such as --fresh.
    """
    from apdm_cli.cli.guide import is_guided

    _left.kept = kept
    if not is_guided():  # otherwise the command that was typed is another one, which knows better
        _left.run, _left.add, _left.drop = run, tuple(add), frozenset(drop)


def what_is_kept() -> str:
    """The sentences of `keeps`; empty where there is nothing to go on with."""
    return _left.kept


def command() -> str:
    """What to type to go on, whole; empty where that is not known."""
    if not _left.typed:
        return ""
    words = [word for word in _left.typed if word not in _left.drop]
    if _left.run is not None:
        words.insert(1, _left.run)  # behind the command
    words += [option for option in _left.add if option not in words]
    return shlex.join(["apdm", *words])
