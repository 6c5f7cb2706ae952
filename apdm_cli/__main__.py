"""Where the program `apdm` and `python -m apdm_cli` begin: Ctrl-C never shows a traceback.

A short command is imports for half of its time, and whoever stops it then is to see one line too.
What Python itself does before it reads this file is Python's, and ends as it likes.
"""

from __future__ import annotations

import os

INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C ended


def _leave(*_: object) -> None:
    """End at once: a `KeyboardInterrupt` in the middle of an import may be lost, or be printed."""
    os.write(2, b"\nInterrupted.\n")
    os._exit(INTERRUPTED)


try:
    import signal  # with some ten modules of the standard library
except KeyboardInterrupt:
    _leave()


def main() -> None:
    """Run `apdm` with the arguments of this process, and exit; see `apdm_cli.cli.main.main`."""
    # Whoever started us with `nohup` or in the background wants Ctrl-C to be ignored.
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, _leave)
    try:
        from apdm_cli.cli.main import main as run

        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        run()
    except KeyboardInterrupt:  # before or after it minds Ctrl-C itself
        _leave()
    finally:
        if ours:
            signal.signal(signal.SIGINT, _leave)  # while Python cleans up


if __name__ == "__main__":
    main()
