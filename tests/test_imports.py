"""What answers at once imports nothing heavy: modules are counted, not seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from apdm_cli.pocket.samples import SUBJECTS
from tests.made_runs import make_run

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


PHOTOS = SUBJECTS / "person-1" / "seen"


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ("protect nowhere --class person", 1, "nowhere does not exist"),
        ("protect empty --class person", 1, "No photos in empty"),
        ("protect PHOTOS --class person --model nowhere", 1, "There is no model at nowhere"),
        ("protect PHOTOS --class person --revision main", 2, "pocket is no hub id"),
        ("protect PHOTOS --class prson", 1, "does not know prson"),
        ("protect PHOTOS --class person --identifier qx", 1, "does not know qx"),
        ("protect PHOTOS --class person --device gpu", 2, "--device gpu"),
        ("protect PHOTOS --class person --dtype fp8", 2, "--dtype fp8"),
        ("protect PHOTOS --class person --name ann", 1, "--name ann-2"),
        ("protect PHOTOS --class person --name a/b", 2, "cannot be the name of a folder"),
        ("protect PHOTOS --class person --name ann --resume", 1, "nothing to resume"),
        ("protect PHOTOS --class person --name bob --resume", 1, "no run bob"),
        ("protect PHOTOS --class person --method nonsense", 2, "no protection 'nonsense'"),
        ("protect PHOTOS --class person --preset nonsense", 2, "no preset 'nonsense'"),
        (
            "protect PHOTOS --class person --set preservation.kind=distill "
            "--set preservation.captions=gone.txt",
            2,
            "preservation.captions: gone.txt",
        ),
        (
            "protect PHOTOS --class person --set others.count=1 --set others.captions=gone.txt",
            2,
            "others.captions: gone.txt",
        ),
        ("attack ann --plugin lora --set lora.rnk=1", 2, "Did you mean rank"),
        ("attack ann --plugin lora --set rank=x", 2, "lora: rank"),
        ("attack ann --plugin lora --set heal.steps=1", 2, "settings for heal"),
        ("attack ann --budgets x", 2, "--budgets x"),
        ("attack ann --transform nonsense", 2, "no 'nonsense'"),
        ("attack ann --photos nowhere", 1, "nowhere does not exist"),
        ("attack ann --prompts gone.txt", 2, "--prompts gone.txt"),
        ("attack ann --sampler eular", 2, "--sampler eular"),
        ("attack ann --device gpu", 2, "--device gpu"),
        ("attack ann --device cpu,gpu", 2, "--device gpu"),
        ("attack ann --device cpu,mps --workers 1", 2, "--workers 1 is fewer"),
        ("attack ann --dtype fp8", 2, "--dtype fp8"),
        ("attack ann --original pocket", 2, "--original goes with --model"),
        ("attack ann --model elsewhere", 2, "not both"),
        ("attack --model elsewhere", 2, "needs --photos"),
        (
            "attack --model elsewhere --photos PHOTOS --subject-class person",
            1,
            "not a diffusers folder",
        ),
        ("attack open", 1, "Run open was interrupted"),
        ("evaluate open --utility-only", 1, "Run open was interrupted"),
        ("evaluate ann", 1, "not attacked yet"),
        ("evaluate ann --utility-only --metrics dno", 2, "Did you mean dino"),
        ("evaluate ann --utility-only --weights dno=x", 2, "--weights dno"),
        ("evaluate ann --utility-only --prompts gone.txt", 2, "--prompts gone.txt"),
        ("evaluate ann --utility-only --captions gone.txt", 2, "--captions gone.txt"),
        ("evaluate ann --utility-only --sampler eular", 2, "--sampler eular"),
        ("evaluate ann --utility-only --neighbours nowhere", 1, "nowhere does not exist"),
        ("evaluate ann --utility-only --photos nowhere", 1, "nowhere does not exist"),
        ("evaluate ann --utility-only --device gpu", 2, "--device gpu"),
        ("evaluate ann --utility-only --dtype fp8", 2, "--dtype fp8"),
        ("evaluate ann --utility-only --plugin-file gone.py", 2, "gone.py is not a file"),
        ("compare ann", 1, "apdm evaluate ann"),
        ("compare ann --require worst.dino<=x", 2, "expected a number"),
        ("demo --subject nonsense", 2, "no sample 'nonsense'"),
    ],
)
def test_what_is_wrong_without_a_model_is_said_without_torch(
    tmp_path: Path, line: str, code: int, says: str
) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("ann", "open"):
        make_run(tmp_path / "runs", name, done=name == "ann", photos=PHOTOS)
    words = [str(PHOTOS) if word == "PHOTOS" else word for word in line.split()]
    result = subprocess.run(
        [sys.executable, "-c", PROBE, *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
    )
    assert result.returncode == code, result.stderr
    assert "HEAVY []" in result.stderr, result.stderr
    assert says in result.stderr


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
