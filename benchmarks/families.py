"""What works on which family of models: run, on tiny random pipelines of diffusers' own classes.

    python -m benchmarks.families            # prints the table
    python -m benchmarks.families --write    # and puts it into docs/models.md

Protects all weights and an adapter, also on a base in 8 bits, attacks with everything, evaluates,
and lets diffusers' own loaders draw from what was protected. A cell is ✓, or the sentence that a
user gets. It takes a minute of a core.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from apdm_cli.extension.family import Family
from apdm_cli.extension.manager import build_plugin_manager
from apdm_cli.extension.manager import families as installed
from apdm_families.qwen_image import QwenImage
from tests.families.tiny_chat import (
    SIDE,
    make_tiny_flux2,
    make_tiny_qwen_image,
    make_tiny_z_image,
)
from tests.families.tiny_flow import make_tiny_flux, make_tiny_sd3
from tests.families.tiny_xl import make_tiny_xl
from tests.metrics.material import make_vit
from tests.tiny import make_photos, make_tiny_pipeline

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
BEGIN, END = "<!-- families -->", "<!-- /families -->"
DONE = "✓"
# Family → a model of it with random weights, written into a folder.
MODELS: Mapping[str, Callable[[Path], Path]] = {
    "stable-diffusion": lambda folder: make_tiny_pipeline(folder, channels=(16, 32), text_layers=1),
    "sdxl": make_tiny_xl,
    "sd3": make_tiny_sd3,
    "flux": make_tiny_flux,
    "flux2": make_tiny_flux2,
    "z-image": make_tiny_z_image,
    "qwen-image": make_tiny_qwen_image,
}
# Row of the table → attack and what is set: every attack that trains once, and variants that write
# other files. The others repeat one of these.
ATTACKS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "dreambooth": ("dreambooth", {}),
    "dreambooth-text": ("dreambooth-text", {}),
    "lora": ("lora", {"rank": 2}),
    "lora, feed_forward": ("lora", {"rank": 2, "feed_forward": True}),
    "lora, convolutions": ("lora", {"rank": 2, "convolutions": True}),
    "lora, text_encoder": ("lora", {"rank": 2, "text_encoder": True}),
    "lora, dora": ("lora", {"rank": 2, "variant": "dora"}),
    "lora, lokr": ("lora", {"rank": 2, "variant": "lokr"}),
    "lora, export=kohya": ("lora", {"rank": 2, "export": "kohya"}),
    "textual-inversion": ("textual-inversion", {}),
    "pivotal-tuning": ("pivotal-tuning", {"rank": 2}),
    "custom-diffusion": ("custom-diffusion", {}),
}
QUICK = {"steps": 1, "prior_pictures": 1, "sampler_steps": 2}
PROTECT = ("steps_outer=1", "steps_inner=1", "prior_pictures=1", "sampler_steps=2")
ADAPTER = ("--set", "train=adapter")
# One small step would be less than the rounding of weights as few as these, and be refused for it.
EIGHT_BITS = (
    *("adapter.base=int8", "path.attack=lora", "path.settings.rank=2", "learning_rate=1e-3"),
)
# Row → what is added to the command; the adapter alone comes last.
PROTECTIONS: Mapping[str, tuple[str, ...]] = {
    "protect, all weights": (),
    "protect, adapter merged": ADAPTER,
    "protect, adapter on 8 bits": (
        *ADAPTER,
        *(word for setting in EIGHT_BITS for word in ("--set", setting)),
    ),
    "protect, adapter alone": (*ADAPTER, "--save", "adapter"),
}
EVALUATE, PLAIN = "evaluate, compare", "plain diffusers draws"
LINES = "lines of its file"


def column(family: str, folder: Path) -> dict[str, str]:
    """What came of every row on a model of `family`; `folder` is empty."""
    model, runs = MODELS[family](folder / "model"), folder / "runs"
    photos, vit = make_photos(folder / "photos", count=2), make_vit(folder / "vit")
    common = ("--device", "cpu", "--out", str(runs))
    sets = [word for setting in PROTECT for word in ("--set", setting)]
    asked = (str(photos), "--class", "person", "--model", str(model), *sets)
    cells = {}
    for number, (row, more) in enumerate(PROTECTIONS.items()):
        cells[row] = _apdm("protect", *asked, "--name", f"run-{number}", *more, *common)[0]
    suite = folder / "suite.toml"
    suite.write_text("".join(_entry(*attack) for attack in ATTACKS.values()))
    _, text = _apdm("attack", "run-0", "--suite", str(suite), "--no-control", "--json", *common)
    found = json.loads(text)["cells"]
    for row, cell in zip(ATTACKS, found, strict=True):
        cells[row] = _sentence(cell["error"]) if cell.get("error") else DONE
    drawing = ("--images", "1", "--class-images", "2", "--steps", "2")
    weights = ("--metrics", "dino", "--weights", f"pocket-vit={vit}")
    cells[EVALUATE] = _apdm("evaluate", "run-0", *drawing, *weights, *common)[0]
    if cells[EVALUATE] == DONE:
        cells[EVALUATE] = _apdm("compare", "run-0", "--out", str(runs))[0]
    cells[PLAIN] = _plain(runs)
    return cells


def lines_of(family: Family) -> int:
    """Of the file that the family is written in."""
    return len(inspect.getsource(inspect.getmodule(type(family)) or type(family)).splitlines())


def _entry(name: str, chosen: Mapping[str, Any]) -> str:
    values = ", ".join(f"{key} = {json.dumps(value)}" for key, value in {**QUICK, **chosen}.items())
    return f'[[attack]]\nname = "{name}"\nset = {{ {values} }}\n'


def _apdm(*arguments: str) -> tuple[str, str]:
    """✓ or the sentence of `apdm ARGUMENTS`, and what it printed."""
    from apdm_cli.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(list(arguments))
        except SystemExit as ended:
            if not ended.code:
                return DONE, out.getvalue()
    said = " ".join(err.getvalue().split()).rpartition("Error: ")[2]
    return _sentence(said), out.getvalue()


def _sentence(text: str) -> str:
    return text.splitlines()[0].strip().rstrip(".") + "."


def _plain(runs: Path) -> str:
    """diffusers' own pipeline and loaders on all three protections."""
    from diffusers import DiffusionPipeline

    for number in range(len(PROTECTIONS)):
        folder, alone = runs / f"run-{number}" / "model", number == len(PROTECTIONS) - 1
        try:
            pipe = DiffusionPipeline.from_pretrained(runs.parent / "model" if alone else folder)
            if alone:
                pipe.load_lora_weights(folder)
                pipe.fuse_lora()
            pipe.set_progress_bar_config(disable=True)
            small = {"max_sequence_length": 16, "height": SIDE, "width": SIDE}
            short = small if hasattr(pipe, "transformer") else {}
            pipe(prompt="a photo of person", num_inference_steps=2, output_type="pt", **short)
        except Exception as error:  # whatever the library says is the cell
            return _sentence(f"{type(error).__name__}: {error}")
    return DONE


def table(columns: Mapping[str, Mapping[str, str]]) -> str:
    """Markdown; what is no ✓ becomes a number, and below stands what is said of any FAMILY."""
    families, known = list(columns), installed(build_plugin_manager())
    said: dict[str, int] = {}
    lines = [
        f"| | {' | '.join(f'`{name}`' for name in families)} |",
        "|---|" + "---|" * len(families),
    ]
    for row in (*PROTECTIONS, *ATTACKS, EVALUATE, PLAIN):
        shown = []
        for name in families:
            cell = columns[name].get(row, "not run").replace(known[name].title, "FAMILY")
            shown.append(cell if cell == DONE else f"({said.setdefault(cell, len(said) + 1)})")
        lines.append(f"| {row} | {' | '.join(shown)} |")
    lines.append(f"| {LINES} | {' | '.join(str(lines_of(known[name])) for name in families)} |")
    notes = [f"{number}. {sentence}" for sentence, number in said.items()]
    return "\n".join([*lines, "", *notes])


def main(argv: Sequence[str] | None = None) -> None:
    """Run everything, print the table, and write it where that is asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help=f"into docs/{PAGE.name}")
    asked = parser.parse_args(argv)
    columns = {}
    QwenImage.side = SIDE  # its files do not say how large its pictures are
    for family in MODELS:
        with tempfile.TemporaryDirectory(prefix="apdm-") as folder:
            columns[family] = column(family, Path(folder))
    text = table(columns)
    print(text)
    if asked.write:
        head, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
        PAGE.write_text(f"{head}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
