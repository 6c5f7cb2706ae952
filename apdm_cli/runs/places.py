"""Where the results of a run lie: in its folder, or below it where it protects several subjects.

runs/RUN/                      attacks/, evaluation/ and a report
runs/RUN/subjects/NAME/        the same of each subject, where there are several
"""

from __future__ import annotations

from pathlib import Path

SUBJECTS, ATTACKS, EVALUATION = "subjects", "attacks", "evaluation"


def place_of(run: Path, subject: str) -> Path:
    """The folder of one of several subjects of the run in the folder `run`."""
    return run / SUBJECTS / subject


def places(run: Path) -> list[Path]:
    """Every folder that results of the run in the folder `run` may lie in: its own first."""
    below = run / SUBJECTS
    found = below.iterdir() if below.is_dir() and not below.is_symlink() else ()
    return [run, *sorted(path for path in found if path.is_dir() and not path.is_symlink())]


def attack_folders(run: Path) -> list[Path]:
    """The folders that hold the cells of the run in the folder `run`; some may not be there."""
    return [place / ATTACKS for place in places(run)]
