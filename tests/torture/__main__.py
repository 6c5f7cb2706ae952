"""`make torture ARGS="--minutes 20 --seed 0"`: kills, full disks, damaged files, hostile photos.

Real processes on a tiny model. Prints what it does while it does it, and at the end a table of
tries and failures by kind. Exit code 1 when anything failed.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.torture.scenes import Torture
from tests.torture.workshop import COMMANDS, Workshop

KILLS = 20  # of each command, at least, also where the minutes are over


def main() -> int:
    parser = argparse.ArgumentParser(prog="make torture", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (10)")
    parser.add_argument("--seed", type=int, default=0, help="of what is done when (0)")
    parser.add_argument("--kills", type=int, default=KILLS, help="of each command, at least (20)")
    parser.add_argument("--keep", action="store_true", help="leave the folder where it happened")
    options = parser.parse_args()
    # What is killed leaves semaphores of libraries behind, of which Python would tell at the end.
    os.environ["PYTHONWARNINGS"] = "ignore:resource_tracker:UserWarning"
    folder = Path(tempfile.mkdtemp(prefix="apdm-torture-"))
    print(f"apdm torture, seed {options.seed}, at least {options.minutes:g} minutes, in {folder}")
    started = time.monotonic()
    torture = Torture(
        Workshop(folder), random.Random(options.seed), lambda line: _say(started, line)
    )
    try:
        torture.uninterrupted()
        rounds(torture, started, options.minutes * 60, options.kills)
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    return report(torture, time.monotonic() - started)


def rounds(torture: Torture, started: float, seconds: float, kills: int) -> None:
    """One scene after another until the time is over and every command was killed enough."""
    scenes = ["kill", "disk", "damage", "damage", "photos"]
    while True:
        behind = [c for c in COMMANDS if torture.tally(f"SIGKILL in {c}").tries < kills]
        over = time.monotonic() - started > seconds
        if over and not behind:
            return
        scene = "kill" if over else torture.random.choice(scenes)
        command = torture.random.choice(behind or COMMANDS)
        if scene == "kill":
            torture.kill(command)
        elif scene == "disk":
            torture.full_disk(command)
        elif scene == "damage":
            torture.damage()
        else:
            torture.photos()
        done = ", ".join(f"{tally.kind} {tally.tries}" for tally in torture.tallies.values())
        torture.say(f"tries so far: {done}")


def report(torture: Torture, seconds: float) -> int:
    """Print the table; returns the exit code."""
    print(f"\n{'kind':28} {'tries':>6} {'failures':>9}  what became of them")
    failed = 0
    for tally in sorted(torture.tallies.values(), key=lambda one: one.kind):
        notes = ", ".join(f"{count} {what}" for what, count in sorted(tally.notes.items()))
        print(f"{tally.kind:28} {tally.tries:>6} {len(tally.failures):>9}  {notes}")
        failed += len(tally.failures)
    for tally in torture.tallies.values():
        for failure in tally.failures:
            print(f"- {tally.kind}: {failure}")
    print(f"{seconds / 60:.1f} minutes; {failed} failures")
    return 1 if failed else 0


def _say(started: float, line: str) -> None:
    print(f"{time.monotonic() - started:7.1f} s  {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
