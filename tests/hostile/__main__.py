"""`python -m tests.hostile`: run the hostile tests, and print the table of kinds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.hostile.counting import Counting

if __name__ == "__main__":
    counting = Counting()
    options = ["-q", "-m", "hostile", "--durations=0", "--durations-min=20"]
    code = pytest.main([str(Path(__file__).parents[1]), *options, *sys.argv[1:]], [counting])
    print(f"\n{counting.table()}")
    sys.exit(code)
