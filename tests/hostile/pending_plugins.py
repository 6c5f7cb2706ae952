"""Other people's code at its worst, through the front door; run by naming this file to pytest.

Each test says what has to be true. Rename the file to test_plugins.py when all of them pass.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.hostile.test_command_line import outcome
from tests.metrics.material import make_vit
from tests.tiny import make_photos, make_tiny_pipeline, make_tiny_run

HEAD = """
import os, shutil, sys, time
from pathlib import Path
import torch
from apdm_attacks.dreambooth import DreamBooth
from apdm_cli.extension.attack import Artifact, Attack, AttackConfig
from apdm_cli.extension.hooks import hookimpl
"""
ATTACK = """
class Bad(DreamBooth):
    \"\"\"Does what no attack should.\"\"\"
    name = "bad"
    def run(self, bench, config):
{body}

@hookimpl
def apdm_attacks():
    return [Bad()]
"""
QUICK = ("steps=2", "prior_pictures=2", "sampler_steps=2")
Said = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugins")
    make_tiny_pipeline(folder / "model", channels=(32, 32), text_layers=1)
    make_photos(folder / "photos")
    make_vit(folder / "vit")
    return folder


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    make_tiny_run(tmp_path / "runs", made / "model", made / "photos")
    return tmp_path / "runs"


@pytest.fixture
def apdm(capfd: pytest.CaptureFixture[str]) -> Said:
    return lambda *arguments: outcome([str(argument) for argument in arguments], capfd, 900)


def plugin(folder: Path, body: str, frame: str = ATTACK) -> Path:
    file = folder / "bad_plugin.py"
    indented = textwrap.indent(textwrap.dedent(body).strip(), "        ")
    file.write_text(HEAD + frame.replace("{body}", indented))
    return file


def attack(root: Path, file: Path, *names: str) -> list[str]:
    settings = [part for setting in QUICK for part in ("--set", setting)]
    chosen = [part for name in names or ("bad",) for part in ("--plugin", name)]
    common = ["--out", str(root), "--device", "cpu", "--plugin-file", str(file)]
    return ["attack", "run", *chosen, *common, *settings]


def weights(root: Path, name: str = "dreambooth") -> dict[str, torch.Tensor]:
    (file,) = (root / "run" / "attacks").glob(f"{name}-*/artifact/unet/*.safetensors")
    return load_file(file)


# A.1: exit codes say whether everything that was asked for is there


@pytest.mark.parametrize(
    "line",
    [
        "sys.exit(0)",
        "raise GeneratorExit",
        "raise BaseException('x')",
        "raise KeyError('artifact')",
        "raise MemoryError",
        "raise RecursionError",
        "raise StopIteration",
    ],
)
def test_an_attack_that_leaves(line: str, root: Path, tmp_path: Path, apdm: Said) -> None:
    code, said = apdm(*attack(root, plugin(tmp_path, line), "bad", "dreambooth"))
    assert code == 1 and "Traceback" not in said
    assert weights(root)  # the other one ran


# A.2: the attacked model is nobody's to change


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_an_attack_that_changes_the_base(part: str, root: Path, tmp_path: Path, apdm: Said) -> None:
    body = f"""
    with torch.no_grad():
        for weight in bench.base.components['{part}'].parameters():
            weight.add_(1.0)
    return super().run(bench, config)
    """
    code, said = apdm(*attack(root, plugin(tmp_path, body), "bad", "dreambooth"))
    assert code == 1 and "bad" in said and "changed" in said
    after = weights(root)
    cached = {file.name: file.read_bytes() for file in (root / "_cache").rglob("*.png")}
    import shutil

    for folder in (root / "_cache", root / "_control", root / "run" / "attacks"):
        shutil.rmtree(folder, ignore_errors=True)
    assert apdm(*attack(root, plugin(tmp_path, body), "dreambooth"))[0] == 0
    assert all(torch.equal(after[name], tensor) for name, tensor in weights(root).items())
    clean = {file.name: file.read_bytes() for file in (root / "_cache").rglob("*.png")}
    assert all(cached[name] == content for name, content in clean.items())


# A.3: nobody ends well with weights that are not finite


def test_a_last_step_that_goes_to_infinity(root: Path, tmp_path: Path, apdm: Said) -> None:
    body = """
    trainable = self.trainable(bench.model, bench.subject, config)
    bench.personalize(trainable, config, lambda step: 1e38 if step == 1 else 1e-6)
    return trainable.save(bench.artifact_folder)
    """
    code, said = apdm(*attack(root, plugin(tmp_path, body)))
    assert code == 1 and "finite" in said


def test_a_protection_that_goes_to_infinity(made: Path, tmp_path: Path, apdm: Said) -> None:
    settings = ("steps_outer=1", "steps_inner=1", "prior_pictures=2", "sampler_steps=2")
    options = [part for setting in settings for part in ("--set", setting)]
    common = ("--class", "dog", "--model", made / "model", "--out", tmp_path / "runs")
    code, said = apdm(
        *("protect", made / "photos", *common, "--device", "cpu", *options),
        *("--set", "learning_rate=1e38"),
    )
    assert code in (1, 2) and "protected" not in said
    assert not list((tmp_path / "runs").rglob("unet/*.safetensors"))


@pytest.mark.parametrize("value", ["inf", "nan", "-inf", "1e30", "1e400"])
@pytest.mark.parametrize("key", ["learning_rate", "sampler_guidance", "prior_weight"])
def test_settings_without_a_meaning(
    key: str, value: str, root: Path, tmp_path: Path, apdm: Said
) -> None:
    file = plugin(tmp_path, "return super().run(bench, config)")
    code, said = apdm(*attack(root, file), "--set", f"{key}={value}")
    assert code in (1, 2) and "Traceback" not in said
    assert not list((root / "run").glob("attacks/*/manifest.json"))


# A.4: an artifact that brings nothing is no attack


@pytest.mark.parametrize(
    "path", ["Path('/etc')", "bench.folder / '..' / '..'", "bench.folder", "bench.artifact_folder"]
)
def test_artifacts_from_elsewhere(path: str, root: Path, tmp_path: Path, apdm: Said) -> None:
    body = f"""
    (bench.artifact_folder / "readme.txt").write_text("nothing")
    return Artifact("pipeline", {path})
    """
    code, said = apdm(*attack(root, plugin(tmp_path, body)))
    assert code == 1 and "artifact" in said


@pytest.mark.parametrize("path", ["/etc", "../..", "..", "", "artifact/../../.."])
def test_recorded_paths_that_lead_away(
    path: str, made: Path, root: Path, tmp_path: Path, apdm: Said
) -> None:
    file = plugin(tmp_path, "return super().run(bench, config)")
    assert apdm(*attack(root, file))[0] == 0
    (manifest,) = (root / "run" / "attacks").glob("*/manifest.json")
    content = json.loads(manifest.read_text())
    content["artifact"]["path"] = path
    manifest.write_text(json.dumps(content))
    code, said = apdm(*evaluate(made, root))
    scores = json.loads((root / "run" / "evaluation" / "scores.json").read_text())
    rows = [row for row in scores["rows"] if row["role"] == "attack"]
    assert {row["arm"] for row in rows} == {"original"}, said
    assert code == 0 and "left out" in said


def evaluate(made: Path, root: Path, *more: str, metrics: str = "dino") -> list[str]:
    drawing = ["--images", "3", "--class-images", "2", "--steps", "2", "--sampler", "ddim"]
    scoring = ["--metrics", metrics, "--weights", f"pocket-vit={made / 'vit'}"]
    return ["evaluate", "run", "--out", str(root), "--device", "cpu", *drawing, *scoring, *more]


# A.5: pictures without content teach nothing


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_an_autoencoder_that_draws_nothing(
    value: float, made: Path, tmp_path: Path, apdm: Said
) -> None:
    import shutil

    from safetensors.torch import save_file

    model = Path(shutil.copytree(made / "model", tmp_path / "model"))
    (file,) = (model / "vae").glob("*.safetensors")
    tensors = load_file(file)
    for name in tensors:
        if name.startswith("decoder.conv_out"):
            tensors[name] = torch.full_like(tensors[name], value)
    save_file(tensors, file, metadata={"format": "pt"})
    settings = ("steps_outer=1", "steps_inner=1", "prior_pictures=2", "sampler_steps=2")
    options = [part for setting in settings for part in ("--set", setting)]
    code, said = apdm(
        *("protect", made / "photos", "--class", "dog", "--model", model, "--device", "cpu"),
        *("--out", tmp_path / "runs", *options),
    )
    assert code == 1 and "autoencoder" in said
    assert not (tmp_path / "runs" / "photos-dog" / "model").exists()


# A.9: a folder that is deleted while it is worked in


def test_a_cell_that_is_deleted_in_the_middle(root: Path, tmp_path: Path, apdm: Said) -> None:
    body = """
    trainable = self.trainable(bench.model, bench.subject, config)
    def rate(step):
        if step == 1:
            shutil.rmtree(bench.folder)
        return 1e-6
    bench.personalize(trainable, config, rate)
    return trainable.save(bench.new_folder("artifact"))
    """
    code, said = apdm(*attack(root, plugin(tmp_path, body)))
    assert code == 1 and "Traceback" not in said
    assert not list((root / "run" / "attacks").glob("bad-*/manifest.json"))


# B: declarations


@pytest.mark.parametrize(
    "declaration",
    [
        "profiles = None",
        "profiles = {'pocket': 3}",
        "profiles = property(lambda self: 1 / 0)",
        "summary = property(lambda self: 1 / 0)",
        "Config = None",
        "name = property(lambda self: 1 / 0)",
        "__str__ = __repr__ = lambda self: 1 / 0",
        "name = 'bad' + chr(27) + '[2J'",
        "name = 'x' * 5000",
    ],
)
def test_declarations_take_nothing_along(
    declaration: str, root: Path, tmp_path: Path, apdm: Said
) -> None:
    frame = ATTACK.replace('    name = "bad"\n', f'    name = "bad"\n    {declaration}\n')
    file = plugin(tmp_path, "return super().run(bench, config)", frame)
    code, said = apdm(*attack(root, file, "dreambooth"))
    assert code == 0 and "\x1b" not in said, said
    for command in (["plugins"], ["plugins", "--json"], ["attack", "--list"]):
        code, said = apdm(*command, "--plugin-file", file)
        assert code == 0 and "Traceback" not in said


# C: bounds


def test_a_print_does_not_reach_json(root: Path, tmp_path: Path, apdm: Said) -> None:
    body = """
    print("HELLO")
    os.write(1, b"HELLO")
    return super().run(bench, config)
    """
    arguments = [*attack(root, plugin(tmp_path, body)), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "apdm_cli.cli.main", *arguments],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert json.loads(done.stdout)["failed"] == 0


@pytest.mark.parametrize(
    "line",
    [
        "torch.set_default_dtype(torch.float64)",
        "torch.set_grad_enabled(False)",
        "torch.use_deterministic_algorithms(True)",
        "torch.set_num_threads(3)",
        "torch.manual_seed(5)",
        "os.chdir('/')",
    ],
)
def test_global_state_is_put_back(line: str, root: Path, tmp_path: Path, apdm: Said) -> None:
    file = plugin(tmp_path, f"{line}\nraise ValueError('x')")
    before = _state()
    assert apdm(*attack(root, file))[0] == 1
    assert _state() == before


def _state() -> tuple[Any, ...]:
    return (
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_num_threads(),
        tuple(torch.get_rng_state().tolist()),
        os.getcwd(),
    )


LOOP = """
(bench.folder / "looping").touch()
while True:
    time.sleep(0.01)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_plugin_that_loops_is_ended_by_signals(
    number: signal.Signals, code: int, root: Path, tmp_path: Path
) -> None:
    process = _looping(root, tmp_path)
    process.send_signal(number)
    time.sleep(0.5)
    process.send_signal(number)
    assert process.wait(300) == code


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_cell_has_its_time(root: Path, tmp_path: Path) -> None:
    process = _looping(root, tmp_path, "dreambooth", "--cell-timeout", "5")
    assert process.wait(600) == 1
    assert weights(root)


def _looping(root: Path, tmp_path: Path, *more: str) -> subprocess.Popen[bytes]:
    names = [name for name in more if not name.startswith("-") and not name.isdecimal()]
    options = [name for name in more if name not in names]
    arguments = [*attack(root, plugin(tmp_path, LOOP), "bad", *names), *options, "--no-control"]
    process = subprocess.Popen(
        [sys.executable, "-m", "apdm_cli.cli.main", *arguments],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 600
    while not list((root / "run").rglob("looping")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    return process


# A.1, A.6, B: metrics

METRIC = """
import sys
import torch
from apdm_cli.extension.hooks import hookimpl
from apdm_cli.extension.metric import Backend, Metric, Score

class Bad(Metric):
    \"\"\"Does what no metric should.\"\"\"
    name = "bad"
    better = "lower"
    def prepare(self, model, device):
        {prepare}
    def score(self, pictures):
        {score}
        return Score("bad", 0.5, len(pictures.images), 0, {better}, Backend("x", "y"))

@hookimpl
def apdm_metrics():
    return [Bad()]
"""


@pytest.mark.parametrize(
    ("prepare", "score", "better"),
    [
        ("pass", "sys.exit(0)", "'lower'"),
        ("sys.exit(0)", "pass", "'lower'"),
        ("1 / 0", "pass", "'lower'"),
        ("pass", "1 / 0", "'lower'"),
        ("pass", "return 3", "'lower'"),
        ("pass", "return None", "'lower'"),
        ("pass", "return Score('bad', float('nan'), -5, 0, 'lower', Backend('x', 'y'))", "'lower'"),
        ("pass", "return Score('bad', 'text', 5, 0, 'lower', Backend('x', 'y'))", "'lower'"),
        ("pass", "pass", "'sideways'"),
        ("pass", "pictures.images.zero_()", "'lower'"),
        ("pass", "pictures.photos.zero_() if pictures.photos is not None else 0", "'lower'"),
    ],
)
def test_metrics_cost_themselves_only(
    prepare: str,
    score: str,
    better: str,
    made: Path,
    root: Path,
    tmp_path: Path,
    apdm: Said,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = plugin(tmp_path, "return super().run(bench, config)")
    assert apdm(*attack(root, file, "dreambooth"))[0] == 0
    assert apdm(*evaluate(made, root))[0] == 0
    scores = root / "run" / "evaluation" / "scores.json"
    alone = _values(scores)
    scores.unlink()
    package = tmp_path / "site"
    (package / "bad_metric-1.0.dist-info").mkdir(parents=True)
    about = package / "bad_metric-1.0.dist-info"
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: bad-metric\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[apdm]\nbad = bad_metric\n")
    text = METRIC
    for name, value in (("{prepare}", prepare), ("{score}", score), ("{better}", better)):
        text = text.replace(name, value)
    (package / "bad_metric.py").write_text(text)
    monkeypatch.syspath_prepend(str(package))
    monkeypatch.delitem(sys.modules, "bad_metric", raising=False)
    code, said = apdm(*evaluate(made, root, metrics="bad,dino"))
    assert scores.is_file(), said
    assert {key: value for key, value in _values(scores).items() if key[-1] == "dino"} == alone
    written = json.loads(scores.read_text())
    bad = [one for row in written["rows"] for one in row["scores"] if one["metric"] == "bad"]
    for one in bad:
        assert one["n"] >= 0 and one["better"] in ("lower", "higher")
    if not bad:
        assert code != 0 or "bad" in said


def _values(scores: Path) -> dict[tuple[str, ...], Any]:
    rows = json.loads(scores.read_text())["rows"]
    return {
        (row["role"], row["label"], row["arm"], score["metric"]): score["value"]
        for row in rows
        for score in row["scores"]
    }


# B: one damaged artifact or manifest costs itself


@pytest.mark.parametrize("how", ["manifest", "artifact", "empty artifact"])
def test_one_damaged_cell_stops_no_evaluation(
    how: str, made: Path, root: Path, tmp_path: Path, apdm: Said
) -> None:
    file = plugin(tmp_path, "return super().run(bench, config)")
    assert apdm(*attack(root, file, "bad", "dreambooth"))[0] == 0
    (folder,) = (root / "run" / "attacks").glob("bad-*")
    (unet,) = folder.glob("artifact/unet/*.safetensors")
    if how == "manifest":
        (folder / "manifest.json").write_text('{"kind": "attack", "arm": 3}')
    elif how == "artifact":
        unet.write_bytes(unet.read_bytes()[:1000])
    else:
        unet.unlink()
    code, said = apdm(*evaluate(made, root))
    assert "Traceback" not in said and "left out" in said, said
    scores = json.loads((root / "run" / "evaluation" / "scores.json").read_text())
    assert any(row["attack"] == "dreambooth" for row in scores["rows"])
    assert scores["left_out"] and code in (0, 1)
