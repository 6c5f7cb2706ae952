"""`apdm evaluate` as a function, on a random model with both arms of one attack."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from apdm_cli.diffusion import picture_cache
from apdm_cli.errors import ApdmError, UsageError
from apdm_cli.evaluation.evaluate import evaluate_run
from apdm_cli.evaluation.profiles import EvaluationSettings
from apdm_cli.progress import Silent
from apdm_cli.runs.cleaning import plan, remove
from tests.evaluation.material import QUICK, Bench
from tests.tiny import make_photos

METRICS = ("dino", "brisque", "fid", "kid", "same-seed", "diversity")


class Noting(Silent):
    def __init__(self) -> None:
        self.sentences: list[str] = []
        self.stages: list[tuple[str, int, str]] = []
        self.expected = self.drawn = 0

    def said(self, sentence: str) -> None:
        self.sentences.append(sentence)

    def stage(self, description: str, total: int, done: int = 0, unit: str = "steps") -> None:
        self.stages.append((description, total, unit))
        self.expected += total

    def advance(self, count: int = 1, **terms: float) -> None:
        self.drawn += count


def evaluate(bench: Bench, watcher: Any = None, **changes: Any) -> dict[str, Any]:
    settings = EvaluationSettings(
        **{"metrics": METRICS, "weights": bench.weights, **QUICK, **changes}
    )
    return evaluate_run(bench.root, bench.run, settings, watcher).as_json()


def rows_of(result: dict[str, Any], role: str, arm: str | None = None) -> list[dict[str, Any]]:
    return [row for row in result["rows"] if row["role"] == role and arm in (None, row["arm"])]


def value(row: dict[str, Any], metric: str) -> float:
    return next(score["value"] for score in row["scores"] if score["metric"] == metric)


def test_scores_of_both_arms_utility_and_bounds(bench: Bench) -> None:
    watcher = Noting()
    result = evaluate(bench, watcher)
    file = bench.run.evaluation / "scores.json"
    assert json.loads(file.read_text()) == json.loads(json.dumps(result))
    assert result["schema"] == 2
    assert result["model"] == bench.run.manifest["model"]
    assert len(result["protected_digest"]) == 64
    assert result["sampler"] == {"sampler": "ddim", "steps": 2, "guidance": 7.5, "seed": 0}
    assert [row["arm"] for row in rows_of(result, "attack")] == ["original", "protected"]
    for row in rows_of(result, "attack"):
        assert row["label"] == row["attack"] == "dreambooth"
        assert row["prompts"] == ["a photo of sks person"] * 2 + (["a portrait of sks person"] * 2)
        assert {score["metric"] for score in row["scores"]} == {"dino", "brisque", "diversity"}
        assert len(list((bench.run.path / row["images"]).glob("*.png"))) == 4
    labels = [row["label"] for row in rows_of(result, "utility")]
    assert labels[:3] == [
        "class pictures, original",
        "class pictures, original, other seeds",
        "class pictures, protected",
    ]
    assert "dog pictures, protected" in labels
    assert [len(rows_of(result, role)) for role in ("floor", "ceiling")] == [1, 1]
    assert watcher.drawn == watcher.expected
    assert result["unavailable"] == result["left_out"] == []


def test_utility_holds_the_protected_model_against_two_samples_of_the_original(
    bench: Bench,
) -> None:
    reference, other, protected = rows_of(evaluate(bench), "utility")[:3]
    assert reference["scores"] == []
    assert {s["metric"] for s in other["scores"]} == {"fid", "kid", "brisque", "diversity"}
    assert {s["metric"] for s in protected["scores"]} == {
        "fid", "kid", "brisque", "diversity", "same-seed"
    }  # fmt: skip
    n = {s["n"] for s in other["scores"] + protected["scores"]}
    assert n == {3}, "Fréchet distances of other n do not compare"


def test_a_protection_that_changes_nothing_leaves_no_trace(bench: Bench) -> None:
    """The same weights in both arms: the same seeds must give the same pictures and scores."""
    shutil.rmtree(bench.run.model)
    shutil.copytree(bench.model, bench.run.model)
    control = bench.root / "_control" / "dreambooth-000000000001"
    cell = bench.run.attacks / "dreambooth-000000000002"
    shutil.rmtree(cell / "artifact")
    shutil.copytree(control / "artifact", cell / "artifact")
    result = evaluate(bench)
    original, protected = rows_of(result, "attack")
    assert original["scores"] == protected["scores"]
    _, other, same = rows_of(result, "utility")[:3]
    assert value(same, "same-seed") == pytest.approx(1)
    assert value(same, "fid") == pytest.approx(value(other, "fid"))


def test_attacks_are_held_against_the_runs_photos(bench: Bench, tmp_path: Path) -> None:
    """An attacker with other photos of the subject is judged on the same scale."""
    before = rows_of(evaluate(bench), "attack", "protected")[0]
    cell = bench.run.attacks / "dreambooth-000000000002" / "manifest.json"
    manifest = json.loads(cell.read_text())
    subject = bench.other_subject("subject", make_photos(tmp_path / "unseen", seed=9))
    cell.write_text(json.dumps({**manifest, "subject": subject, "variant": "unseen photos"}))
    after = rows_of(evaluate(bench), "attack", "protected")[0]
    assert after["label"] == "dreambooth, unseen photos"
    assert value(after, "dino") == pytest.approx(value(before, "dino"))


def test_another_subjects_cell_is_a_neighbour_with_photos_of_its_own(
    bench: Bench, tmp_path: Path
) -> None:
    photos = make_photos(tmp_path / "other", seed=9)
    other = bench.other_subject("somebody", photos)
    bench.cell("original", "dreambooth-00000000000a", subject=other)
    bench.cell("protected", "dreambooth-00000000000b", subject=other,
               control="dreambooth-00000000000a")  # fmt: skip
    rows = rows_of(evaluate(bench), "neighbour")
    assert [row["label"] for row in rows] == ["somebody, original", "somebody, protected"]
    shutil.rmtree(photos)
    watcher = Noting()
    result = evaluate(bench, watcher)
    assert not rows_of(result, "neighbour")
    assert len(rows_of(result, "attack")) == 2
    assert any("somebody cannot be read again" in sentence for sentence in watcher.sentences)


def test_a_control_cell_made_by_a_run_of_another_name_is_still_this_runs_attack(
    bench: Bench, tmp_path: Path
) -> None:
    # Same photos, protected once more under another name: the control is shared by content.
    other = bench.other_subject("another-run", make_photos(tmp_path / "same", seed=9))
    bench.cell("original", "dreambooth-00000000000a", subject=other)
    bench.cell("protected", "dreambooth-00000000000b", control="dreambooth-00000000000a")
    result = evaluate(bench)
    assert not rows_of(result, "neighbour")
    found = {(row["cell"], row["arm"]) for row in rows_of(result, "attack")}
    assert ("dreambooth-00000000000a", "original") in found


def test_neighbours_are_taught_to_both_arms(bench: Bench, tmp_path: Path) -> None:
    folder = make_photos(tmp_path / "ann" / "seen", seed=3)
    quick = {"steps": 1, "prior_pictures": 1, "sampler_steps": 1}
    options = {"neighbours": (folder,), "neighbour_attack": quick}
    watcher = Noting()
    result = evaluate(bench, watcher, **options)
    assert ("Teaching ann", 2, "models") in watcher.stages and watcher.drawn == watcher.expected
    assert not any("ann" in sentence for sentence in watcher.sentences)  # nothing to warn of
    rows = rows_of(result, "neighbour")
    assert [row["label"] for row in rows] == ["ann, original", "ann, protected"]
    again = Noting()
    found = evaluate(bench, again, **options)
    assert found["rows"] == result["rows"], "found again, not taught again"
    assert not any(what.startswith("Teaching") for what, *_ in again.stages)


def test_nobody_is_a_neighbour_of_oneself(bench: Bench, tmp_path: Path) -> None:
    """Whatever the folder is called: by what is in the photos."""
    folder = tmp_path / "somebody-else"
    shutil.copytree(bench.photos, folder)
    with pytest.raises(ApdmError, match="these are photos of the protected subject itself"):
        evaluate(bench, neighbours=(folder,))


def test_two_neighbours_of_one_name_are_refused_before_any_work(
    bench: Bench, tmp_path: Path
) -> None:
    family = make_photos(tmp_path / "family" / "bob", seed=3)
    work = make_photos(tmp_path / "work" / "Bob" / "seen", seed=4)
    with pytest.raises(UsageError) as raised:
        evaluate(bench, neighbours=(family, work))
    assert str(family) in raised.value.what and str(work) in raised.value.what
    assert not bench.run.evaluation.exists()


def test_neighbours_that_cannot_be_taught_cost_themselves_only(
    bench: Bench, tmp_path: Path
) -> None:
    folder = make_photos(tmp_path / "ann" / "seen", seed=3)
    hopeless = {"steps": 1, "prior_pictures": 1, "sampler_steps": 1, "learning_rate": 1e38}
    result = evaluate(bench, neighbours=(folder,), neighbour_attack=hopeless)
    assert len(rows_of(result, "attack")) == 2 and not rows_of(result, "neighbour")
    assert [one["cell"] for one in result["left_out"]] == [
        "ann on the original model", "ann on the protected model"
    ]  # fmt: skip
    assert all("not finite" in one["reason"] for one in result["left_out"])


def test_a_second_evaluation_draws_nothing_and_gives_the_same(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evaluate(bench)
    content = (bench.run.evaluation / "scores.json").read_bytes()

    def never(*_: Any) -> Any:
        raise AssertionError("drawn again")

    monkeypatch.setattr(picture_cache, "sample", never)
    assert evaluate(bench, batch_size=1)["rows"] == first["rows"]
    assert (bench.run.evaluation / "scores.json").read_bytes() == content


def test_every_damaged_picture_and_description_is_drawn_again(bench: Bench) -> None:
    """θ's own pictures, θ̂'s, and those of the attacked models: whoever asks for them."""
    first = evaluate(bench, batch_size=1)
    content = {file: file.read_bytes() for file in bench.root.rglob("*.png")}
    folders = {file.parent for file in content}
    kinds = {folder.relative_to(bench.root).parts[0] for folder in folders}
    assert kinds == {"_cache", "_control", "run"} and len(folders) == len(first["rows"]) - 2
    for folder in folders:
        (folder / "0001.png").write_bytes(content[folder / "0001.png"][:40])
        (folder / "about.json").write_text('{"origin": ')
    assert evaluate(bench, batch_size=1)["rows"] == first["rows"]
    assert {file: file.read_bytes() for file in bench.root.rglob("*.png")} == content


def test_photos_are_written_nowhere(bench: Bench) -> None:
    """Neither the photos nor their reconstructions, which the ceiling is made of."""
    result = evaluate(bench)
    assert rows_of(result, "ceiling")[0]["images"] is None
    expected = {row["images"] for row in result["rows"] if row["images"]}
    folders = {
        file.parent.resolve() for file in bench.root.rglob("*.png")
    }  # class pictures and attacks only
    assert folders == {(bench.run.path / images).resolve() for images in expected}


def test_a_broken_models_pictures_are_counted_and_not_scored(bench: Bench) -> None:
    unet = bench.run.attacks / "dreambooth-000000000002" / "artifact" / "unet"
    file = next(unet.glob("*.safetensors"))
    from safetensors.torch import load_file, save_file

    save_file({name: t * torch.nan for name, t in load_file(file).items()}, file)
    row = rows_of(evaluate(bench), "attack", "protected")[0]
    for score in row["scores"]:
        assert (score["n"], score["skipped"]) == (0, 4)
    assert '"value": null' in (bench.run.evaluation / "scores.json").read_text()


def test_cells_that_cannot_be_used_are_said_and_left_out(bench: Bench) -> None:
    shutil.rmtree(bench.run.attacks / "dreambooth-000000000002" / "artifact")
    bench.cell("protected", "lora-00000000000c", control="lora-nowhere")
    watcher = Noting()
    result = evaluate(bench, watcher)
    # The control whose partner is gone is scored all the same.
    assert [row["cell"] for row in rows_of(result, "attack")] == [
        "dreambooth-000000000001",
        "lora-00000000000c",
    ]
    assert any("000002 has no artifact" in sentence for sentence in watcher.sentences)
    assert len(result["left_out"]) == 2


def test_without_artifacts_the_pictures_of_before_still_count(bench: Bench) -> None:
    """As `apdm clean --artifacts` promises. New ones need the attack again."""
    first = evaluate(bench)
    planned = plan(bench.root, [bench.run.name], artifacts=True)
    assert remove(planned) > 0 and not list(bench.root.rglob("artifact"))
    assert evaluate(bench)["rows"] == first["rows"]
    more = evaluate(bench, images=5)
    assert not rows_of(more, "attack")
    assert all("apdm attack --rerun" in one["reason"] for one in more["left_out"])
    assert evaluate(bench)["rows"] == first["rows"]


def test_scores_stay_that_could_not_be_made_again(bench: Bench) -> None:
    evaluate(bench)
    file = bench.run.evaluation / "scores.json"
    before = file.read_bytes()
    for kind in ("cache", "artifacts"):  # one after the other: together the pictures would stay
        remove(plan(bench.root, [bench.run.name], **{kind: True}))
    with pytest.raises(ApdmError, match=r"000001, .*000002 are gone\. Nothing was") as raised:
        evaluate(bench)
    assert file.read_bytes() == before
    assert "apdm attack --rerun" in raised.value.hint and "another name" in raised.value.hint
    file.rename(file.with_suffix(".old"))
    assert not rows_of(evaluate(bench), "attack")


def test_one_picture_of_many_that_is_gone_with_its_model_would_lose_the_scores(
    bench: Bench,
) -> None:
    evaluate(bench)
    remove(plan(bench.root, [bench.run.name], artifacts=True))
    folder = bench.run.evaluation / "images" / "dreambooth-000000000002"
    (folder / "0003.png").unlink()
    with pytest.raises(ApdmError, match=r"pictures of dreambooth-000000000002 are gone"):
        evaluate(bench)
    # Who removes the whole attack wants no scores of it.
    shutil.rmtree(bench.run.attacks / "dreambooth-000000000002")
    evaluate(bench)


def test_a_missing_backend_leaves_a_line_and_the_rest_goes_on(bench: Bench) -> None:
    watcher = Noting()
    result = evaluate(bench, watcher, metrics=("dino", "clip-t", "lpips"))
    assert [one["metric"] for one in result["unavailable"]] == ["clip-t", "lpips"]
    assert sum("is left out" in sentence for sentence in watcher.sentences) == 2
    with pytest.raises(ApdmError, match="None of the metrics can be used: clip-t"):
        evaluate(bench, metrics=("clip-t",))


def test_scores_say_in_which_precision_their_pictures_were_drawn(bench: Bench) -> None:
    settings = EvaluationSettings(metrics=("dino",), weights=bench.weights, **QUICK)
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        evaluate_run(bench.root, bench.run, settings, dtype=dtype)
        scores = json.loads((bench.run.evaluation / "scores.json").read_text())
        found[scores["dtype"]] = scores["asked"].get("dtype")
    assert found == {"float32": None, "bfloat16": "bf16"}


def test_captions_are_one_more_topic(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "captions.txt"
    file.write_text("a photo of dog\na red hat\na picture of cat\n")
    rows = rows_of(evaluate(bench, captions=file), "utility")[-3:]
    assert [row["label"].split(",")[0] for row in rows] == ["captions"] * 3
    assert rows[-1]["prompts"][1] == "a red hat"
    file.write_text("")
    with pytest.raises(UsageError, match=r"--captions .* no prompt in it"):
        evaluate(bench, captions=file)


def test_changed_or_missing_photos_ask_for_photos(bench: Bench, tmp_path: Path) -> None:
    subject = bench.other_subject("subject", make_photos(tmp_path / "mine", seed=4))
    bench.run.update(subject=subject)
    moved = shutil.move(tmp_path / "mine", tmp_path / "moved")
    with pytest.raises(ApdmError, match="--photos"):
        evaluate(bench)
    evaluate(bench, photos=(Path(moved),))
    make_photos(Path(moved), seed=5)
    with pytest.raises(ApdmError, match=r"3 of 3 have another content.*--photos"):
        evaluate(bench, photos=(Path(moved),))


def test_an_unfinished_run_and_another_model_are_refused(bench: Bench) -> None:
    model = dict(bench.run.manifest["model"], digest="0" * 64)
    bench.run.update(model=model)
    with pytest.raises(ApdmError, match="not the model that run run protected"):
        evaluate(bench)
    bench.run.update(status="running")
    with pytest.raises(ApdmError, match="Run run was interrupted, so it has no protected model"):
        evaluate(bench)


def test_a_model_protected_elsewhere_has_no_utility(bench: Bench) -> None:
    """`apdm attack --model`: the original is unknown, the attack is scored all the same."""
    cell = bench.run.attacks / "dreambooth-000000000002" / "manifest.json"
    cell.write_text(json.dumps({**json.loads(cell.read_text()), "control": None}))
    bench.run.update(model=None)
    watcher = Noting()
    result = evaluate(bench, watcher)
    assert [row["role"] for row in result["rows"]] == ["attack", "ceiling"]
    assert any("no original" in sentence for sentence in watcher.sentences)
