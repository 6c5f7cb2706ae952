"""What answers at once imports nothing heavy: modules are counted, not seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from apdm_cli.pocket.samples import SUBJECTS
from tests.made_runs import make_run

# Every command is a process of its own. Where processes can be forked they all come out of one that
# has imported the front door, as every command does first; elsewhere each is begun anew.
PROBE = """
import json, os, sys
from apdm_cli.cli.main import main
heavy = {"torch", "diffusers", "transformers", "peft", "torchvision", "matplotlib"}
def command(folder, words):
    os.chdir(folder)
    for name, descriptor in (("out", 1), ("err", 2)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT, 0o644), descriptor)
    code = 1
    try:
        main(words)
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    print("HEAVY", sorted(heavy & set(sys.modules)), file=sys.stderr)
    with open("code", "w") as file:
        file.write(str(code))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
for line in sys.stdin:
    folder, words = json.loads(line)
    child = os.fork() if hasattr(os, "fork") else 0
    if child == 0:
        command(folder, words)
    os.waitpid(child, 0)
    print("ended", flush=True)
"""


class Probe:
    """Runs commands, and tells what each had imported."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def ask(self, folder: Path, words: Sequence[str]) -> tuple[int, str]:
        """`apdm WORDS` in `folder`: its exit code, and what it said and had imported at the end."""
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROBE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps([str(folder), list(words)]) + "\n")
        process.stdin.flush()
        if not process.stdout.readline():  # it was the command itself
            process.wait()
        said = (folder / "err").read_text(encoding="utf-8")
        return int((folder / "code").read_text()), said

    def end(self) -> None:
        if self._process is not None:
            self._process.communicate()


@pytest.fixture(scope="module")
def probe() -> Iterator[Probe]:
    made = Probe()
    yield made
    made.end()


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
    probe: Probe, tmp_path: Path, line: str, code: int
) -> None:
    ended, said = probe.ask(tmp_path, line.split())
    assert ended == code, said
    assert "HEAVY []" in said, said
    assert "Traceback" not in said


PHOTOS = SUBJECTS / "person-1" / "seen"


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ("protect nowhere --class person", 1, "nowhere does not exist"),
        ("protect empty --class person", 1, "No photos in empty"),
        ("protect damaged --class person", 1, "0.png is damaged or incomplete"),
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
        ("protect PHOTOS --class person --out file", 1, "file is a file, and a folder is needed"),
        ("protect PHOTOS --class person --out file/below", 1, "file is a file, and a folder is"),
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
        ("attack ann --photos damaged", 1, "0.png is damaged or incomplete"),
        ("attack ann --photos raw", 1, "Save it as jpg or png first, or take it out"),
        ("attack ann --identifier qx", 1, "--identifier: the model's tokenizer does not know qx"),
        ("attack ann --subject-class dogg", 1, "--subject-class: the model's tokenizer does not"),
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
        ("evaluate ann --utility-only --neighbours damaged", 1, "0.png is damaged or incomplete"),
        ("evaluate ann --utility-only --photos nowhere", 1, "nowhere does not exist"),
        ("evaluate ann --utility-only --device gpu", 2, "--device gpu"),
        ("evaluate ann --utility-only --dtype fp8", 2, "--dtype fp8"),
        ("evaluate ann --utility-only --plugin-file gone.py", 2, "gone.py is not a file"),
        ("evaluate blocked --utility-only", 1, "evaluation is a file, and a folder is needed"),
        ("compare ann", 1, "apdm evaluate ann"),
        ("compare ann --html nowhere/page.html", 1, "the folder nowhere does not exist"),
        ("compare ann --csv nowhere/table.csv", 1, "the folder nowhere does not exist"),
        ("compare ann --csv file/table.csv", 1, "file is a file, and a folder is needed"),
        ("compare ann --html empty", 1, "empty cannot be written: it is a folder"),
        ("compare ann --csv /dev/null", 1, "/dev/null leads into the system's own files"),
        ("compare ann --html one --csv ./one", 2, "--html and --csv both name one"),
        ("compare ann --require worst.dino<=x", 2, "expected a number"),
        ("demo --subject nonsense", 2, "no sample 'nonsense'"),
    ],
)
def test_what_is_wrong_without_a_model_is_said_without_torch(
    probe: Probe, tmp_path: Path, line: str, code: int, says: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for name, photo in (("damaged", "0.png"), ("raw", "0.cr2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / photo).write_bytes(sorted(PHOTOS.iterdir())[0].read_bytes()[:500])
    for name in ("ann", "open", "blocked"):
        make_run(tmp_path / "runs", name, done=name != "open", photos=PHOTOS)
    (tmp_path / "runs" / "blocked" / "evaluation").touch()
    words = [str(PHOTOS) if word == "PHOTOS" else word for word in line.split()]
    ended, said = probe.ask(tmp_path, words)
    assert ended == code, said
    assert "HEAVY []" in said, said
    assert says in said


# A plugin by which a command ends where its helpers begin.
HELPERS = """
from apdm_cli.errors import ApdmError
from apdm_cli.runs import early
def beginning(count, modules):
    raise ApdmError(f"{count} would begin")
early.beginning = beginning
"""


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("attack ann --workers 3", 2),
        ("attack ann --workers 3 --dry-run", 0),
        ("attack ann", 0),
        ("evaluate ann --utility-only --device cpu,cpu", 1),
    ],
)
def test_helpers_begin_before_torch_is_imported(
    probe: Probe, tmp_path: Path, line: str, count: int
) -> None:
    make_run(tmp_path / "runs", "ann", photos=PHOTOS)
    (tmp_path / "helpers.py").write_text(HELPERS)
    _, said = probe.ask(tmp_path, [*line.split(), "--plugin-file", "helpers.py"])
    assert f"{count} would begin" in said and "HEAVY []" in said


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
