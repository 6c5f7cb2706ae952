"""The CI benchmark's file speaks the commands' language, and its runner passes exit codes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from apdm_cli.cli.main import build_app
from apdm_cli.config import read_toml, resolve
from apdm_cli.errors import UsageError
from apdm_cli.pocket import samples
from apdm_cli.report.requirement import parse
from benchmarks import ci
from tests.report.synthetic import make_run

CONFIG = Path(ci.__file__).with_name("ci.toml")


@pytest.fixture
def benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ci.Benchmark:
    """ci.toml, with packaged samples that need not be there."""
    for name in ("person-1", "person-2"):
        (tmp_path / "subjects" / name / "seen").mkdir(parents=True)
        (tmp_path / "subjects" / name / "unseen").mkdir()
    monkeypatch.setattr(samples, "SUBJECTS", tmp_path / "subjects")
    return resolve(ci.Benchmark, read_toml(CONFIG))


def test_every_command_takes_the_options_of_its_table(
    benchmark: ci.Benchmark, tmp_path: Path
) -> None:
    parsers = getattr(typer.main.get_command(build_app()), "commands")  # noqa: B009
    wanted = ci.commands(benchmark, tmp_path)
    assert [arguments[0] for arguments in wanted] == [
        "protect", "attack", "attack", "evaluate", "compare",
    ]  # fmt: skip
    for name, *arguments in wanted:
        parsers[name].make_context(name, list(arguments))  # raises on an unknown option
        assert arguments[-2:] == ["--out", str(tmp_path)]


def test_the_bars_can_be_parsed(benchmark: ci.Benchmark) -> None:
    bars = [parse(text) for text in benchmark.compare["require"]]
    assert {bar.scope for bar in bars} >= {"dreambooth", "floor", "mean"}


def test_options_from_a_table() -> None:
    table = {"images": 16, "set": {"a": {"b": 1}, "c": 0.5}, "seed": 0, "metrics": ["x", "y"]}
    assert ci.options(table) == [
        "--images", "16", "--set", "a.b=1", "--set", "c=0.5", "--seed", "0",
        "--metrics", "x", "--metrics", "y",
    ]  # fmt: skip
    assert ci.options({"no_control": True, "rerun": False}) == ["--no-control"]


def test_an_unknown_table_is_an_error() -> None:
    with pytest.raises(UsageError, match="evalute"):
        resolve(ci.Benchmark, {"protect": {"name": "x"}, "attack": [], "evalute": {}})


@pytest.mark.parametrize(("bar", "code"), [("worst.dino<=0.35", 0), ("worst.dino<=0.3", 3)])
def test_bars_decide_the_exit_code_and_the_summary_is_written_either_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bar: str, code: int
) -> None:
    make_run(tmp_path / "runs", "ci", pictures=1)
    calls: list[str] = []
    real = ci.call

    def only_compare(arguments: list[str]) -> int:
        calls.append(arguments[0])
        return real(arguments) if arguments[0] == "compare" else 0

    monkeypatch.setattr(ci, "call", only_compare)
    benchmark = ci.Benchmark(
        protect={"name": "ci", "photos": []}, attack=({},), compare={"require": [bar]}
    )
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    assert ci.run(benchmark, tmp_path / "runs", summary) == code
    assert calls == ["attack", "evaluate", "compare"]  # the run is done: not protected again
    assert summary.read_text().startswith("before\n### apdm: ci")
    assert f"`{bar}`" in summary.read_text()


def test_a_command_that_fails_stops_the_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def fail_at_evaluate(arguments: list[str]) -> int:
        calls.append(arguments[0])
        return 1 if arguments[0] == "evaluate" else 0

    monkeypatch.setattr(ci, "call", fail_at_evaluate)
    benchmark = ci.Benchmark(protect={"name": "ci", "photos": []}, attack=({},))
    assert ci.run(benchmark, tmp_path) == 1
    assert calls == ["protect", "attack", "evaluate"]
