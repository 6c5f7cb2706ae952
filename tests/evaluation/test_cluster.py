"""`apdm evaluate --cluster`: others draw, and the pictures and scores are those of one process."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from apdm_cli.cli.main import main
from apdm_cli.diffusion.photos import photo_hashes
from apdm_cli.evaluation.evaluate import evaluate_run
from apdm_cli.evaluation.profiles import EvaluationSettings
from apdm_cli.runs.manifest import read_manifest, write_json_atomic
from tests.clusters import StandIn, blind_machines, cluster, lose_a_machine, stand_in
from tests.evaluation.material import CPU, QUICK, Bench, drawn_and_scored
from tests.evaluation.test_workers import Command, pytestmark

__all__ = ["cluster", "pytestmark", "stand_in"]  # fixtures, and why they are not used

DIGEST = "0123456789abcdef" * 4
LACK = {
    "another apdm": (
        lambda bench, patch: patch.setattr("apdm_cli.harness.cluster.__version__", "0.0.1"),
        "has apdm 0.0.1, and the command runs with",
    ),
    "another torch": (
        lambda bench, patch: patch.setattr("torch.__version__", "1.0"),
        "has torch 1.0, and the command runs with",
    ),
    "the folder of the command": (
        lambda bench, patch: patch.setattr(
            "apdm_cli.harness.cluster.Place.refusal", lambda self: "vm does not have the folder"
        ),
        "--cluster: vm does not have the folder",
    ),
    "no model": (
        lambda bench, patch: patch.setattr(
            "apdm_cli.harness.arms.load_model", partial(_gone, bench.model)
        ),
        "pictures are not drawn: There is no model in",
    ),
    "no memory": (
        lambda bench, patch: patch.setattr(
            "apdm_cli.diffusion.shared_drawing.draw_pictures", _out_of_memory
        ),
        "pictures are not drawn: CUDA out of memory",
    ),
}


def _gone(folder: Path, *given: Any, **values: Any) -> None:
    from apdm_cli.errors import ApdmError

    raise ApdmError(f"There is no model in {folder}")


def _out_of_memory(*given: Any, **values: Any) -> None:
    raise RuntimeError("CUDA out of memory")


def evaluate(bench: Bench, *more: str) -> int:
    command = ["evaluate", "run", "--out", str(bench.root), "--cluster", "auto", "--device", "cpu"]
    command += ["--metrics", "dino", "--weights", f"pocket-vit={bench.vit}", "--sampler", "ddim"]
    command += ["--steps", "2", "--images", "4", "--class-images", "3", "--json"]
    with pytest.raises(SystemExit) as ended:
        main([*command, *more])
    return int(ended.value.code or 0)


def _blind(bench: Bench) -> None:
    """From now on the machine does not see the folder of runs."""
    for marker in bench.root.glob(".tmp-cluster-*"):
        marker.unlink()


def _drawn(root: Path) -> list[Path]:
    return list(root.rglob("*.png"))


@pytest.mark.extras
def test_the_work_of_a_lost_machine_is_drawn_by_the_other_with_the_same_bytes(
    cluster: Any, alone: dict[str, bytes], bench: Bench, tmp_path: Path
) -> None:
    command = Command(bench, tmp_path, "--cluster", cluster.address)
    workers = command.process.halted(tmp_path)
    lose_a_machine(cluster, workers)
    command.go()
    assert command.process.wait() == 0, command.process.out
    assert drawn_and_scored(bench.root) == alone
    assert not list(bench.root.glob(".tmp-*"))
    whose = {int(number) for number, _ in command.drawn()}
    assert set(workers) <= whose and command.process.pid not in whose


@pytest.fixture
def strangers(monkeypatch: pytest.MonkeyPatch, bench: Bench, tmp_path: Path) -> Iterator[Any]:
    """The same cluster; its machines see neither runs nor models nor photos nor extractors."""
    hidden = (bench.root, bench.model, bench.photos, bench.vit)
    with blind_machines(monkeypatch, tmp_path, *hidden) as made:
        yield made


@pytest.mark.extras
def test_strangers_draw_the_same_bytes_though_one_is_lost(
    strangers: Any, alone: dict[str, bytes], bench: Bench, tmp_path: Path
) -> None:
    command = Command(bench, tmp_path, "--cluster", strangers.address)
    workers = command.process.halted(tmp_path)
    lose_a_machine(strangers, workers)
    left = list((tmp_path / "temporary").glob("apdm-*/cell-*"))
    assert len(left) == 2, "of the one that works, and of the one that is gone"
    command.go()
    assert command.process.wait() == 0, command.process.out
    assert drawn_and_scored(bench.root) == alone
    said = " ".join(command.process.out.split())
    assert "does not see the folder of runs" in said and "no photos. Attacked models" in said
    assert not list((tmp_path / "temporary").glob("apdm-*"))
    assert not list(bench.root.rglob(".tmp-*"))
    whose = {int(number) for number, _ in command.drawn()}
    assert set(workers) <= whose and command.process.pid not in whose


def test_machines_that_see_nothing_are_sent_models_and_no_photos(
    stand_in: StandIn,
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Several batches of a set are drawn in different places, and are those of one process."""
    settings = EvaluationSettings(metrics=("dino",), weights=bench.weights, batch_size=2, **QUICK)
    evaluate_run(bench.root, bench.run, settings, device=CPU)
    alone = drawn_and_scored(bench.root)
    for file in _drawn(bench.root):
        file.unlink()
    (tmp_path / "machine").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "machine"))
    monkeypatch.setattr("apdm_cli.diffusion.picture_cache.draw_pictures", _out_of_memory)
    stand_in.within = lambda patch: _blind(bench)
    assert evaluate(bench, "--batch-size", "2") == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "no photos. Attacked models are sent as well" in said and "they can draw" in said
    assert drawn_and_scored(bench.root) == alone
    assert not list((tmp_path / "machine").iterdir()) and not list(bench.root.rglob(".tmp-*"))
    errands = [given for name, given in stand_in.sent if name == "_errand"]
    assert len(errands) == 5, "of 22 batches at most 6: 2 of the original, 1 of each other model"
    models = [bench.model, bench.run.model, *bench.root.glob("*/dreambooth-*/artifact")]
    weights = [file.read_bytes() for one in models for file in one.glob("unet/*.safetensors")]
    assert all(any(content in given for given in errands) for content in weights)
    photos = sorted(bench.photos.iterdir())
    private = [str(bench.photos).encode(), *(photo.read_bytes() for photo in photos)]
    private += [digest.encode() for _, digest in photo_hashes([bench.photos])]
    assert not [what for what in private if any(what in given for given in errands)]
    assert evaluate(bench, "--batch-size", "2") == 0
    assert len([name for name, _ in stand_in.sent if name == "_errand"]) == len(errands)


@pytest.mark.parametrize("kind", ["several subjects", "protected elsewhere", "perturbed photos"])
def test_a_run_of_every_kind_is_drawn_by_machines_that_see_nothing(
    kind: str, stand_in: StandIn, bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = bench.run.path
    manifest = read_manifest(run)
    models = 1 + 2 + (kind != "perturbed photos")  # the original, attacked ones, the protected one
    if kind == "several subjects":
        subject = manifest.pop("subject")
        manifest["subjects"] = [{**subject, "name": name} for name in ("subject", "another")]
        (run / "subjects" / "subject").mkdir(parents=True)
        shutil.move(run / "attacks", run / "subjects" / "subject")
    elif kind == "protected elsewhere":
        shutil.move(run / "model", tmp_path / "theirs")
        manifest["external"] = {"source": str(tmp_path / "theirs"), "digest": "theirs"}
    else:
        shutil.rmtree(run / "model")
        photo = {"name": "0.png", "sha256": "perturbed", "of": DIGEST}
        manifest["perturbed"] = {"eta": 0.05, "photos": [photo]}
    write_json_atomic(run / "manifest.json", manifest)
    stand_in.within = lambda patch: _blind(bench)
    monkeypatch.setattr("apdm_cli.diffusion.picture_cache.draw_pictures", _out_of_memory)
    few = ("--images", "1", "--class-images", "2", "--steps", "1", "--subject", "subject")
    assert evaluate(bench, *few) == 0
    drawn = {file.parent for file in _drawn(bench.root)}
    assert len(drawn) == 2 + 3 * 3 - 3 * (kind == "perturbed photos")
    errands = [given for name, given in stand_in.sent if name == "_errand"]
    assert len(errands) >= models and not any(DIGEST.encode() in given for given in errands)


def test_others_draw_and_a_machine_without_the_model_leaves_the_work_to_them(
    stand_in: StandIn,
    alone: dict[str, bytes],
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    makes: Callable[..., Any] = LACK["no model"][0]

    def the_first(patch: pytest.MonkeyPatch) -> None:
        if stand_in.done == 0:
            makes(bench, patch)

    stand_in.within = the_first
    monkeypatch.chdir(tmp_path)  # below it, paths are as they were typed
    bench.root = bench.root.relative_to(tmp_path)
    monkeypatch.setattr("apdm_cli.diffusion.picture_cache.draw_pictures", _out_of_memory)
    assert evaluate(bench) == 0
    assert stand_in.asked == 2, "a worker for each processor"
    said = " ".join(capsys.readouterr().err.split())
    assert "A worker of the cluster has ended, and others go on: There is no model in" in said
    assert drawn_and_scored(bench.root) == alone
    assert not list(bench.root.rglob(".tmp-*"))
    assert evaluate(bench) == 0
    assert stand_in.asked == 2, "nothing was left to draw"


@pytest.mark.parametrize(("lack", "sees"), [*((lack, True) for lack in LACK), ("no model", False)])
def test_what_a_machine_lacks_is_said_in_a_sentence(
    lack: str, sees: bool, stand_in: StandIn, bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    makes: Callable[..., Any]
    makes, words = LACK[lack]

    def within(patch: pytest.MonkeyPatch) -> None:
        makes(bench, patch)
        if not sees:
            _blind(bench)

    stand_in.within = within
    assert evaluate(bench) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert words in said and "Traceback" not in said
    assert not _drawn(bench.root)


def test_a_part_whose_machine_cannot_draw_it_is_drawn_by_another_one(
    stand_in: StandIn,
    alone: dict[str, bytes],
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The first machine has no memory, which pictures of every model meet."""
    stand_in.machines = ("first", "second")

    def within(patch: pytest.MonkeyPatch) -> None:
        _blind(bench)
        if stand_in.on == "first":
            LACK["no memory"][0](bench, patch)
            patch.setattr("apdm_cli.diffusion.picture_cache.draw_pictures", _out_of_memory)

    stand_in.within = within
    assert evaluate(bench) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "CUDA out of memory. It is tried once more on another machine." in said
    assert drawn_and_scored(bench.root) == alone
    errands = [given for name, given in stand_in.sent if name == "_errand"]
    assert len(errands) == 2 * len(set(errands)), "each of them twice"


def test_a_machine_that_sees_nothing_has_to_have_the_same_versions(
    stand_in: StandIn, bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    def within(patch: pytest.MonkeyPatch) -> None:
        if stand_in.done:  # the first says that it does not see the folder of runs
            patch.setattr("torch.__version__", "1.0")
        _blind(bench)

    stand_in.within = within
    assert evaluate(bench) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "has torch 1.0, and the command runs with" in said and "Traceback" not in said


@pytest.mark.parametrize("sees", [True, False])
def test_an_attacked_model_that_is_damaged_costs_itself_only(
    sees: bool, stand_in: StandIn, bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    if not sees:
        stand_in.within = lambda patch: _blind(bench)
    cell = bench.run.attacks / "dreambooth-000000000002"
    (weights,) = cell.rglob("*.safetensors")
    weights.write_bytes(b"")
    assert evaluate(bench, "--images", "1", "--class-images", "2", "--steps", "1") == 1
    said = " ".join(capsys.readouterr().err.split())
    assert f"{cell.name} is left out" in said and "All workers have ended" not in said


def test_no_ray_no_cluster_no_card(
    stand_in: StandIn,
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def said(*more: str) -> Iterator[str]:
        yield str(evaluate(bench, *more))
        yield " ".join(capsys.readouterr().err.split())

    code, words = said("--device", "auto", "--gpus-per-worker", "1")
    assert code == "1" and "a worker needs a processor and 1 cards, and the cluster has 2" in words
    stand_in.answers = False
    code, words = said()
    assert code == "1" and "no Ray cluster answers there (Could not find any running" in words
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, words = said()
    assert code == "1" and "needs the package ray" in words and "apdm[cluster]" in words
    code, words = said("--device", "cuda:0")
    assert code == "2" and "--device cuda:0 names a card of this machine" in words
    assert not _drawn(bench.root)
