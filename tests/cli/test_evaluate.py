"""`apdm evaluate` from the shell: options that cannot be meant, and what it prints."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from apdm_cli.cli.evaluate_answer import say_what_is_next
from apdm_cli.cli.evaluate_checks import check_attacked
from apdm_cli.cli.main import main
from apdm_cli.errors import ApdmError
from apdm_cli.runs.manifest import write_json_atomic
from tests.evaluation.material import Bench
from tests.made_runs import make_run


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    bench = Bench(tmp_path_factory.mktemp("bench"))
    bench.cell("original", "dreambooth-000000000001")
    bench.cell("protected", "dreambooth-000000000002", control="dreambooth-000000000001")
    return bench


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *map(str, arguments)])
    return int(ended.value.code or 0)


def quick(bench: Bench) -> list[str | Path]:
    return [
        "--out", bench.root, "--images", "2", "--class-images", "2", "--steps", "1",
        "--sampler", "ddim", "--device", "cpu", "--weights", f"pocket-vit={bench.vit}",
    ]  # fmt: skip


def test_json_is_all_that_stdout_holds(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--json", "--metrics", "dino,fid", *quick(bench)) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["run"] == "run"
    assert {row["role"] for row in result["rows"]} == {"attack", "utility", "floor", "ceiling"}
    assert json.loads((bench.run.evaluation / "scores.json").read_text()) == result


def test_the_tables_name_the_extractor_and_the_next_command(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("run", "--metrics", "dino,fid,clip-t", *quick(bench)) == 1
    shown = capsys.readouterr()
    assert "dino[pocket-vit]" in shown.out
    assert "fid[pocket]" in shown.out
    assert "floor: class pictures, no attack" in shown.out
    assert "not scored: clip-t" in shown.out
    assert f"apdm compare run --out {bench.root}" in shown.out
    assert "clip-t is left out" in shown.err
    assert "Not everything that was asked for is there: the metric clip-t." in shown.err


def test_a_run_that_is_named_by_its_folder_has_its_control_beside_it(
    bench: Bench,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(bench.run.path, "--json", "--metrics", "dino", *quick(bench)[2:]) == 0
    arms = {row["arm"] for row in json.loads(capsys.readouterr().out)["rows"] if row["cell"]}
    assert arms == {"original", "protected"} and not list(tmp_path.iterdir())


def test_scores_keep_which_plugin_files_they_were_made_with(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from apdm_cli.plugin import hookimpl\n@hookimpl\ndef apdm_metrics():\n    return []\n"
    )
    options = ["--metrics", "dino", "--plugin-file", str(file), "--json", *quick(bench)]
    assert run("run", *options) == 0
    assert json.loads(capsys.readouterr().out)["asked"]["plugin_files"] == ["mine.py"]


def test_metrics_that_were_not_asked_for_by_name_may_be_missing(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("run", "--metrics", "auto", "--json", *quick(bench)) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["unavailable"] and "asked for" not in printed.err


def test_what_is_left_out_is_named_at_the_end_and_by_the_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cell that says that it failed, one without an artifact, and captions without an original.

    Everything else is scored and written, and --json stays the answer alone.
    """
    made = Bench(tmp_path)
    made.cell("protected", "dreambooth-000000000002")
    made.cell("protected", "lora-000000000003", status="failed")
    shutil.rmtree(made.cell("protected", "lora-000000000004") / "artifact")
    manifest = made.run.path / "manifest.json"
    write_json_atomic(manifest, {**json.loads(manifest.read_text()), "model": None})
    captions = tmp_path / "captions.txt"
    captions.write_text("a red hat\n")
    options = [*quick(made), "--metrics", "dino", "--captions", captions]
    assert run("run", "--json", *options) == 1
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert json.loads((made.run.evaluation / "scores.json").read_text()) == result
    assert [row["cell"] for row in result["rows"] if row["role"] == "attack"] == [
        "dreambooth-000000000002"
    ]
    missing = ["the captions", "lora-000000000003", "lora-000000000004"]
    assert [one["cell"] for one in result["left_out"]] == missing
    assert f"Not everything that was asked for is there: {', '.join(missing)}." in printed.err
    assert run("run", *options) == 1
    assert "Next: apdm compare run" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "0"], "--images"),
        (["--metrics", "dinno"], "Did you mean dino?"),
        (["--weights", "dino"], "expected NAME=PATH"),
        (["--weights", "dinno=x"], "no backend has this name"),
        (["--weights", "fid=x"], "--weights fid: no backend has this name"),
        (["--weights", "dino=./nowhere"], "--weights dino=./nowhere: ./nowhere does not exist."),
        (["--prompts", "identiy"], "Did you mean identity?"),
        (["--captions", "/nowhere.txt"], "--captions /nowhere.txt"),
        (["--sampler", "euler"], "sampler"),
        (["--batch-size", "many"], "expected a whole number from 1, or auto"),
    ],
)
def test_bad_options_exit_2_and_say_what_was_meant(
    arguments: list[str], message: str, bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--out", bench.root, *arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_the_name_of_a_run_is_quoted_where_a_shell_would_split_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make_run(tmp_path, "my run")
    say_what_is_next(made, [], tmp_path)
    assert capsys.readouterr().out == f"Next: apdm compare 'my run' --out {tmp_path}\n"
    with pytest.raises(ApdmError) as raised:
        check_attacked([made], tmp_path)
    assert raised.value.hint.count("'my run' ") == 2


def test_no_run_says_how_to_make_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--out", tmp_path) == 1
    assert "apdm protect" in capsys.readouterr().err
    assert run("nobody", "--out", tmp_path) == 1
    assert "nobody" in capsys.readouterr().err


def test_before_any_attack_it_says_so_instead_of_drawing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh = Bench(tmp_path)
    assert run("run", *quick(fresh)) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "was not attacked yet" in said
    assert f"apdm attack run --plugin dreambooth --out {fresh.root}" in said
    assert f"apdm evaluate run --utility-only --out {fresh.root}" in said
    assert not (fresh.run.evaluation / "scores.json").exists()
    assert not list(fresh.root.rglob("*.png"))
    assert run("run", "--utility-only", "--metrics", "dino,fid", *quick(fresh)) == 0
    shown = capsys.readouterr().out
    assert "Next: apdm attack run --plugin dreambooth" in shown
    assert shown.startswith("No attack was scored, so nothing is said about the protection.")


def test_the_answer_comes_first_and_narrow_tables_keep_words_whole(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apdm_cli.cli.evaluate_answer.stdout", Console(width=80))
    monkeypatch.setattr("apdm_cli.cli.guide.stdout", Console(width=80))
    assert run("run", "--metrics", "dino,fid,same-seed,diversity", *quick(bench)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.match(r"(An attacker|The protection|No effect|Nothing)", lines[0])
    heading = next(line for line in lines if " Model " in line)
    assert {"Model", "n", "dino"} <= set(heading.split()) and "[" not in heading
    assert "dino is dino[pocket-vit]" in " ".join(lines)
    tables = lines[: next(n for n, line in enumerate(lines) if line.startswith("Scores:"))]
    assert max(map(len, tables)) <= 80


def test_cells_of_one_name_are_told_apart_by_their_settings(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apdm_cli.cli.evaluate_answer.stdout", Console(width=120))
    for steps in (100, 300):
        bench.cell("original", f"original-{steps}", configuration={"steps": steps})
        told = {"configuration": {"steps": steps}, "control": f"original-{steps}"}
        bench.cell("protected", f"protected-{steps}", **told)
    assert run("run", "--metrics", "dino", *quick(bench)) == 0
    shown = capsys.readouterr().out
    for steps in (100, 300):
        assert re.search(rf"^dreambooth, steps={steps} +protected", shown, re.MULTILINE)
