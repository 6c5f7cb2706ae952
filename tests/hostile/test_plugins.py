"""Other people's code at its worst, through the front door.

Many bad attacks are run by one command, and a good one after them: each costs its own cell, and
the good one ends as it does without them, bit for bit.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from apdm_cli.cli.main import main
from apdm_cli.runs.cells import finished_cells
from tests.hostile.test_command_line import outcome
from tests.metrics.material import make_vit
from tests.tiny import make_photos, make_tiny_pipeline, make_tiny_run

HEAD = """
import os, shutil, sys, time
from pathlib import Path
import torch
from safetensors.torch import save_file
from apdm_attacks.dreambooth import DreamBooth
from apdm_cli.extension.attack import Artifact, Attack, AttackConfig
from apdm_cli.extension.hooks import hookimpl
"""
ATTACK = '''
class {cls}(DreamBooth):
    """Does what no attack should."""
    name = "{name}"
    {declared}
    def run(self, bench, config):
{body}
'''
ATTACKS = """
@hookimpl
def apdm_attacks():
    return [{items}]
"""
QUICK = ("steps=2", "prior_pictures=2", "sampler_steps=2")
GOOD = "return super().run(bench, config)"
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


@pytest.fixture(scope="module")
def clean(made: Path) -> Path:
    """Runs that dreambooth attacked, no plugin file near."""
    root = made / "clean"
    make_tiny_run(root, made / "model", made / "photos")
    with pytest.raises(SystemExit) as ended:
        main(attack(root, None, "dreambooth"))
    assert not ended.value.code
    return root


@pytest.fixture
def attacked(clean: Path, tmp_path: Path) -> Path:
    """A copy of `clean` that a test may damage."""
    return Path(shutil.copytree(clean, tmp_path / "runs"))


@pytest.fixture
def apdm(capfd: pytest.CaptureFixture[str]) -> Said:
    return lambda *arguments: outcome([str(argument) for argument in arguments], capfd, 900)


def plugin(
    folder: Path, bodies: Mapping[str, str], declared: Mapping[str, str] | None = None
) -> Path:
    """A plugin file with an attack for every entry of `bodies`, by name."""
    file = folder / "bad_plugin.py"
    text = HEAD
    for number, (name, body) in enumerate(bodies.items()):
        indented = textwrap.indent(textwrap.dedent(body).strip(), "        ")
        text += ATTACK.format(
            cls=f"Bad{number}", name=name, body=indented, declared=(declared or {}).get(name, "")
        )
    items = ", ".join(f"Bad{number}()" for number in range(len(bodies)))
    file.write_text(text + ATTACKS.format(items=items))
    return file


def attack(root: Path, file: Path | None, *names: str) -> list[str]:
    settings = [part for setting in QUICK for part in ("--set", setting)]
    chosen = [part for name in names or ("bad",) for part in ("--plugin", name)]
    common = ["--out", str(root), "--device", "cpu"]
    plugins = ["--plugin-file", str(file)] if file else []
    return ["attack", "run", *chosen, *common, *plugins, *settings]


def rows(
    capfd: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code of `apdm attack --json`, and the cell of every attack on the protected model.

    All of stdout has to be the JSON.
    """
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--json"])
    printed = capfd.readouterr()
    assert "Traceback" not in printed.out + printed.err
    cells = json.loads(printed.out)["cells"]
    code = ended.value.code
    return (
        code if isinstance(code, int) else 0,
        {cell["attack"]: cell for cell in cells if cell["arm"] == "protected"},
    )


def weights(root: Path, seed: int = 0) -> dict[str, torch.Tensor]:
    """What dreambooth left of the protected model."""
    for file in (root / "run" / "attacks").glob("dreambooth-*/manifest.json"):
        if json.loads(file.read_text())["seed"] == seed:
            (unet,) = file.parent.glob("artifact/unet/*.safetensors")
            return load_file(unet)
    raise AssertionError("dreambooth left nothing")


def equal(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(tensor, second[name]) for name, tensor in first.items()
    )


# A.1, A.3, A.4, A.9, C: what an attack may do, and a word of what is then said of its cell

CHANGES = """
    with torch.no_grad():
        for weight in bench.base.components['{part}'].parameters():
            weight.add_(1.0)
    return super().run(bench, config)
"""
BAD = {
    # First, while nothing is drawn yet: what they drew would be kept for the others.
    "changes-unet": (CHANGES.format(part="unet"), "changed the protected model"),
    "changes-vae": (CHANGES.format(part="vae"), "changed the protected model"),
    "changes-text": (CHANGES.format(part="text_encoder"), "changed the protected model"),
    "changes-late": (
        """
        artifact = super().run(bench, config)
        bench.base.trained.conv_in.bias.data.add_(1.0)
        return artifact
        """,
        "changed the protected model",
    ),
    "exits": ("sys.exit(0)", "SystemExit"),
    "generator-exit": ("raise GeneratorExit", "GeneratorExit"),
    "base-exception": ("raise BaseException('x')", "BaseException: x"),
    "key-error": ("raise KeyError('artifact')", "KeyError"),
    "memory-error": ("raise MemoryError", "MemoryError"),
    "recursion": ("raise RecursionError", "RecursionError"),
    "stop-iteration": ("raise StopIteration", "StopIteration"),
    "speechless": (
        """
        class Speechless(Exception):
            def __str__(self):
                raise ValueError("nothing to say")
        raise Speechless
        """,
        "Speechless",
    ),
    "nothing": ("return None", "NoneType"),
    "last-step": (
        """
        type(self).learning_rate = lambda self, step, config: 1e38 if step == 1 else 1e-6
        return super().run(bench, config)
        """,
        "not finite",
    ),
    "etc": ("return Artifact('pipeline', Path('/etc'))", "not in its own folder"),
    "elsewhere": (
        "return Artifact('pipeline', bench.folder / '..' / '..')",
        "not in its own folder",
    ),
    "whole-cell": ("return Artifact('pipeline', bench.folder)", "not in its own folder"),
    "no-weights": (
        """
        (bench.artifact_folder / "readme.txt").write_text("nothing")
        return Artifact("pipeline", bench.artifact_folder)
        """,
        "no artifact",
    ),
    "no-tensors": (
        """
        (bench.artifact_folder / "unet.safetensors").write_text("nothing")
        return Artifact("pipeline", bench.artifact_folder)
        """,
        "cannot be read",
    ),
    "deletes-its-cell": (
        """
        def rate(self, step, config):
            if step == 1:
                shutil.rmtree(bench.folder)
            return 1e-6
        type(self).learning_rate = rate
        return super().run(bench, config)
        """,
        "",
    ),
    "dtype": ("torch.set_default_dtype(torch.float64)\nraise ValueError('x')", "ValueError: x"),
    "grad": ("torch.set_grad_enabled(False)\nraise ValueError('x')", "ValueError: x"),
    "deterministic": (
        "torch.use_deterministic_algorithms(True)\nraise ValueError('x')",
        "ValueError: x",
    ),
    "threads": ("torch.set_num_threads(3)\nraise ValueError('x')", "ValueError: x"),
    "seed": ("torch.manual_seed(5)\nraise ValueError('x')", "ValueError: x"),
    "folder": ("os.chdir('/')\nraise ValueError('x')", "ValueError: x"),
    "prints": (
        """
        print("HELLO")
        os.write(1, b"HELLO")
        sys.__stdout__.write("HELLO")
        raise ValueError('x')
        """,
        "ValueError: x",
    ),
}


def test_bad_attacks_cost_their_own_cells_only(
    root: Path, clean: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = plugin(tmp_path, {name: body for name, (body, _) in BAD.items()})
    before = _state()
    code, cells = rows(capfd, *attack(root, file, *BAD, "dreambooth"), "--no-control")
    assert _state() == before
    assert code == 1 and cells.keys() == {*BAD, "dreambooth"}
    for name, (_, words) in BAD.items():
        assert cells[name]["status"] == "failed", name
        assert words in cells[name]["error"], name
    (finished,) = finished_cells(root / "run" / "attacks")
    assert finished.name.startswith("dreambooth-")
    assert cells["dreambooth"]["status"] == "done"
    assert equal(weights(root), weights(clean))
    assert _drawn(root) and _drawn(root).items() <= _drawn(clean).items()


def _drawn(root: Path) -> dict[str, bytes]:
    cache = root / "_cache"
    return {str(file.relative_to(cache)): file.read_bytes() for file in cache.rglob("*.png")}


def _state() -> tuple[Any, ...]:
    return (
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_num_threads(),
        tuple(torch.get_rng_state().tolist()),
        os.getcwd(),
    )


def test_what_goes_well_prints_beside_the_json(
    root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    body = f"print('HELLO')\nos.write(1, b'HELLO')\n{GOOD}"
    file = plugin(
        tmp_path,
        {"bad": body},
        {"bad": "summary = property(lambda self: print('SUMMARY') or 'A summary.')"},
    )
    file.write_text("print('AT FIRST')\n" + file.read_text())
    code, cells = rows(capfd, *attack(root, file), "--no-control")
    assert code == 0 and cells["bad"]["status"] == "done"
    with pytest.raises(SystemExit):
        main(["plugins", "--json", "--plugin-file", str(file)])
    printed = capfd.readouterr()
    assert json.loads(printed.out)["plugins"]
    assert "AT FIRST" in printed.err and "SUMMARY" in printed.err


# A.3: nobody ends well with weights that are not finite


def test_a_protection_that_goes_to_infinity(made: Path, tmp_path: Path, apdm: Said) -> None:
    code, said = apdm(*protect(made, tmp_path), "--set", "learning_rate=1e38")
    assert code == 1 and "finite" in said and "protected" not in said
    assert not list((tmp_path / "runs").rglob("unet/*.safetensors"))


def protect(
    made: Path, tmp_path: Path, model: Path | None = None, method: Path | None = None
) -> list[str]:
    """`apdm protect` by the house's method, or by the one called "bad" in the file `method`."""
    settings = ["prior_pictures=2", "sampler_steps=2"]
    if method is None:
        settings += ["steps_outer=1", "steps_inner=1"]
    chosen = ["--plugin-file", str(method), "--method", "bad"] if method else []
    options = [part for setting in settings for part in ("--set", setting)]
    common = ["--class", "dog", "--model", str(model or made / "model"), "--device", "cpu"]
    where = ["--out", str(tmp_path / "runs")]
    return ["protect", str(made / "photos"), *common, *where, *options, *chosen]


PROTECTION = '''
import os, sys
import torch
from apdm_cli.extension.hooks import hookimpl
from apdm_cli.extension.protection import Inputs, Protection

class Bad(Protection):
    """Does what no protection should."""
    name = "bad"
    {declared}
    def steps(self, bench, config):
        for index in range(bench.begin(2), 2):
            {line}
            yield {{"loss": 1.0}}

@hookimpl
def apdm_protections():
    return [Bad()]
'''
NAN = "[weight.data.fill_(torch.nan) for weight in bench.model.trained.parameters()]"


@pytest.mark.parametrize(
    ("line", "declared", "words"),
    [
        ("sys.exit(0)", "", "the protection bad left with SystemExit"),
        ("raise GeneratorExit", "", "the protection bad left with GeneratorExit"),
        ("1 / 0", "", "the protection bad failed with ZeroDivisionError"),
        ("yield 3", "", "the protection bad failed with TypeError"),
        ("torch.set_grad_enabled(False); os.chdir('/'); 1 / 0", "", "ZeroDivisionError"),
        (NAN, "", "not finite"),
        ("pass", "inputs = lambda self, subject, config: 1 / 0", "ZeroDivisionError"),
        ("pass", "inputs = lambda self, subject, config: sys.exit(0)", "SystemExit"),
        ("pass", "check = lambda self, config, attacks: sys.exit(0)", "SystemExit"),
        ("pass", "preset_for = lambda self, profile: 1 / 0", "ZeroDivisionError"),
        ("pass", "titles = lambda self, config: 1 / 0", "ZeroDivisionError"),
    ],
)
def test_bad_protections_end_in_one_sentence(
    line: str, declared: str, words: str, made: Path, tmp_path: Path, apdm: Said
) -> None:
    file = tmp_path / "bad_protection.py"
    file.write_text(PROTECTION.format(line=line, declared=declared))
    before = _state()
    code, said = apdm(*protect(made, tmp_path, method=file))
    assert _state() == before
    assert code == 1 and "Traceback" not in said
    assert words in said.replace("\n", " ")
    assert not list(tmp_path.rglob("manifest.json"))  # nothing that looks like a run


def test_a_protection_prints_beside_the_json(
    made: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad_protection.py"
    line = "print('HELLO'); os.write(1, b'HELLO')"
    file.write_text(PROTECTION.format(line=line, declared=""))
    code, manifest, said = _scored(capfd, *protect(made, tmp_path, method=file))
    assert code == 0 and manifest["status"] == "done" and "HELLO" in said


@pytest.mark.parametrize("value", ["inf", "nan", "-inf", "1e30", "1e400"])
@pytest.mark.parametrize("key", ["learning_rate", "sampler_guidance", "prior_weight"])
def test_settings_without_a_meaning(key: str, value: str, root: Path, apdm: Said) -> None:
    command = attack(root, None, "dreambooth")
    code, said = apdm(*command, "--no-control", "--set", f"{key}={value}")
    assert code in (1, 2) and "Traceback" not in said
    assert not list((root / "run").glob("attacks/*/manifest.json"))


# A.4, B: an artifact or manifest that is damaged costs itself


DAMAGED = ("/etc", "../..", "..", "", "artifact/../../..", "cut", "gone", "manifest")


def test_damaged_cells_cost_themselves_only(
    made: Path, root: Path, apdm: Said, clean: Path
) -> None:
    assert apdm(*attack(root, None, "dreambooth"), "--seeds", len(DAMAGED) + 1)[0] == 0
    folders = {}
    for file in (root / "run" / "attacks").glob("*/manifest.json"):
        folders[json.loads(file.read_text())["seed"]] = file.parent
    for seed, how in enumerate(DAMAGED):
        _damage(folders[seed], how)
    code, said = apdm(*evaluate(made, root))
    assert code == 1 and "Traceback" not in said
    scores = json.loads((root / "run" / "evaluation" / "scores.json").read_text())
    found = {(row["seed"], row["arm"]) for row in scores["rows"] if row["role"] == "attack"}
    last = len(DAMAGED)
    # Nobody can tell which control belongs to a manifest that is no manifest.
    expected = {(seed, "original") for seed in range(last + 1) if seed != last - 1}
    assert found == expected | {(last, "protected")}
    reasons = {one["cell"]: one["reason"] for one in scores["left_out"]}
    assert reasons.keys() == {folders[seed].name for seed in range(last)}
    assert all(f"{cell} is left out: " in said.replace("\n", " ") for cell in reasons)
    assert "Not everything that was asked for is there" in said
    assert all(said.count(cell) >= 2 for cell in reasons)
    code, said = apdm("compare", "run", "--out", root)
    assert code == 0 and "Traceback" not in said


def _damage(folder: Path, how: str) -> None:
    manifest = folder / "manifest.json"
    (unet,) = folder.glob("artifact/unet/*.safetensors")
    if how == "manifest":
        manifest.write_text('{"kind": "attack", "arm": 3}')
    elif how == "cut":
        unet.write_bytes(unet.read_bytes()[:1000])
    elif how == "gone":
        unet.unlink()
    else:
        content = json.loads(manifest.read_text())
        content["artifact"]["path"] = how
        manifest.write_text(json.dumps(content))


def evaluate(made: Path, root: Path, *more: str, metrics: str = "dino") -> list[str]:
    drawing = ["--images", "2", "--class-images", "2", "--steps", "1", "--sampler", "ddim"]
    scoring = ["--metrics", metrics, "--weights", f"pocket-vit={made / 'vit'}"]
    return ["evaluate", "run", "--out", str(root), "--device", "cpu", *drawing, *scoring, *more]


# A.5: pictures without content teach nothing


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_an_autoencoder_that_draws_nothing(
    value: float, made: Path, tmp_path: Path, apdm: Said
) -> None:
    model = Path(shutil.copytree(made / "model", tmp_path / "model"))
    (file,) = (model / "vae").glob("*.safetensors")
    tensors = load_file(file)
    for name in tensors:
        if name.startswith("decoder.conv_out"):
            tensors[name] = torch.full_like(tensors[name], value)
    save_file(tensors, file, metadata={"format": "pt"})
    code, said = apdm(*protect(made, tmp_path, model))
    assert code == 1 and "autoencoder" in said
    assert not (tmp_path / "runs" / "photos-dog" / "model").exists()


# B: declarations

DECLARED = {
    "no-profiles": "profiles = None",
    "profiles-of-numbers": "profiles = {'pocket': 3}",
    "raising-profiles": "profiles = property(lambda self: 1 / 0)",
    "raising-summary": "summary = property(lambda self: 1 / 0)",
    "leaving-summary": "summary = property(lambda self: sys.exit(0))",
    "no-config": "Config = None",
    "raising-name": "name = property(lambda self: 1 / 0)",
    "raising-text": "__str__ = __repr__ = lambda self: 1 / 0",
    "escape": "name = 'bad' + chr(27) + '[2J'",
    "long": "name = 'x' * 5000",
    "unwritable-config": (
        "Config = type('Config', (AttackConfig,), {'__annotations__': {'x': object},"
        " 'x': __import__('pydantic').Field(object(), description='x'),"
        " 'model_config': {'arbitrary_types_allowed': True}})"
    ),
}
USABLE = {"raising-text"}  # nobody has to ask an attack for its text


def test_declarations_take_nothing_along(root: Path, tmp_path: Path, apdm: Said) -> None:
    file = plugin(tmp_path, dict.fromkeys(DECLARED, GOOD), DECLARED)
    code, said = apdm(*attack(root, file, "dreambooth"), "--no-control")
    assert code == 0 and "\x1b" not in said and "Traceback" not in said, said
    assert said.count("is broken and was left out") == len(DECLARED) - len(USABLE)
    for command in (["plugins"], ["plugins", "--json"], ["attack", "--list"]):
        code, said = apdm(*command, "--plugin-file", file)
        assert code == 0 and "Traceback" not in said and "\x1b" not in said


@pytest.mark.parametrize("method", ["configure", "continues"])
@pytest.mark.parametrize("line", ["1 / 0", "sys.exit(0)", "raise BaseException('x')"])
def test_questions_before_the_first_step(
    method: str, line: str, root: Path, tmp_path: Path, apdm: Said
) -> None:
    declared = f"def {method}(self, *anything):\n        {line}"
    file = plugin(tmp_path, {"bad": GOOD}, {"bad": declared})
    code, said = apdm(*attack(root, file, "bad", "dreambooth"))
    assert code == 1 and "the attack bad" in said and "Traceback" not in said
    assert not (root / "run" / "attacks").exists()  # refused before anything ran


# C: bounds

LOOP = """
(bench.folder / "looping").touch()
while True:
    try:
        time.sleep(0.01)
    except {caught}:
        pass
"""
TINY = """
save_file({"a": torch.zeros(1)}, bench.artifact_folder / "a.safetensors")
return Artifact("pipeline", bench.artifact_folder)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[multiprocessing.context.ForkServerContext]:
    """Real processes out of one that has imported everything, which takes longer than they do."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["apdm_cli.harness.execute", "apdm_cli.cli.attack", "apdm_attacks", "apdm_metrics"]
    )
    yield context


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.usefixtures("heeded_signals")
@pytest.mark.parametrize(
    ("number", "code", "caught"),
    [
        (signal.SIGTERM, 143, "ZeroDivisionError"),
        (signal.SIGHUP, 129, "Exception"),
        (signal.SIGTERM, 143, "BaseException"),
    ],
)
def test_a_plugin_that_loops_is_ended_by_signals(
    number: signal.Signals,
    code: int,
    caught: str,
    root: Path,
    tmp_path: Path,
    server: multiprocessing.context.ForkServerContext,
) -> None:
    file = plugin(tmp_path, {"bad": LOOP.format(caught=caught)})
    process = server.Process(target=main, args=([*attack(root, file), "--no-control"],))
    process.start()
    deadline = time.monotonic() + 600
    while not list((root / "run").rglob("looping")):
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.05)
    assert process.pid is not None
    while process.is_alive():  # a third one ends even what swallows the second
        os.kill(process.pid, number)
        process.join(0.3)
        assert time.monotonic() < deadline
    assert process.exitcode == code


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_cell_has_its_time(root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    once = LOOP.replace("pass", "caught = True").format(caught="Exception")
    file = plugin(tmp_path, {"bad": once, "quick": TINY})
    code, cells = rows(
        capfd, *attack(root, file, "bad", "quick"), "--cell-timeout", "1", "--no-control"
    )
    assert code == 1 and "more than 1 seconds" in cells["bad"]["error"]
    assert cells["quick"]["status"] == "done"


# A.1, A.6, B: metrics

METRICS = '''
import os, sys
import torch
from apdm_cli.extension.hooks import hookimpl
from apdm_cli.extension.metric import Backend, Metric, Score

class Good(Metric):
    """A number."""
    kind = "quality"
    better = better_for_others = "lower"
    model = None
    def prepare(self, model, device):
        Good.model = model
    def score(self, pictures):
        return Score(self.name, 0.5, len(pictures.images), 0, Backend("x", "y"))

@hookimpl
def apdm_metrics():
    return [{items}]
'''
METRIC = '''
class {cls}(Good):
    """Does what no metric should."""
    name = "{name}"
    {declared}
    def prepare(self, model, device):
        {prepare}
        return super().prepare(model, device)
    def score(self, pictures):
        {score}
        return super().score(pictures)
'''
WRONG = "return Score('{name}', {value}, {n}, 0, Backend('x', 'y'))"
CHANGED = (
    "[weight.data.zero_() for network in {model}.networks().values()"
    " for weight in network.parameters()]"
)
# name -> what `prepare` does, what `score` does
FAILING = {
    "exits": ("pass", "sys.exit(0)"),
    "exits-early": ("sys.exit(0)", "pass"),
    "raises": ("pass", "1 / 0"),
    "raises-early": ("1 / 0", "pass"),
    "raises-base": ("pass", "raise BaseException('x')"),
    "number": ("pass", "return 3"),
    "nothing": ("pass", "return None"),
    "negative": ("pass", WRONG.format(name="negative", value="float('nan')", n=-5)),
    "text": ("pass", WRONG.format(name="text", value="'text'", n=5)),
    "other-name": ("pass", WRONG.format(name="dino", value="0.5", n=5)),
    "changes-model": (CHANGED.format(model="model"), "pass"),
}
SCORING = {
    "changes-pictures": ("pass", "pictures.images.zero_()"),
    "changes-photos": ("pass", "pictures.photos.zero_() if pictures.photos is not None else 0"),
    "changes-state": ("pass", "torch.set_default_dtype(torch.float64)"),
    "changes-model-later": ("pass", CHANGED.format(model="self.model")),
    "prints": ("print('HELLO')", "os.write(1, b'HELLO')"),
}


def metric_plugin(
    folder: Path, declared: Mapping[str, str] | None = None
) -> tuple[Path, list[str]]:
    """A plugin file with every metric of FAILING and SCORING, or one for each of `declared`."""
    file = folder / "bad_metrics.py"
    bodies = {**FAILING, **SCORING} if declared is None else dict.fromkeys(declared, ("pass",) * 2)
    classes = ""
    for number, (name, (prepare, score)) in enumerate(bodies.items()):
        classes += METRIC.format(
            cls=f"Bad{number}",
            name=name,
            prepare=prepare,
            score=score,
            declared=(declared or {}).get(name, ""),
        )
    items = ", ".join(f"Bad{number}()" for number in range(len(bodies)))
    file.write_text(METRICS.replace("{items}", items) + classes)
    return file, list(bodies)


def test_metrics_cost_themselves_only(
    made: Path, attacked: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    without = Path(shutil.copytree(attacked, tmp_path / "without"))
    code, alone, _ = _scored(capfd, *evaluate(made, without))
    assert code == 0
    file, names = metric_plugin(tmp_path)
    before = _state()
    code, scores, said = _scored(
        capfd,
        *evaluate(made, attacked, metrics=",".join([*names, "dino"])),
        *("--plugin-file", str(file)),
    )
    assert _state() == before
    assert code == 1 and "Traceback" not in said  # not everything that was asked for is there
    written = json.loads((attacked / "run" / "evaluation" / "scores.json").read_text())
    assert written == scores
    assert {one["metric"] for one in scores["unavailable"]} == set(FAILING)
    for name in FAILING:
        assert f"{name} is left out" in said
    values, expected = _values(scores), _values(alone)
    assert {key[-1] for key in values} == {*SCORING, "dino"}
    assert {key: value for key, value in values.items() if key[-1] == "dino"} == expected
    pictures = [
        {file.relative_to(root): file.read_bytes() for file in root.rglob("*.png")}
        for root in (attacked, without)
    ]
    assert pictures[0] and pictures[0] == pictures[1]


def test_a_model_that_a_metric_changed_draws_nothing(
    made: Path, attacked: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whichever is drawn first after the metric was: attacks, class pictures, the ceiling."""
    without = Path(shutil.copytree(attacked, tmp_path / "without"))
    file, _ = metric_plugin(tmp_path)
    more = ("--class-images", "4")
    for options in ((), more, more):  # the last time nothing is left to be drawn
        _, alone, _ = _scored(capfd, *evaluate(made, without), *options)
        _, scores, said = _scored(
            capfd,
            *evaluate(made, attacked, metrics="changes-model-later,dino"),
            *("--plugin-file", str(file), *options),
        )
        assert "a metric has changed the original model itself" in said
        assert _values(scores).items() >= _values(alone).items()
        pictures = [
            {file.relative_to(root): file.read_bytes() for file in root.rglob("*.png")}
            for root in (attacked, without)
        ]
        assert pictures[0] and pictures[0] == pictures[1]


DECLARED_METRICS = {
    "sideways": "better = 'sideways'",
    "no-kind": "kind = None",
    "raising-kind": "kind = property(lambda self: 1 / 0)",
    "needs-text": "needs = 'photos'",
    "needs-more": "needs = frozenset({'passport'})",
    "raising-optional": "optional = property(lambda self: 1 / 0)",
    "leads": "leads = True",
}


def test_declarations_of_metrics(made: Path, attacked: Path, tmp_path: Path, apdm: Said) -> None:
    file, names = metric_plugin(tmp_path, DECLARED_METRICS)
    options = ("--plugin-file", file)
    code, said = apdm(*evaluate(made, attacked, metrics="auto"), *options)
    assert code == 0 and "Traceback" not in said
    assert said.count("is broken and was left out") == len(names)
    code, said = apdm(*evaluate(made, attacked, metrics="sideways,dino"), *options)
    assert code == 2 and "better" in said and "sideways" in said


def _scored(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, all of stdout as JSON, and stderr."""
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--json"])
    printed = capfd.readouterr()
    code = ended.value.code
    return code if isinstance(code, int) else 0, json.loads(printed.out), printed.err


def _values(scores: Mapping[str, Any]) -> dict[tuple[str, ...], Any]:
    return {
        (row["role"], row["label"], row["arm"], row["seed"], score["metric"]): score["value"]
        for row in scores["rows"]
        for score in row["scores"]
    }
