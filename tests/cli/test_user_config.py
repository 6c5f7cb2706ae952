"""`apdm.toml`: which file counts, what it may hold, and that the command line wins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from apdm_cli.cli import main as cli
from apdm_cli.errors import UsageError
from apdm_cli.pocket.samples import SUBJECTS
from apdm_cli.user_config import load_config
from tests.made_runs import make_run


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's configuration folder and, below it, the current folder; both empty."""
    user = tmp_path / "config" / "apdm"
    user.mkdir(parents=True)
    (tmp_path / "here").mkdir()
    monkeypatch.setattr("apdm_cli.user_config.config_folder", lambda: user)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("APDM_CONFIG")
    return user


def run_main(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def test_out_is_taken_from_the_file_and_the_command_line_wins(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(home / "mine", "ann")
    make_run(Path("other"), "bob")
    (home / "apdm.toml").write_text('out = "mine"\n')
    _, out, _ = run_main(capsys, "runs", "--json")
    assert [row["name"] for row in json.loads(out)["runs"]] == ["ann"]
    _, out, _ = run_main(capsys, "runs", "--json", "--out", "other")
    assert [row["name"] for row in json.loads(out)["runs"]] == ["bob"]


def test_the_nearer_file_wins_key_by_key(home: Path) -> None:
    (home / "here.txt").write_text("")
    (home / "dino").mkdir()
    Path("fid.pth").write_bytes(b"")
    (home / "apdm.toml").write_text(
        'device = "cpu"\ndtype = "fp32"\n[weights]\ndino = "dino"\nclip = "ViT-L-14:openai"\n'
    )
    Path("apdm.toml").write_text('dtype = "bf16"\n[weights]\ninception = "fid.pth"\n')
    config = load_config()
    assert (config.values.device, config.values.dtype) == ("cpu", "bf16")
    assert config.values.weights == {
        "dino": str(home / "dino"),
        "clip": "ViT-L-14:openai",
        "inception": str(Path.cwd() / "fid.pth"),
    }
    assert config.origin["device"] == home / "apdm.toml"
    assert config.origin["dtype"] == Path.cwd() / "apdm.toml"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("devise = 'cpu'", "devise"),
        ("device = 3.5.1", "TOML"),
        ("dtype = 'fp8'", "dtype"),
        ("weights = 'all'", "weights"),
        ("weights = { dino = './nowhere' }", "nowhere"),
    ],
)
def test_a_mistake_names_its_file(home: Path, content: str, says: str) -> None:
    (home / "apdm.toml").write_text(content)
    with pytest.raises(UsageError, match=says) as caught:
        load_config()
    assert str(home / "apdm.toml") in caught.value.what


def test_a_broken_file_stops_commands_but_neither_help_nor_version(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("apdm.toml").write_text("devise = 'cpu'")
    code, _, err = run_main(capsys, "runs")
    assert code == 2 and "apdm.toml: devise: unknown setting" in err and "device" in err
    assert run_main(capsys, "--help")[0] == 0
    assert run_main(capsys, "--version")[0] == 0


def test_an_error_about_an_option_says_that_a_file_set_it(
    home: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    Path("apdm.toml").write_text('device = "cuda:99"\n')
    make_run(Path("runs"), "ann", photos=SUBJECTS / "person-1" / "seen")
    code, _, err = run_main(capsys, "evaluate", "ann", "--utility-only")
    assert code == 2 and f"--device comes from {Path.cwd() / 'apdm.toml'}." in err


def test_the_variable_names_one_file_or_none(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (home / "apdm.toml").write_text('device = "cpu"\n')
    (tmp_path / "mine.toml").write_text('dtype = "fp32"\n')
    monkeypatch.setenv("APDM_CONFIG", str(tmp_path / "mine.toml"))
    assert (load_config().values.device, load_config().values.dtype) == (None, "fp32")
    monkeypatch.setenv("APDM_CONFIG", "")
    assert load_config().values.dtype is None
    monkeypatch.setenv("APDM_CONFIG", str(tmp_path / "gone.toml"))
    with pytest.raises(UsageError, match=r"APDM_CONFIG.*gone\.toml"):
        load_config()
