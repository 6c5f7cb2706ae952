"""A run's folder tells how far it got, and no run writes over another."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from apdm_cli.errors import ApdmError, UsageError
from apdm_cli.runs import run as run_module
from apdm_cli.runs.atomic import write_bytes_atomic
from apdm_cli.runs.cells import Cell
from apdm_cli.runs.manifest import MANIFEST, read_manifest
from apdm_cli.runs.names import check_name, default_name, slug
from apdm_cli.runs.run import DONE, FAILED, RUNNING, Run, free_name, require_free


def test_a_run_begins_running_and_ends_done(tmp_path):
    run = Run.create(tmp_path / "runs", "ann", seed=3, photos=[{"name": "0.jpg", "sha256": "ab"}])
    written = read_manifest(run.path)
    assert (written["status"], written["seed"], written["kind"]) == (RUNNING, 3, "protect")
    assert written["versions"]["apdm"]
    run.finish(summary={"loss": 0.5})
    again = Run.open(tmp_path / "runs", "ann")
    assert again.status == DONE and again.manifest["summary"] == {"loss": 0.5}
    assert again.manifest["finished"] > again.manifest["created"]
    assert again.manifest == run.manifest


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_run_is_for_its_owner_alone(tmp_path, umask):
    """Its attacked models can show the subject; whatever the umask, and however it was begun."""
    (tmp_path / "empty").mkdir(mode=0o755)
    before = os.umask(umask)
    try:
        folders = [Run.create(tmp_path, name).path for name in ("ann", "empty")]
        old = Run.create(tmp_path, "old")
        old.release()
        old.path.chmod(0o755)  # as an earlier version made it
        Run.open(tmp_path, "old").resume()
        cell = Cell(tmp_path / "ann" / "attacks", "key")
        folders += [old.path, cell.begin(), cell.finish()]
    finally:
        os.umask(before)
    for folder in folders:
        if folder.exists():  # the cell's was renamed
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder


def test_a_failed_run_keeps_the_reason_until_it_is_resumed(tmp_path):
    run = Run.create(tmp_path, "ann")
    run.fail(ApdmError("loss is NaN (dpo)"))
    again = Run.open(tmp_path, "ann")
    assert again.status == FAILED and "NaN" in again.manifest["error"]
    again.resume()
    assert read_manifest(again.path)["status"] == RUNNING
    assert "error" not in read_manifest(again.path)
    again.finish()


def test_done_is_the_end(tmp_path):
    run = Run.create(tmp_path, "ann")
    run.finish()
    with pytest.raises(ApdmError, match="nothing to resume"):
        run.resume()
    for change in (run.finish, lambda: run.fail("x"), run.discard):
        with pytest.raises(ValueError, match="is done"):
            change()
    assert read_manifest(run.path)["status"] == DONE


@pytest.mark.parametrize(
    ("end", "offers_resume"), [("finish", False), ("kill", True), ("fail", True)]
)
def test_an_existing_run_is_refused(tmp_path, end, offers_resume):
    run = Run.create(tmp_path, "ann", seed=1)
    {"finish": run.finish, "fail": lambda: run.fail("x"), "kill": run.release}[end]()
    before = (run.path / MANIFEST).read_bytes()
    with pytest.raises(ApdmError, match="exists already") as caught:
        Run.create(tmp_path, "ann", seed=2)
    assert ("--resume" in caught.value.hint) is offers_resume
    assert "--name ann-2" in caught.value.hint
    assert (run.path / MANIFEST).read_bytes() == before


def test_a_folder_that_is_no_run_is_not_touched(tmp_path):
    (tmp_path / "ann").mkdir()
    (tmp_path / "ann" / "thesis.txt").write_text("mine")
    (tmp_path / "bob").touch()
    for name in ("ann", "bob"):
        with pytest.raises(ApdmError, match="not a run") as caught:
            Run.create(tmp_path, name)
        assert f"--name {name}-2" in caught.value.hint
    assert (tmp_path / "ann" / "thesis.txt").read_text() == "mine"


def test_an_empty_folder_is_no_obstacle(tmp_path):
    (tmp_path / "ann").mkdir()
    assert Run.create(tmp_path, "ann").status == RUNNING


def test_a_failing_start_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        Run.create(tmp_path, "ann", model=object())
    assert list(tmp_path.iterdir()) == []


def test_discard_removes_a_run_that_came_to_nothing(tmp_path):
    Run.create(tmp_path, "ann").discard()
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_place_is_one_message(tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "runs"):
        with pytest.raises(
            ApdmError, match=r"cannot be written: .*/file is a file, and a folder"
        ) as caught:
            Run.create(place, "ann")
        assert "--out" in caught.value.hint
    with pytest.raises(ApdmError, match="cannot be written: it is a folder") as caught:
        write_bytes_atomic(tmp_path, b"a table")
    assert caught.value.hint == "Name a file in it."
    with pytest.raises(ApdmError, match=r"the folder .*/nowhere does not exist"):
        write_bytes_atomic(tmp_path / "nowhere" / "table.csv", b"a table")


def test_open_by_name_or_path_and_the_names_there_are(tmp_path):
    Run.create(tmp_path, "ann").release()
    assert Run.open(tmp_path, "ann").path == Run.open(tmp_path / "x", tmp_path / "ann").path
    with pytest.raises(ApdmError, match="no run bob") as caught:
        Run.open(tmp_path, "bob")
    assert "ann" in caught.value.hint
    with pytest.raises(ApdmError, match=r"no run anne in .*\. Did you mean ann\?"):
        Run.open(tmp_path, "anne")


def test_newest_finished(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name, what in (
        ("missing", "There is no run: the folder .*/missing does not exist"),
        ("file", "There is no run: .*/file is a file"),
        ("empty", "There is no run in .*/empty"),
    ):
        with pytest.raises(ApdmError, match=what) as caught:
            Run.newest_finished(tmp_path / name)
        assert caught.value.hint.endswith(
            f"apdm protect PHOTOS --class NOUN --out {tmp_path / name}"
        )
    runs = {name: Run.create(tmp_path, name) for name in ("a", "b", "c")}
    with pytest.raises(ApdmError, match="No finished run"):
        Run.newest_finished(tmp_path)
    runs["b"].finish()
    runs["a"].finish()
    Run.create(tmp_path, "other").finish()
    Run.open(tmp_path, "other").update(kind="attack")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / MANIFEST).write_text("{")
    assert Run.newest_finished(tmp_path).name == "a"
    assert [run.name for run in Run.all(tmp_path)] == ["c", "b", "a"]


def test_a_run_without_its_model_says_what_became_of_it(tmp_path):
    photos = {"sources": ["/pictures/my cat"], "files": []}
    subject = {"name": "ann", "class_noun": "cat", "identifier": "sks", "photos": photos}
    model = {"source": "/sd", "revision": None, "digest": "a" * 64}
    run = Run.create(tmp_path, "ann", subject=subject, model=model, preset="paper")
    with pytest.raises(ApdmError, match="still being made") as caught:
        Run.open(tmp_path, "ann").require_done()
    assert "--resume" not in caught.value.hint
    run.release()
    with pytest.raises(ApdmError, match="was interrupted") as caught:
        Run.open(tmp_path, "ann").require_done()
    command = caught.value.hint.partition(": ")[2]
    assert command == (
        "apdm protect '/pictures/my cat' --class cat --model /sd --preset paper "
        f"--out {tmp_path} --name ann ... --resume"
    )
    run.fail("no memory")
    with pytest.raises(ApdmError, match="Run ann failed"):
        Run.open(tmp_path, "ann").require_done()
    run.resume()
    run.finish()
    Run.open(tmp_path, "ann").require_done()


def test_a_run_goes_on_in_the_precision_that_it_began_in(tmp_path):
    begun = [
        Run(tmp_path / "mine", {"name": "mine", "dtype": dtype, "device": device}).begun_by()
        for dtype, device in (("float32", "cpu"), ("bfloat16", "cpu"), ("float32", "cuda:1"))
    ]
    assert "--dtype" not in begun[0]
    assert " --dtype bf16 " in begun[1] and " --dtype fp32 " in begun[2]


def test_one_process_at_a_time(tmp_path):
    run = Run.create(tmp_path, "ann")
    code = (
        "import sys; from pathlib import Path; from apdm_cli.runs.run import Run\n"
        "Run.open(Path(sys.argv[1]), 'ann').resume()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    root = Path(__file__).parents[2]
    refused = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if sys.platform != "win32":
        assert "Another apdm process" in refused.stderr
    run.release()
    allowed = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert allowed.returncode == 0, allowed.stderr
    assert "resumed" in read_manifest(run.path)


def test_resume_clears_away_what_a_killed_process_left(tmp_path):
    run = Run.create(tmp_path, "ann")
    run.release()
    (run.path / ".tmp-0123").write_text("half a manifest")
    Run.open(tmp_path, "ann").resume()
    assert [path.name for path in run.path.iterdir()] == [MANIFEST]


def test_the_manifest_in_memory_is_what_is_on_the_disk(tmp_path, monkeypatch):
    run = Run.create(tmp_path, "ann")

    def full(*_: object) -> None:
        raise ApdmError("no space")

    monkeypatch.setattr(run_module, "write_json_atomic", full)
    with pytest.raises(ApdmError):
        run.finish()
    assert run.status == RUNNING


@pytest.mark.parametrize(
    ("folder", "noun", "expected"),
    [
        ("photos", "person", "photos-person"),
        ("Meine Fotos (2024)", "Hund", "meine-fotos-2024-hund"),
        ("Zoë", "golden retriever", "zoe-golden-retriever"),
        ("写真", "person", "person"),
        ("写真", "人", "run"),
    ],
)
def test_default_names(tmp_path, folder, noun, expected):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "1.jpg").touch()
    assert default_name([tmp_path / folder], noun) == expected
    assert default_name([tmp_path / folder / "1.jpg"], noun) == expected
    assert check_name(expected) == expected


@pytest.mark.parametrize("name", ["ann", "Ann 2", "v1.5", "Zoë", "a_b"])
def test_good_names(name):
    assert check_name(name) == name


BAD_NAMES = ["", ".", "..", "a/b", "../x", "/x", "a\\b", ".hidden", "_control", "x.partial"]
BAD_NAMES += ["a\nb", "con", "LPT1.txt", "a.", " a", "x" * 81, 'a"b', "-flag"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_names(name, tmp_path):
    with pytest.raises(UsageError, match="--name"):
        Run.create(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


def test_slug_and_free_name(tmp_path):
    assert slug("A photo of sks person!", 10) == "a-photo-of"
    (tmp_path / "a").mkdir()
    (tmp_path / "a-2").touch()
    assert (free_name(tmp_path, "a"), free_name(tmp_path, "b")) == ("a-3", "b")


def test_a_run_that_was_deleted_meanwhile_is_not_written_again(tmp_path):
    run = Run.create(tmp_path, "ann")
    shutil.rmtree(run.path)
    with pytest.raises(ApdmError, match="was deleted"):
        run.update(seed=1)
    assert not run.path.exists()


def test_a_name_is_free_exactly_where_a_run_can_be_made(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    Run.create(tmp_path, "ann").release()
    for name in ("new", "empty"):
        require_free(tmp_path, name)
    for name in ("ann", "file"):
        with pytest.raises(ApdmError) as said:
            require_free(tmp_path, name)
        with pytest.raises(ApdmError) as refused:
            Run.create(tmp_path, name)
        assert (said.value.what, said.value.hint) == (refused.value.what, refused.value.hint)
    assert not (tmp_path / "new").exists()
