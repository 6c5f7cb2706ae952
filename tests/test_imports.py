"""What answers at once imports nothing heavy: modules are counted, not seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROBE = """
import sys
from apdm_cli.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as ended:
    code = ended.code or 0
heavy = {"torch", "diffusers", "transformers", "peft", "torchvision", "matplotlib"}
print("HEAVY", sorted(heavy & set(sys.modules)), file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("runs", 0),
        ("runs --json", 0),
        ("clean nothing --yes", 1),
        ("clean --cache --dry-run", 0),
        ("protect", 2),
        ("protect photos --set beta=1", 2),
        ("protect --class person --set bta=1", 2),
        ("compare --json --markdown", 2),
        ("compare nothing", 1),
        ("plugins --json", 0),
        ("plugins --options", 0),
        ("settings", 0),
        ("settings lora --json", 0),
        ("settings lorra", 2),
        ("attack --list", 0),
        ("attack --plugin nonsense", 2),
        ("attack --suite nonsense", 2),
        ("attack --set nonsense", 2),
        ("attack nothing", 1),
        ("evaluate nothing", 1),
    ],
)
def test_a_simple_command_or_error_imports_nothing_heavy(
    tmp_path: Path, line: str, code: int
) -> None:
    result = subprocess.run(
        [sys.executable, "-c", PROBE, *line.split()],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
    )
    assert result.returncode == code, result.stderr
    assert "HEAVY []" in result.stderr, result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("kind", ["attacks", "metrics", "families"])
def test_first_party_declarations_are_read_without_torch(kind: str) -> None:
    code = (
        "import importlib\n"
        "from apdm_cli.extension.names import out_of_reach\n"
        "with out_of_reach():\n"
        f"    package = importlib.import_module('apdm_{kind}')\n"
        f"    assert package.apdm_{kind}()\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
