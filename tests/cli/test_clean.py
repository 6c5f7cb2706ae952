"""`apdm clean`: what goes, what never goes, and that it asks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from apdm_cli.cli.clean import MOST_SHOWN
from apdm_cli.cli.main import build_app
from apdm_cli.errors import ApdmError, UsageError
from apdm_cli.runs.cleaning import plan, remove
from apdm_cli.runs.disk import format_bytes, tree_size
from apdm_cli.runs.lock import FolderLock, holding
from tests.made_runs import (
    ARTIFACT_BYTES,
    PICTURE_BYTES,
    add_attack,
    interrupt_attack,
    make_run,
    write,
)


def invoke(root: Path, *arguments: str) -> Any:
    return CliRunner().invoke(
        build_app({"clean"}), ["clean", *arguments, "--out", str(root)], catch_exceptions=False
    )


def cleaned(root: Path, *arguments: str) -> dict[str, Any]:
    result = invoke(root, *arguments, "--json", "--yes")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_whole_run_goes_with_the_controls_that_nobody_else_needs(tmp_path: Path) -> None:
    ann, bob = make_run(tmp_path, "ann"), make_run(tmp_path, "bob")
    add_attack(ann, "lora-1", control="lora-shared")
    add_attack(ann, "heal-1", control="heal-own")
    add_attack(bob, "lora-2", control="lora-shared")
    before = tree_size(tmp_path)
    said = cleaned(tmp_path, "ann")
    assert not ann.path.exists() and bob.path.exists()
    assert sorted(path.name for path in (tmp_path / "_control").iterdir()) == ["lora-shared"]
    assert said["freed_bytes"] == said["bytes"] == before - tree_size(tmp_path)
    assert said["kept"] == ["1 attack on the original that other runs need"]
    assert not list(tmp_path.glob(".tmp-*"))


def test_controls_go_with_the_last_run_that_needs_them(tmp_path: Path) -> None:
    for name in ("ann", "bob"):
        add_attack(make_run(tmp_path, name), "lora-1", control="lora-shared")
    cleaned(tmp_path, "ann", "bob")
    assert not any((tmp_path / "_control").iterdir())


def test_a_control_stays_for_a_run_whose_attack_was_interrupted(tmp_path: Path) -> None:
    """Its control arm ran first, and nothing says yet that the other arm refers to it."""
    add_attack(make_run(tmp_path, "ann"), "lora-1", control="lora-0")
    interrupt_attack(make_run(tmp_path, "bob"), "lora-2")
    interrupt_attack(make_run(tmp_path, "other-model", digest="b" * 64), "lora-3")
    cleaned(tmp_path, "ann")
    assert (tmp_path / "_control" / "lora-0").is_dir()
    cleaned(tmp_path, "bob")
    assert (tmp_path / "_control" / "lora-0").is_dir()  # nobody names it any more: an orphan
    said = cleaned(tmp_path, "--orphans")
    assert [Path(one["path"]).name for one in said["removable"]] == ["lora-0"]
    assert not (tmp_path / "_control" / "lora-0").exists()


def test_orphans_are_attacks_on_originals_that_no_run_needs(tmp_path: Path) -> None:
    ann, bob = make_run(tmp_path, "ann"), make_run(tmp_path, "bob", digest="b" * 64)
    add_attack(ann, "lora-1", control="lora-0")
    add_attack(bob, "heal-1", control="heal-0")
    add_attack(bob, "heal-2", control="heal-9")
    shutil.rmtree(bob.attacks / "heal-1")
    (tmp_path / "_control" / "rounds-3.partial").mkdir()
    said = cleaned(tmp_path, "--orphans")
    # What is unfinished may still be gone on with, as long as there are runs.
    assert [Path(one["path"]).name for one in said["removable"]] == ["heal-0"]
    left = sorted(path.name for path in (tmp_path / "_control").iterdir())
    assert left == ["heal-9", "lora-0", "rounds-3.partial"]
    assert said["freed_bytes"] > ARTIFACT_BYTES + PICTURE_BYTES
    shutil.rmtree(ann.path)
    shutil.rmtree(bob.path)
    cleaned(tmp_path, "--orphans")
    assert not any((tmp_path / "_control").iterdir())
    assert cleaned(tmp_path, "--orphans")["removable"] == []


def test_orphans_stay_while_anybody_works(tmp_path: Path) -> None:
    """An attack's control arm runs first: until the other one begins, nobody names it."""
    run = make_run(tmp_path, "ann")
    shutil.rmtree(add_attack(run, "lora-1", control="lora-0"))
    lock = FolderLock(interrupt_attack(run, "heal-1"))
    with pytest.raises(ApdmError, match="Another apdm process"):
        invoke(tmp_path, "--orphans", "--yes")
    lock.release()
    assert cleaned(tmp_path, "--orphans")["removable"] == []  # it may go on, and need it


@pytest.mark.parametrize("more", [["ann"], ["--artifacts"], ["--cache"]])
def test_orphans_stand_alone(tmp_path: Path, more: list[str]) -> None:
    make_run(tmp_path, "ann")
    with pytest.raises(UsageError, match="--orphans"):
        invoke(tmp_path, *more, "--orphans", "--yes")


def test_artifacts_go_and_scores_and_pictures_stay(tmp_path: Path) -> None:
    run = make_run(tmp_path, "ann")
    cell = add_attack(run, "lora-1", control="lora-0")
    write(run.evaluation / "scores.json", 10)
    said = cleaned(tmp_path, "ann", "--artifacts")
    assert said["freed_bytes"] == 2 * ARTIFACT_BYTES
    assert not (cell / "artifact").exists() and (cell / "manifest.json").is_file()
    assert (run.evaluation / "images" / "lora-1" / "0000.png").is_file()
    assert (run.model / "weights.safetensors").is_file()
    assert (run.evaluation / "scores.json").is_file()
    assert (tmp_path / "_control" / "lora-0" / "images").is_dir()


def test_cache_of_a_run_is_its_pictures(tmp_path: Path) -> None:
    run = make_run(tmp_path, "ann")
    cell = add_attack(run, "lora-1", control="lora-0")
    write(tmp_path / "_cache" / "latents" / "a", 50)
    said = cleaned(tmp_path, "ann", "--cache")
    assert said["freed_bytes"] == 2 * PICTURE_BYTES
    assert not (run.evaluation / "images").exists() and (cell / "artifact").is_dir()
    assert (tmp_path / "_cache" / "latents" / "a").is_file()


@pytest.mark.parametrize("at_once", [False, True])
def test_pictures_stay_that_nothing_could_draw_again(tmp_path: Path, at_once: bool) -> None:
    run = make_run(tmp_path, "ann")
    add_attack(run, "lora-1", control="lora-0")
    write(run.evaluation / "images" / "dog-pictures-protected" / "0000.png", PICTURE_BYTES)
    if at_once:
        said = cleaned(tmp_path, "ann", "--artifacts", "--cache")
    else:
        cleaned(tmp_path, "ann", "--artifacts")
        said = cleaned(tmp_path, "ann", "--cache")
    assert not list(tmp_path.rglob("artifact"))
    gone = [Path(one["path"]).name for one in said["removable"] if one["kind"] == "pictures"]
    assert gone == ["dog-pictures-protected"]
    assert [path.name for path in (run.evaluation / "images").iterdir()] == ["lora-1"]
    assert list((tmp_path / "_control" / "lora-0" / "images").rglob("*.png"))
    assert said["kept"] == [
        "the pictures of lora-1, lora-0, which only the attacked models could draw again"
    ]


def test_pictures_of_attacks_that_still_have_their_model_go(tmp_path: Path) -> None:
    run = make_run(tmp_path, "ann")
    cells = [add_attack(run, f"lora-{number}") for number in range(6)]
    for cell in cells[1:]:
        shutil.rmtree(cell / "artifact")
    said = cleaned(tmp_path, "ann", "--cache")
    assert [Path(one["path"]).name for one in said["removable"]] == ["lora-0"]
    assert "lora-1, lora-2, lora-3 and 2 more" in said["kept"][0]


def test_the_shared_cache_needs_no_run(tmp_path: Path) -> None:
    run = make_run(tmp_path, "ann")
    write(tmp_path / "_cache" / "latents" / "a", 50)
    assert cleaned(tmp_path, "--cache")["freed_bytes"] == 50
    assert not (tmp_path / "_cache").exists() and run.path.exists()


def test_nothing_goes_without_a_yes(tmp_path: Path) -> None:
    run = make_run(tmp_path, "ann")
    with pytest.raises(UsageError, match="Nothing was removed"):
        invoke(tmp_path, "ann")
    with pytest.raises(UsageError, match="--json cannot ask before"):
        invoke(tmp_path, "ann", "--json")
    assert run.path.exists()


@pytest.mark.parametrize(("answer", "goes"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_it_asks_on_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, goes: bool
) -> None:
    run = make_run(tmp_path, "ann")
    monkeypatch.setattr("apdm_cli.cli.clean._can_ask", lambda: True)
    result = CliRunner().invoke(
        build_app({"clean"}), ["clean", "ann", "--out", str(tmp_path)], input=answer
    )
    assert run.path.exists() is not goes
    assert result.exit_code == (0 if goes else 1)
    assert "  ann  " in result.stdout and "In all" in result.stdout


def test_dry_run_only_says_what_would_go(tmp_path: Path) -> None:
    run = make_run(tmp_path, "ann")
    result = invoke(tmp_path, "ann", "--dry-run", "--json")
    said = json.loads(result.stdout)
    assert (said["freed_bytes"], said["bytes"]) == (0, tree_size(run.path))
    assert run.path.exists()


def test_what_another_process_holds_stays(tmp_path: Path) -> None:
    run = make_run(tmp_path, "ann")
    cell = interrupt_attack(run, "lora-1")
    for folder in (run.path, cell):
        lock = FolderLock(folder)
        with pytest.raises(ApdmError, match="Another apdm process"):
            invoke(tmp_path, "ann", "--yes")
        lock.release()
    assert run.path.exists()
    cleaned(tmp_path, "ann")
    assert not run.path.exists()


@pytest.mark.parametrize("place", [".", "subjects/rex"])
@pytest.mark.parametrize(
    "arguments", [["ann"], ["ann", "--artifacts"], ["ann", "--cache"], ["--cache"], ["--orphans"]]
)
def test_nothing_goes_that_an_evaluation_works_with(
    tmp_path: Path, place: str, arguments: list[str]
) -> None:
    run = make_run(tmp_path, "ann")
    add_attack(run, "lora-1", control="lora-0")
    write(tmp_path / "_cache" / "a", 1)
    evaluation = run.path / place / "evaluation"
    evaluation.mkdir(parents=True, exist_ok=True)
    before = sorted(tmp_path.rglob("*"))
    refused = pytest.raises(ApdmError, match=r"Another apdm process is working in .*evaluation")
    with holding(evaluation, lambda: None), refused:
        invoke(tmp_path, *arguments, "--yes")
    assert sorted(tmp_path.rglob("*")) == before
    cleaned(tmp_path, *arguments)


def test_a_run_stays_while_somebody_attacks_an_original(tmp_path: Path) -> None:
    """Which run that is for is written down only when it is done."""
    run = make_run(tmp_path, "ann")
    control = tmp_path / "_control" / "lora-0.partial"
    control.mkdir(parents=True)
    planned = plan(tmp_path, ["ann"])
    with holding(control, lambda: None):
        with pytest.raises(ApdmError, match=r"Another apdm process .*lora-0\.partial"):
            invoke(tmp_path, "ann", "--yes")
        with pytest.raises(ApdmError, match="Another apdm process"):
            remove(planned)
    assert run.path.exists()
    cleaned(tmp_path, "ann")


@pytest.mark.parametrize("begun", [".", "ann/attacks/lora-1.partial", "ann/evaluation"])
def test_nothing_goes_that_somebody_begins_while_the_user_is_asked(
    tmp_path: Path, begun: str
) -> None:
    """`.` is held by whoever makes a run of a model that was protected elsewhere."""
    run = make_run(tmp_path, "ann")
    planned = plan(tmp_path, ["ann"])
    (tmp_path / begun).mkdir(parents=True, exist_ok=True)
    refused = pytest.raises(ApdmError, match="Another apdm process")
    with holding(tmp_path / begun, lambda: None), refused:
        remove(planned)
    assert run.path.exists()


def test_the_shared_cache_stays_while_a_worker_draws_into_it(tmp_path: Path) -> None:
    batch = tmp_path / "_cache" / ".tmp-drawing-0"
    batch.mkdir(parents=True)
    with holding(batch, lambda: None), pytest.raises(ApdmError, match="Another apdm process"):
        invoke(tmp_path, "--cache", "--yes")
    cleaned(tmp_path, "--cache")
    assert not batch.exists()


def test_the_shared_cache_stays_while_anybody_works(tmp_path: Path) -> None:
    write(tmp_path / "_cache" / "a", 1)
    lock = FolderLock(interrupt_attack(make_run(tmp_path, "ann"), "lora-1"))
    with pytest.raises(ApdmError, match="Another apdm process"):
        invoke(tmp_path, "--cache", "--yes")
    lock.release()
    assert (tmp_path / "_cache" / "a").exists()


def test_controls_stay_while_another_control_is_being_made(tmp_path: Path) -> None:
    """Whoever makes it may find the finished ones next, and count on them."""
    run = make_run(tmp_path, "ann")
    add_attack(run, "lora-1", control="lora-0")
    (tmp_path / "_control" / "heal-9.partial").mkdir()
    lock = FolderLock(tmp_path / "_control" / "heal-9.partial")
    with pytest.raises(ApdmError, match="Another apdm process"):
        invoke(tmp_path, "ann", "--yes")
    lock.release()
    assert run.path.exists() and (tmp_path / "_control" / "lora-0").exists()


def test_no_link_is_followed_out_of_the_runs(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    write(precious / "lora-1" / "artifact" / "weights", 10)
    write(precious / "manifest.json", 2)
    root = tmp_path / "runs"
    run = make_run(root, "ann")
    cell = add_attack(run, "lora-1")
    (root / "linked").symlink_to(precious)
    with pytest.raises(ApdmError, match="symbolic link"):
        invoke(root, "linked", "--yes")
    (cell / "artifact" / "weights.safetensors").unlink()
    (cell / "artifact").rmdir()
    (cell / "artifact").symlink_to(precious / "lora-1" / "artifact")
    said = cleaned(root, "ann", "--artifacts")
    assert said["freed_bytes"] == 0 and "link" in said["kept"][0]
    cleaned(root, "ann")
    assert not run.path.exists()
    assert (precious / "lora-1" / "artifact" / "weights").is_file()


def test_the_folder_of_runs_itself_may_be_a_link(tmp_path: Path) -> None:
    run = make_run(tmp_path / "disk", "ann")
    (tmp_path / "runs").symlink_to(tmp_path / "disk")
    cleaned(tmp_path / "runs", "ann")
    assert not run.path.exists()


@pytest.mark.parametrize("name", ["..", "../ann", "/etc", "", ".", "ann/attacks"])
def test_no_name_leads_out_of_the_runs(tmp_path: Path, name: str) -> None:
    root = tmp_path / "runs"
    make_run(root, "bob")
    outside = make_run(tmp_path, "ann")
    with pytest.raises(ApdmError):
        invoke(root, name, "--yes")
    assert outside.path.exists()


@pytest.mark.parametrize("name", ["_control", "_cache", "nothing"])
def test_only_runs_are_runs(tmp_path: Path, name: str) -> None:
    add_attack(make_run(tmp_path, "ann"), "lora-1", control="lora-0")
    with pytest.raises(ApdmError, match="There is no run"):
        invoke(tmp_path, name, "--yes")
    with pytest.raises(ApdmError, match=r"There is no run anne in .*\. Did you mean ann\?"):
        invoke(tmp_path, "anne", "--yes")


def test_a_run_is_found_by_its_folder_too_and_a_broken_one_goes(tmp_path: Path) -> None:
    run = make_run(tmp_path, "ann")
    (run.path / "manifest.json").write_text("{")
    cleaned(tmp_path, str(run.path))
    assert not run.path.exists()


def test_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="which runs"):
        invoke(tmp_path, "--yes")
    ann, bob = make_run(tmp_path, "ann"), make_run(tmp_path, "bob")
    write(bob.path / "more", 10_000)
    sizes = [format_bytes(tree_size(run.path)) for run in (bob, ann)]
    with pytest.raises(UsageError, match="which runs") as raised:
        invoke(tmp_path, "--artifacts", "--cache", "--yes")
    assert f"bob ({sizes[0]}), ann ({sizes[1]})" in raised.value.hint


def test_it_shows_each_kind_with_its_size_and_what_it_costs(tmp_path: Path) -> None:
    ann, bob = make_run(tmp_path, "ann"), make_run(tmp_path, "bob")
    for number in range(MOST_SHOWN + 2):
        add_attack(ann, f"lora-{number:02d}")
    add_attack(ann, "heal-1", control="heal-0")
    add_attack(bob, "heal-2", control="heal-0")

    shown = invoke(tmp_path, "ann", "--artifacts", "--dry-run").stdout
    size = format_bytes((MOST_SHOWN + 3) * ARTIFACT_BYTES)
    assert f"{MOST_SHOWN + 3} attacked models: {size}" in shown
    assert shown.count("/artifact  ") == MOST_SHOWN and "  and 3 more" in shown
    assert f"In all {size} in {tmp_path}." in shown
    assert "apdm attack --rerun" in shown and "apdm evaluate" not in shown

    shown = invoke(tmp_path, "bob", "--cache", "--dry-run").stdout
    assert f"Pictures: {format_bytes(PICTURE_BYTES)}" in shown
    assert "apdm evaluate draws the pictures again" in shown and "--rerun" not in shown

    shown = invoke(tmp_path, "ann", "--dry-run").stdout
    assert "Kept: 1 attack on the original that other runs need." in shown

    write(tmp_path / "_cache" / "latents" / "a", 50)
    shown = invoke(tmp_path, "--cache", "--yes").stdout
    assert "They are drawn again when a command needs them." in shown
    assert shown.endswith("Freed 50 bytes.\n")


def test_nothing_to_remove_is_said_and_nobody_is_asked(tmp_path: Path) -> None:
    make_run(tmp_path, "ann")
    result = invoke(tmp_path, "ann", "--artifacts")
    assert result.stdout == "There is nothing to remove.\n"


def test_a_shared_cache_that_is_a_link_or_not_there_stays_as_it_is(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    make_run(runs, "ann")
    assert cleaned(runs, "--cache")["removable"] == []
    write(tmp_path / "elsewhere" / "latents", 50)
    (runs / "_cache").symlink_to(tmp_path / "elsewhere")
    said = cleaned(runs, "--cache")
    assert said["freed_bytes"] == 0 and said["kept"] == [f"{runs / '_cache'}, which is a link"]
    assert (tmp_path / "elsewhere" / "latents").is_file()


def test_what_an_attack_no_longer_has_stops_nobody(tmp_path: Path) -> None:
    """An original's attack that is gone, and a cell whose manifest cannot be read."""
    run = make_run(tmp_path, "ann")
    add_attack(run, "lora-1", control="lora-0")
    shutil.rmtree(tmp_path / "_control" / "lora-0")
    broken = add_attack(run, "heal-1", control="heal-0")
    (broken / "manifest.json").write_text("{")
    said = cleaned(tmp_path, "ann")
    assert [row["kind"] for row in said["removable"]] == ["run"] and not run.path.exists()
    assert (tmp_path / "_control" / "heal-0").is_dir()  # nothing says any more that it was ann's
