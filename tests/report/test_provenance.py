"""The commands that repeat a run plan what was run: the same cells, and no others.

Nothing is trained: the commands go through the CLI up to the planned cells.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from apdm_cli.cli.main import main
from apdm_cli.config import assignment, parse_assignments
from apdm_cli.harness import suites
from apdm_cli.harness.execute import Execution
from apdm_cli.harness.plan import PlannedCell, cell_manifest
from apdm_cli.report.attack_commands import attack_commands
from apdm_cli.runs.jsonable import jsonable
from apdm_cli.runs.run import Run
from tests.tiny import make_photos, make_tiny_pipeline, make_tiny_run

SUITE = """
[[attack]]
name = "lora"
variant = "dora"
set = { variant = "dora" }
[[attack]]
name = "lora"
variant = "small"
set = { rank = 2 }
transforms = ["flip"]
"""
CUT = """
[[attack]]
name = "dreambooth"
[[attack]]
name = "lora"
crop = "none"
"""


class Bench:
    """A run, and `apdm attack` that only plans."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.root = folder, folder / "runs"
        self.photos = {
            "PHOTOS": make_photos(folder / "photos"),
            "OTHER_PHOTOS": make_photos(folder / "others", seed=5),
            "OTHER_PHOTOS_2": make_photos(folder / "more", seed=6),
        }
        self.model = make_tiny_pipeline(folder / "model")
        self.run: Run = make_tiny_run(self.root, self.model, self.photos["PHOTOS"])
        self.planned: dict[str, dict[str, Any]] = {}

        def plan_only(execution: Execution, cells: Sequence[PlannedCell]) -> list[Any]:
            for one in cells:
                manifest = jsonable(cell_manifest(one, execution.arms))
                manifest |= {"device": str(execution.arms.device), "dtype": one.dtype}
                self.planned[f"{one.arm}/{one.cell.key}"] = manifest
            return []

        monkeypatch.setattr(Execution, "run", plan_only)

    def plan(self, *commands: Sequence[str]) -> dict[str, dict[str, Any]]:
        """`arm/key` → manifest of every cell that `commands` (the words after apdm) plan."""
        self.planned = {}
        for words in commands:
            with pytest.raises(SystemExit) as ended:
                main([*words, "--out", str(self.root), "--device", "cpu"])
            assert not ended.value.code, words
        return self.planned

    def repeat(self, planned: dict[str, dict[str, Any]]) -> list[str]:
        """The commands that the report prints for those cells."""
        protected = [m for key, m in planned.items() if key.startswith("protected/")]
        return attack_commands(self.run.name, self.run.manifest, protected)

    def words(self, command: str) -> list[str]:
        """The command as a person runs it, with the photos where they lie."""
        typed = shlex.split(command, comments=True)[1:]
        return [str(self.photos.get(word, word)) for word in typed]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


Typed = Callable[[Bench], list[list[str]]]


@pytest.mark.parametrize(
    ("typed", "printed"),
    [
        (
            lambda bench: [["--plugin", "lora", "--seed", "3", "--seeds", "2"]],
            ["--plugin lora --seed 3 --seeds 2"],
        ),
        (
            lambda bench: [["--plugin", "lora", "--seed", n] for n in ("0", "1", "7")],
            ["--plugin lora --seeds 2", "--plugin lora --seed 7"],
        ),
        (
            lambda bench: [
                ["--plugin", "lora", "--plugin", "dreambooth", "--set", "lora.rank=8",
                 "--set", "lora.timestep_range=[0.1, 0.7]", "--set", "steps=9"]
            ],
            ["--plugin lora --plugin dreambooth --set steps=9 --set lora.rank=8 "
             "--set 'lora.timestep_range=[0.1, 0.7]'"],
        ),
        (
            lambda bench: [["--suite", "quick"], ["--suite", "quick", "--seed", "4"]],
            ["--suite quick", "--suite quick --seed 4"],
        ),
        (
            lambda bench: [["--suite", "full", "--photos", str(bench.photos["OTHER_PHOTOS"])]],
            ["--suite full --photos OTHER_PHOTOS"],
        ),
        (
            lambda bench: [["--suite", "quick", "--identifier", "zwx", "--transform", "blur",
                            "--transform", "flip", "--crop", "none", "--no-control"]],
            ["--plugin dreambooth --plugin lora --identifier zwx --transform blur "
             "--transform flip --crop none --no-control --budgets 1,3"],
        ),
        (
            lambda bench: [["--suite", "quick", "--crop", "none"], ["--suite", "quick"]],
            ["--suite quick", "--suite quick --crop none"],
        ),
        (
            lambda bench: [["--suite", str(bench.folder / "cut.toml")]],
            ["--plugin dreambooth", "--plugin lora --crop none"],
        ),
        (
            lambda bench: [["--suite", str(bench.folder / "mine.toml"), "--set", "steps=5"]],
            ["--plugin lora --set variant=dora --set steps=5",
             "--plugin lora --transform flip --set rank=2 --set steps=5"],
        ),
        (
            lambda bench: [
                ["--plugin", "dreambooth", "--photos", str(bench.photos[name])]
                for name in ("OTHER_PHOTOS", "OTHER_PHOTOS_2")
            ] + [["--plugin", "dreambooth", "--subject-class", "dog"]],
            ["--plugin dreambooth --photos OTHER_PHOTOS",
             "--plugin dreambooth --photos OTHER_PHOTOS_2",
             "--plugin dreambooth --subject-class dog"],
        ),
        (
            lambda bench: [["--plugin", "lora", "--plugin", "adaptive-lr", "--budgets", ".5,1,3"]],
            ["--plugin lora --plugin adaptive-lr --budgets 0.5,1,3"],
        ),
        (
            lambda bench: [["--suite", "quick", "--budgets", "1,2"]],
            ["--plugin dreambooth --plugin lora --budgets 1,2"],
        ),
        (
            lambda bench: [["--suite", "quick", "--images", "8", "--sampler-steps", "5"]],
            ["--suite quick --images 8 --sampler-steps 5"],
        ),
        (
            lambda bench: [["--suite", "quick", "--dtype", dtype] for dtype in ("bf16", "fp32")]
            + [["--plugin", "adaptive-lr", "--dtype", "fp16"]],
            ["--suite quick", "--suite quick --dtype bf16", "--plugin adaptive-lr --dtype fp16"],
        ),
    ],
    ids=["seeds", "seeds-apart", "settings", "suite", "full", "words", "crop", "crops",
         "own-suite", "photos",
         "budgets", "suite-budgets", "pictures", "precision"],
)  # fmt: skip
def test_the_printed_commands_plan_the_same_cells(
    typed: Typed, printed: list[str], bench: Bench
) -> None:
    (bench.folder / "mine.toml").write_text(SUITE)
    (bench.folder / "cut.toml").write_text(CUT)
    asked = bench.plan(*(["attack", "run", *words] for words in typed(bench)))
    commands = bench.repeat(asked)
    assert commands == [f"apdm attack run {words}" for words in printed]
    again = bench.plan(*map(bench.words, commands))
    assert set(again) == set(asked) and asked
    for key, manifest in asked.items():
        assert again[key]["asked"]["budgets"] == manifest["asked"]["budgets"]
    assert str(bench.folder) not in " ".join(commands), "where photos lie is never printed"


def test_what_was_computed_on_a_card_in_float32_was_asked_for(bench: Bench) -> None:
    asked = bench.plan(["attack", "run", "--plugin", "lora"])
    for manifest in asked.values():
        manifest["device"] = "cuda:0"
    assert bench.repeat(asked) == ["apdm attack run --plugin lora --dtype fp32"]


def test_a_part_of_a_suite_is_not_called_the_suite(bench: Bench) -> None:
    asked = bench.plan(["attack", "run", "--suite", "quick"])
    part = {key: m for key, m in asked.items() if m["attack"] == "lora"}
    assert bench.repeat(part) == ["apdm attack run --plugin lora --budgets 1,3"]


def test_a_shipped_suite_with_crops_of_its_own_is_called_by_its_name(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = bench.folder / "shipped"
    shipped.mkdir()
    (shipped / "cut.toml").write_text(CUT)
    monkeypatch.setattr(suites, "_folder", lambda: shipped)
    for words in ("--suite cut", "--suite cut --crop center"):
        asked = bench.plan(["attack", "run", *words.split()])
        assert bench.repeat(asked) == [f"apdm attack run {words}"]


def test_a_model_protected_elsewhere_is_attacked_by_its_folder(bench: Bench) -> None:
    words = ["attack", "--model", str(bench.run.model), "--original", str(bench.model),
             "--photos", str(bench.photos["PHOTOS"]), "--subject-class", "dog",
             "--plugin", "lora"]  # fmt: skip
    asked = bench.plan(words)
    (bench.run,) = (run for run in Run.all(bench.root) if "external" in run.manifest)
    (command,) = bench.repeat(asked)
    assert command == (
        "apdm attack --model model --original model --photos PHOTOS --subject-class dog "
        "--plugin lora"
    )


def test_a_cell_of_an_older_version_says_what_is_certain_and_that_it_is_older(
    bench: Bench,
) -> None:
    asked = bench.plan(["attack", "run", "--plugin", "lora", "--set", "rank=2", "--seed", "4"])
    for manifest in asked.values():
        del manifest["asked"]
    (command,) = bench.repeat(asked)
    assert command == (
        "apdm attack run --plugin lora --seed 4 "
        "# an older run, which did not keep its settings: rank=2"
    )
    asked = bench.plan(["attack", "run", "--plugin", "lora"])
    for manifest in asked.values():
        del manifest["asked"]
    assert bench.repeat(asked) == ["apdm attack run --plugin lora"], "nothing was set"


@pytest.mark.parametrize(
    "value",
    [1, 0.5, 1e-4, True, None, "word", "two words", "8", "true", "1e-4", "", " x", "a=b#c",
     [0.0, 0.6], ["a", "b, c"], [[1, 2], ["x"]]],
)  # fmt: skip
def test_every_value_survives_being_printed(value: Any) -> None:
    read = parse_assignments([assignment("a.b", value)])["a"]["b"]
    assert read == ("none" if value is None else value)
    assert type(read) is type(value) or value is None


def test_evaluate_is_repeated_as_it_was_asked(tmp_path: Path) -> None:
    from apdm_cli.report.evaluated import open_runs
    from apdm_cli.report.provenance import provenance
    from tests.report.synthetic import make_run

    folder = make_run(tmp_path)
    file = folder / "evaluation" / "scores.json"
    scores = json.loads(file.read_text())
    scores["asked"] = {
        "metrics": ["dino", "fid"], "class_images": 16, "neighbours": ["/home/secret/ann"],
        "weights": {"dino": "/home/secret/dino-vits16"}, "captions": "/home/secret/captions.txt",
        "plugin_files": ["mine.py"], "photos": ["/home/secret/moved"],
    }  # fmt: skip
    scores["sampler"] = {"sampler": "pndm", "steps": 7, "guidance": 2.5, "seed": 3}
    scores["prompts"] = {"set": "/home/secret/mine.txt", "n": 12, "texts": []}
    file.write_text(json.dumps(scores))
    commands = provenance(open_runs(tmp_path, [])[0], [], ["work>=3"], 0.6).commands
    assert commands[1] == (
        "apdm evaluate photos-person --metrics dino,fid --weights dino=dino-vits16 "
        "--photos PHOTOS --neighbours PHOTOS_OF_SOMEBODY_ELSE --plugin-file mine.py "
        "--captions captions.txt --prompts mine.txt "
        "--images 12 --class-images 16 --sampler pndm --steps 7 --guidance 2.5 --seed 3"
    )
    assert commands[2] == "apdm compare photos-person --likeness 0.6 --require 'work>=3'"


@pytest.mark.parametrize(
    ("scored", "said"),
    [
        ({"dtype": "bfloat16"}, " --dtype bf16"),
        ({"dtype": "float32", "asked": {"dtype": "fp32"}}, " --dtype fp32"),
        ({"dtype": "float32"}, ""),
        ({}, ""),
    ],
)
def test_evaluate_is_repeated_in_its_precision(
    scored: dict[str, Any], said: str, tmp_path: Path
) -> None:
    from apdm_cli.report.evaluated import open_runs
    from apdm_cli.report.provenance import provenance
    from tests.report.synthetic import make_run

    file = make_run(tmp_path) / "evaluation" / "scores.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **scored}))
    command = provenance(open_runs(tmp_path, [])[0], [], []).commands[1]
    assert command.endswith(f" --steps 20 --guidance 3.0{said}")


def test_protect_is_repeated_with_what_its_preset_says_otherwise(tmp_path: Path) -> None:
    from apdm_cli.report.evaluated import open_runs
    from apdm_cli.report.provenance import provenance
    from tests.report.synthetic import make_run

    folder = make_run(tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest |= {"low_memory": True, "seed": 2}
    manifest["configuration"] = {"timestep_range": [0.1, 0.4], "path": {"batch_size": 7}}
    manifest["subject"]["photos"]["crop"] = "none"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (run,) = open_runs(tmp_path, [])
    assert provenance(run, [], []).commands[0] == (
        "apdm protect PHOTOS --class person --name photos-person --preset pocket --crop none "
        "--seed 2 --memory low --set 'timestep_range=[0.1, 0.4]' --set path.batch_size=7"
    )
    (folder / "manifest.json").write_text(json.dumps(manifest | {"dtype": "bfloat16"}))
    (run,) = open_runs(tmp_path, [])
    assert " --seed 2 --dtype bf16 --memory low " in provenance(run, [], []).commands[0]
    (folder / "manifest.json").write_text(json.dumps(manifest | {"preset": "forgotten"}))
    (run,) = open_runs(tmp_path, [])
    assert "# this version of apdm has no preset forgotten" in provenance(run, [], []).commands[0]
