"""`apdm compare` from the outside: exit codes, what goes to stdout, which files appear."""

from __future__ import annotations

import json
import os
import webbrowser
from pathlib import Path

import pytest

from apdm_cli.cli import main as cli
from tests.report.synthetic import make_run


def run(root: Path, *arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(["compare", *arguments, "--out", str(root)])
    code = ended.value.code
    assert code is None or isinstance(code, int)
    return code or 0


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_run(tmp_path / "runs", pictures=2)
    return tmp_path / "runs"


def test_the_default_run_gets_its_three_files(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(root) == 0
    for name in ("comparison.json", "contact_sheet.png", "report.html"):
        assert (root / "photos-person" / name).stat().st_size > 1000
    shown = capsys.readouterr().out
    assert "worst case" in shown and "report.html" in shown and "strongest of 4 attacks" in shown


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_likeness_is_a_number(
    value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["compare", "--likeness", value, "--out", str(tmp_path)])
    assert ended.value.code == 2
    assert f"--likeness {value} is no similarity" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("required", "code"),
    [
        (["worst.dino<=0.35"], 0),
        (["worst.dino<=0.35", "utility.fid<=10"], 0),
        (["worst.dino<=0.35", "worst.dino<=0.3"], 3),
        (["worst.clip-t<=0.3"], 3),
        (["worst.dino=<0.3"], 2),
    ],
)
def test_exit_codes(
    root: Path, required: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [word for text in required for word in ("--require", text)]
    assert run(root, *options) == code
    captured = capsys.readouterr()
    if code == 3:
        assert f"✗ {required[-1]} does not hold" in captured.out
    if code == 2:
        assert "column 11" in captured.err and "^" in captured.err
        assert not (root / "photos-person" / "report.html").exists()


def test_json_is_the_file_and_nothing_else(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, "--json", "--require", "worst.dino<=0.3") == 3
    captured = capsys.readouterr()
    data = json.loads(captured.out)
    assert data == json.loads((root / "photos-person" / "comparison.json").read_text())
    assert data["requirements"][0]["held"] is False
    assert "does not hold" in captured.err


def test_markdown_csv_and_a_copy_of_the_report(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, page = tmp_path / "t.csv", tmp_path / "copy.html"
    assert run(root, "--markdown", "--csv", str(table), "--html", str(page)) == 0
    assert capsys.readouterr().out.startswith("### apdm: photos-person\n")
    assert table.read_text().startswith("run,subject,role,")
    assert page.read_bytes() == (root / "photos-person" / "report.html").read_bytes()


def test_a_place_that_cannot_be_written_costs_no_comparison(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apdm_cli.report.assemble.compare_runs", None)  # nothing is compared
    for option, name in (("--csv", "table.csv"), ("--html", "page.html")):
        assert run(root, option, str(tmp_path / "nowhere" / name)) == 1
        said = " ".join(capsys.readouterr().err.split())
        assert f"{name} cannot be written: the folder" in said and "does not exist" in said
    monkeypatch.setattr(os, "access", lambda folder, mode: Path(folder) != root / "photos-person")
    assert run(root) == 1
    said = capsys.readouterr().err
    assert "comparison.json cannot be written: Permission denied" in " ".join(said.split())
    assert not (root / "photos-person" / "report.html").exists()


def test_json_and_markdown_together_are_a_usage_error(root: Path) -> None:
    assert run(root, "--json", "--markdown") == 2


def test_several_runs_leave_their_own_reports_alone(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(root, "other", subject="dog-3", pictures=1)
    assert run(root, "photos-person", "other", "--require", "worst.dino<=0.35") == 0
    captured = capsys.readouterr()
    assert "different subjects" in captured.err
    assert captured.out.count("✓ ") == 2  # each run is held to it
    assert not (root / "other" / "report.html").exists()
    (page,) = root.glob("_comparisons/*/report.html")
    assert page.parent.name == "photos-person-other"


def test_no_scores_is_one_short_message(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "photos-person" / "evaluation" / "scores.json").unlink()
    assert run(root) == 1
    assert "apdm evaluate photos-person" in capsys.readouterr().err


def test_photos_that_are_gone_leave_nothing_half_written(root: Path) -> None:
    assert run(root, "--include-photos") == 1
    assert not (root / "photos-person" / "report.html").exists()


class Browser:
    """Stands for the user's browser; `takes` is whether it opens anything."""

    def __init__(self, takes: bool = True) -> None:
        self.takes = takes
        self.seen: list[str] = []

    def open(self, url: str) -> bool:
        self.seen.append(url)
        return self.takes


@pytest.fixture
def browser(monkeypatch: pytest.MonkeyPatch) -> Browser:
    found = Browser()
    monkeypatch.setattr(webbrowser, "get", lambda: found)
    monkeypatch.delenv("CI", raising=False)
    return found


def test_open_shows_the_report_in_the_browser(root: Path, browser: Browser) -> None:
    assert run(root) == 0
    assert browser.seen == []
    assert run(root, "--open") == 0
    assert browser.seen == [(root / "photos-person" / "report.html").as_uri()]


def test_open_says_why_it_did_not(
    root: Path,
    browser: Browser,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    browser.takes = False
    assert run(root, "--open") == 0
    assert "did not take it" in capsys.readouterr().err

    def none() -> Browser:
        raise webbrowser.Error("could not locate runnable browser")

    monkeypatch.setattr(webbrowser, "get", none)
    assert run(root, "--open", "--markdown") == 0
    assert "no browser was found" in capsys.readouterr().err


@pytest.mark.parametrize(("ci", "opened"), [("true", 0), ("1", 0), ("", 1), ("false", 1)])
def test_ci_opens_no_browser(
    root: Path,
    browser: Browser,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    ci: str,
    opened: int,
) -> None:
    monkeypatch.setenv("CI", ci)
    assert run(root, "--open") == 0
    assert len(browser.seen) == opened
    assert ("in CI" in capsys.readouterr().err) == (not opened)


def test_a_program_that_reads_json_gets_no_browser(root: Path, browser: Browser) -> None:
    assert run(root, "--json", "--open") == 2
    assert browser.seen == []
