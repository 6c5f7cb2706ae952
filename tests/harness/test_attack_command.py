"""`apdm attack` as a user types it, on a tiny model."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from apdm_attacks.lora import Lora
from apdm_cli.cli.main import build_app
from apdm_cli.errors import ApdmError, UsageError
from apdm_cli.extension.manager import attacks, build_plugin_manager
from apdm_cli.harness.suites import load_suite
from tests.harness.conftest import Place
from tests.tiny import make_photos

QUICK = ("steps=2", "prior_pictures=2", "sampler_steps=2")


def attack(place: Place, *arguments: str, quick: bool = True) -> Result:
    """Run the command; errors that `main` would print are raised."""
    settings = [part for item in QUICK for part in ("--set", item)] if quick else []
    result = CliRunner().invoke(
        build_app({"attack"}),
        ["attack", "--out", str(place.root), "--device", "cpu", *settings, *arguments],
    )
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def rows(result: Result) -> list[dict[str, Any]]:
    return list(json.loads(result.stdout)["cells"])


def test_both_arms_and_then_nothing(place: Place) -> None:
    first = rows(attack(place, "--plugin", "dreambooth", "--json"))
    assert [(row["arm"], row["status"]) for row in first] == [
        ("original", "done"),
        ("protected", "done"),
    ]
    control, protected = (Path(row["path"]) for row in first)
    assert control.parent == place.root / "_control"
    assert protected.parent == place.root / "run" / "attacks"
    manifest = json.loads((protected / "manifest.json").read_text())
    assert manifest["control"] == control.name
    assert manifest["artifact"] == {"kind": "pipeline", "path": "artifact"}
    assert len((protected / "losses.jsonl").read_text().splitlines()) == 2
    assert not (protected / "checkpoints").exists()

    again = attack(place, "--plugin", "dreambooth", "--json")
    assert [row["status"] for row in rows(again)] == ["cached", "cached"]
    rerun = attack(place, "--plugin", "dreambooth", "--json", "--rerun", "--no-control")
    assert [(row["arm"], row["status"]) for row in rows(rerun)] == [("protected", "done")]


def test_of_a_run_that_is_named_by_its_folder_the_control_lies_beside_it(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place.root / "run")
    elsewhere = place._replace(root=tmp_path / "elsewhere")
    for name in (".", str(place.root / "run")):
        control, protected = rows(attack(elsewhere, name, "--plugin", "dreambooth", "--json"))
        assert Path(control["path"]).resolve().parent == place.root / "_control"
        assert Path(protected["path"]).resolve().parent == place.root / "run" / "attacks"
    assert control["status"] == "cached" and not elsewhere.root.exists()
    words = attack(elsewhere, str(place.root / "run"), "--plugin", "dreambooth").output.split()
    assert words[-4:] == ["evaluate", "run", "--out", str(place.root)]


def test_another_precision_is_other_cells_of_both_arms(place: Place) -> None:
    def attacked(dtype: str) -> list[dict[str, Any]]:
        return rows(attack(place, "--plugin", "dreambooth", "--json", "--dtype", dtype))

    attacked("fp32")
    lower = attacked("bf16")
    assert [row["status"] for row in lower] == ["done", "done"]
    manifests = [json.loads((Path(row["path"]) / "manifest.json").read_text()) for row in lower]
    assert [one["dtype"] for one in manifests] == ["bfloat16", "bfloat16"]
    assert manifests[1]["control"] == Path(lower[0]["path"]).name
    assert [row["status"] for row in attacked("auto")] == ["cached", "cached"]
    assert len(list((place.root / "_cache" / "class-pictures").iterdir())) == 4


def test_cells_of_half_precision_under_the_keys_of_float32_are_made_again(place: Place) -> None:
    def attacked() -> list[dict[str, Any]]:
        return rows(attack(place, "--plugin", "dreambooth", "--json", "--dtype", "fp32"))

    for row in attacked():
        file = Path(row["path"]) / "manifest.json"
        file.write_text(file.read_text().replace('"float32"', '"bfloat16"'))
    assert [row["status"] for row in attacked()] == ["done", "done"]
    assert [row["status"] for row in attacked()] == ["cached", "cached"]


def test_the_control_arm_is_shared_by_runs(place: Place) -> None:
    from tests.tiny import make_tiny_run

    attack(place, "run", "--plugin", "dreambooth")
    make_tiny_run(place.root, place.model, place.photos, "second")
    cells = rows(attack(place, "second", "--plugin", "dreambooth", "--json"))
    assert (cells[0]["arm"], cells[0]["status"]) == ("original", "cached")


def test_the_original_can_be_attacked_before_the_run_is_done(place: Place) -> None:
    manifest = place.root / "run" / "manifest.json"
    done = manifest.read_text()
    manifest.write_text(json.dumps({**json.loads(done), "status": "running"}))
    with pytest.raises(ApdmError, match="has no protected model yet"):
        attack(place, "run", "--plugin", "dreambooth")
    early = rows(attack(place, "run", "--plugin", "dreambooth", "--control-only", "--json"))
    assert [(row["arm"], row["status"]) for row in early] == [("original", "done")]

    manifest.write_text(done)
    both = rows(attack(place, "run", "--plugin", "dreambooth", "--json"))
    assert [row["status"] for row in both] == ["cached", "done"]
    assert both[0]["cell"] == early[0]["cell"]


def test_no_model_is_left_to_attack(place: Place) -> None:
    with pytest.raises(UsageError, match="leave no model"):
        attack(place, "--no-control", "--control-only")


def test_arms_differ_in_the_model_only(place: Place) -> None:
    attack(place, "--plugin", "dreambooth", "--seed", "3")
    (control,) = (place.root / "_control").glob("*/manifest.json")
    (protected,) = (place.root / "run" / "attacks").glob("*/manifest.json")
    one, other = (json.loads(file.read_text()) for file in (control, protected))
    for key in ("configuration", "seed", "subject", "transforms", "attack", "prompt_word"):
        assert one[key] == other[key]
    assert one["model"]["digest"] != other["model"]["digest"]


def test_variants_are_cells_of_their_own(place: Place, tmp_path: Path) -> None:
    others = make_photos(tmp_path / "others", seed=9)
    options = ("--plugin", "dreambooth", "--no-control", "--json")
    plain = rows(attack(place, *options))
    changed = [
        rows(attack(place, *options, "--identifier", "zwx")),
        rows(attack(place, *options, "--photos", str(others))),
        rows(attack(place, *options, "--photos", str(others), "--photos", str(place.photos))),
        rows(attack(place, *options, "--transform", "flip", "--transform", "noise")),
        rows(attack(place, *options, "--set", "dreambooth.prior_weight=0.5")),
    ]
    names = [cells[0]["cell"] for cells in (plain, *changed)]
    assert len(set(names)) == len(names)
    variants = [cells[0]["variant"] for cells in changed]
    for variant, part in zip(
        variants,
        ("identifier zwx", "unseen photos", "mixed photos", "flip + noise", "prior_weight=0.5"),
        strict=True,
    ):
        assert part in variant


def test_seeds_are_counted(place: Place) -> None:
    cells = rows(attack(place, "--plugin", "dreambooth", "--seeds", "2", "--no-control", "--json"))
    assert [row["seed"] for row in cells] == [0, 1]


def test_a_failing_cell_costs_only_itself(place: Place, tmp_path: Path) -> None:
    plugin = tmp_path / "bad.py"
    plugin.write_text(
        "from apdm_attacks.dreambooth import DreamBooth\n"
        "from apdm_cli.extension.hooks import hookimpl\n"
        "class Bad(DreamBooth):\n"
        "    '''Raises.'''\n"
        "    name = 'bad'\n"
        "    def trainable(self, model, subject, config):\n"
        "        raise RuntimeError('boom')\n"
        "class Frozen(DreamBooth):\n"
        "    '''Trains nothing.'''\n"
        "    name = 'frozen'\n"
        "    def trainable(self, model, subject, config):\n"
        "        made = super().trainable(model, subject, config)\n"
        "        model.trained.requires_grad_(False)\n"
        "        return made\n"
        "class Nan(DreamBooth):\n"
        "    '''Diverges.'''\n"
        "    name = 'diverges'\n"
        "    def learning_rate(self, step, config):\n"
        "        return float('nan')\n"
        "class Nowhere(DreamBooth):\n"
        "    '''Saves nothing.'''\n"
        "    name = 'nowhere'\n"
        "    def run(self, bench, config):\n"
        "        artifact = super().run(bench, config)\n"
        "        import shutil\n"
        "        shutil.rmtree(artifact.path)\n"
        "        return artifact\n"
        "@hookimpl\n"
        "def apdm_attacks():\n"
        "    return [Bad(), Frozen(), Nan(), Nowhere()]\n"
    )
    names = ["bad", "frozen", "diverges", "nowhere", "dreambooth"]
    chosen = [part for name in names for part in ("--plugin", name)]
    result = attack(place, "--plugin-file", str(plugin), *chosen, "--no-control", "--json")
    assert result.exit_code == 1
    found = {row["attack"]: row for row in rows(result)}
    assert [found[name]["status"] for name in names] == ["failed"] * 4 + ["done"]
    assert found["bad"]["error"] == "RuntimeError: boom"
    assert "do not require grad" in found["frozen"]["error"]
    assert "no longer finite" in found["diverges"]["error"]
    assert "no artifact" in found["nowhere"]["error"]
    failure = json.loads((Path(found["bad"]["path"]) / "failure.json").read_text())
    assert failure["error"] == "boom"
    assert "RuntimeError" in (Path(found["bad"]["path"]) / "traceback.txt").read_text()


def test_a_broken_plugin_is_warned_about(place: Place, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("import nowhere_at_all\n")
    result = attack(
        place, "--plugin-file", str(tmp_path / "bad.py"), "--plugin", "dreambooth", "--no-control"
    )
    assert result.exit_code == 0
    assert "bad.py" in result.stderr and "nowhere_at_all" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plugin", "lorra"], "Did you mean lora?"),
        (["--suite", "quik"], "no suite 'quik'"),
        (["--plugin", "lora", "--set", "lora.rnk=3"], "lora: rnk: unknown setting"),
        (["--plugin", "lora", "--set", "dreambooth.steps=3"], "dreambooth, which is not among"),
        (["--plugin", "lora", "--set", "steps=0"], "steps"),
        (["--plugin", "lora", "--transform", "sepia"], "'sepia'"),
        (["--plugin", "lora", "--model", "somewhere"], "--photos"),
        (["run", "--model", "x", "--plugin", "lora"], "not both"),
    ],
)
def test_bad_options(place: Place, arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError) as error:
        attack(place, *arguments, quick=False)
    assert message in error.value.what


def test_a_rank_that_does_not_fit_fails_its_cell(place: Place) -> None:
    result = attack(place, "--plugin", "lora", "--set", "lora.rank=99", "--no-control", "--json")
    assert result.exit_code == 1
    assert "lora.rank: 99 is larger than the layer" in rows(result)[0]["error"]


def test_a_token_that_exists_fails_its_cell(place: Place) -> None:
    token = "textual-inversion.token=<pad>"
    result = attack(
        place, "--plugin", "textual-inversion", "--set", token, "--no-control", "--json"
    )
    assert result.exit_code == 1
    assert "knows the token <pad> already" in rows(result)[0]["error"]


@pytest.mark.extras
def test_event_files_lie_beside_the_losses(place: Place) -> None:
    pytest.importorskip("tensorboard", reason="the extra apdm[tensorboard] is not installed")
    options = ("--plugin", "dreambooth", "--log", "tensorboard", "--seed", "7", "--json")
    for row in rows(attack(place, *options)):
        assert len(list(Path(row["path"]).glob("events.out.tfevents.*"))) == 1
    # Who watches it changes no attack.
    cached = rows(attack(place, "--plugin", "dreambooth", "--seed", "7", "--json"))
    assert [row["status"] for row in cached] == ["cached", "cached"]


def test_without_tensorboard_nothing_is_attacked(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ApdmError, match=r"pip install 'apdm\[tensorboard\]'"):
        attack(place, "--plugin", "dreambooth", "--log", "tensorboard")
    assert not (place.root / "_control").exists()


def test_a_run_that_is_not_finished(place: Place) -> None:
    file = place.root / "run" / "manifest.json"
    file.write_text(file.read_text().replace('"status": "done"', '"status": "running"'))
    with pytest.raises(ApdmError, match=r"Run run was interrupted.*--name run \.\.\. --resume"):
        attack(place, "run", "--plugin", "dreambooth")


def test_photos_that_are_gone_or_changed(place: Place, tmp_path: Path) -> None:
    file = place.root / "run" / "manifest.json"
    moved = json.loads(file.read_text())
    moved["subject"]["photos"]["sources"] = [str(tmp_path / "gone")]
    file.write_text(json.dumps(moved))
    with pytest.raises(ApdmError, match="--photos"):
        attack(place, "--plugin", "dreambooth")
    moved["subject"]["photos"]["sources"] = [str(make_photos(tmp_path / "new", seed=5))]
    file.write_text(json.dumps(moved))
    with pytest.raises(ApdmError, match="have changed"):
        attack(place, "--plugin", "dreambooth")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ApdmError, match="No photos"):
        attack(place, "--plugin", "dreambooth", "--photos", str(tmp_path / "empty"))


def test_a_model_protected_elsewhere(place: Place) -> None:
    protected = str(place.root / "run" / "model")
    words = ("--photos", str(place.photos), "--subject-class", "person")
    options = ("--model", protected, "--plugin", "dreambooth", *words, "--json")
    alone = attack(place, *options)
    assert [row["arm"] for row in rows(alone)] == ["protected"]
    assert "--original" in alone.stderr
    both = attack(place, *options, "--original", str(place.model))
    assert [row["arm"] for row in rows(both)] == ["original", "protected"]
    assert [row["status"] for row in rows(attack(place, *options))] == ["cached"]


def test_a_home_made_suite(place: Place, tmp_path: Path) -> None:
    suite = tmp_path / "mine.toml"
    suite.write_text(
        '[[attack]]\nname = "dreambooth"\nvariant = "no prior"\nset = { prior_weight = 0 }\n'
        '[[attack]]\nname = "dreambooth"\nidentifier = "zwx"\ntransforms = ["flip"]\n'
    )
    cells = rows(attack(place, "--suite", str(suite), "--no-control", "--json"))
    assert cells[0]["variant"].startswith("no prior")
    assert cells[1]["variant"].startswith("identifier zwx, flip")
    suite.write_text('[[attack]]\nname = "dreambooth"\nstepz = 1\n')
    with pytest.raises(UsageError, match="stepz"):
        attack(place, "--suite", str(suite))


def test_the_list_names_attacks_and_suites(place: Place) -> None:
    listed = json.loads(attack(place, "--list", "--json").stdout)
    assert "lora" in listed["attacks"]
    assert {"quick", "standard", "full"} <= set(listed["suites"])


def test_the_list_for_people_says_what_each_suite_runs(place: Place) -> None:
    shown = attack(place, "--list").stdout
    rows = [line for line in shown.splitlines() if re.match("  [a-z]", line)]
    assert [row.split()[0] for row in rows] == sorted(attacks(build_plugin_manager()))
    (lora,) = [row for row in rows if row.startswith("  lora ")]
    assert lora.split()[1:3] == Lora().summary.split()[:2]
    suites = " ".join(shown.split()).split("suite ")[1:]
    assert [suite.partition(" (")[0] for suite in suites] == ["quick", "standard", "wild", "full"]
    assert suites[0].rpartition("): ")[2].split(", ")[0] == "dreambooth"
    full = [name.strip() for name in suites[3].rpartition("): ")[2].split(",")]
    assert len(full) == len(set(full)), "an attack comes once, however many variants it has"
    assert set(full) == {entry.name for entry in load_suite("full").attack}
