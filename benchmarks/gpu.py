"""Everything worth knowing about one GPU in some twelve minutes, part by part.

    benchmarks/gpu.sh [--skip train] [--only card sd15] [--within 720] [--tiny]

Each part runs in a process of its own with a time limit, and its result is written to
`<out>/gpu.json` as soon as it is there. A part that is there already is left alone, so that the
command can be given again. Parts, in order:

- `card`: the card's name, versions, matrix and copy rates;
- `tests`: `tests/gpu`;
- `pocket`: protect, attack and evaluate with the pocket model, on the card and on its processor;
- `speed`: `benchmarks.speed` on a model of Stable Diffusion 1.5's shape with random weights, beside
  the published loop, in `<out>/speed.json`;
- `sd15`: one protection of a model of Stable Diffusion 1.5's shape with random weights, 512 px,
  normal and low memory: seconds per outer step of 20 inner steps, peak memory, and what
  `--dry-run` has foreseen;
- `pieces`: `benchmarks.speed` with one piece of the fast path changed at a time;
- `attack`: DreamBooth and LoRA on it, seconds per step; drawing, pictures per second;
- `train`: the pocket model, with whatever time is left (`pocket_training.train --plan gpu`); its
  weights are `<out>/pocket/weights.safetensors`, and `python -m pocket_training.assembly` makes a
  model of them.

`--tiny` runs the same with toy sizes on the CPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
WEIGHTS = ROOT / "apdm_cli" / "pocket" / "weights"
PHOTOS = WEIGHTS / "subjects" / "dog-1" / "seen"
APDM = (sys.executable, "-c", "from apdm_cli.cli.main import main; main()")
LEAST_FOR_TRAINING = 120.0  # seconds; with less a training is not worth beginning
POCKET_STEPS = 40
MATRIX = 8192
COPY = 2**30  # bytes
FORESEEN = {"normal": "", "low": "--memory low"}  # as `protect --dry-run` names the settings


@dataclass(frozen=True)
class Desk:
    """Where this run of the parts keeps its files, on which device, and until when."""

    out: Path
    work: Path
    tiny: bool
    end: float  # by `time.monotonic`

    @property
    def device(self) -> str:
        return "cpu" if self.tiny else "cuda"

    def left(self) -> float:
        """Seconds until everything has to be over."""
        return self.end - time.monotonic()

    def call(self, command: Sequence[str | os.PathLike[str]], limit: float) -> dict[str, Any]:
        """Runs a command; its exit code, seconds and the last lines of what it said."""
        started = time.monotonic()
        try:
            done = subprocess.run(
                command, cwd=self.work, timeout=max(1.0, min(limit, self.left())), text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            code, said = done.returncode, done.stdout
        except subprocess.TimeoutExpired as late:
            output = late.stdout or b""
            code, said = 124, output.decode() if isinstance(output, bytes) else output
        print(said, flush=True)
        seconds = round(time.monotonic() - started, 1)
        return {"exit": code, "seconds": seconds, "said": said.splitlines()}


def card(desk: Desk) -> dict[str, Any]:
    """Name, versions, matrix rate in bf16 (TFLOP/s), copy rate (TB/s, read and written)."""
    import torch

    from apdm_cli.runs.manifest import versions

    found: dict[str, Any] = {"versions": versions(), "cores": os.cpu_count()}
    if desk.device != "cuda":
        return found

    def seconds(work: Callable[[], Any], times: int = 10) -> float:
        for _ in range(3):
            work()
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(times):
            work()
        torch.cuda.synchronize()
        return (time.perf_counter() - started) / times

    first, second = torch.randn(2, MATRIX, MATRIX, device="cuda", dtype=torch.bfloat16)
    source = torch.empty(COPY, device="cuda", dtype=torch.uint8)
    target = torch.empty_like(source)
    return found | {
        "name": torch.cuda.get_device_name(0),
        "bf16_tflops": round(2 * MATRIX**3 / seconds(lambda: first @ second) / 1e12),
        "copy_tbs": round(2 * COPY / seconds(lambda: target.copy_(source)) / 1e12, 2),
    }


def tests(desk: Desk) -> dict[str, Any]:
    """`tests/gpu`: the exit code and pytest's last lines."""
    os.environ["APDM_GPU_TESTS"] = desk.device
    # One after the other they take longer than many a card is lent for: most of it is starting.
    together = ("-n", "4") if importlib.util.find_spec("xdist") else ()
    done = desk.call([sys.executable, "-m", "pytest", "-q", *together, ROOT / "tests" / "gpu"], 240)
    return done | {"said": done["said"][-12:]}


def pocket(desk: Desk) -> dict[str, Any]:
    """Seconds of a short protection of the pocket model, attack and evaluation, by device."""
    found: dict[str, Any] = {}
    for device in dict.fromkeys((desk.device, "cpu")):
        name, common = f"pocket-{device}", ("--device", device, "--json")
        steps = 2 if desk.tiny else POCKET_STEPS
        found[device] = {
            "steps": steps,
            "protect": desk.call(
                [*APDM, "protect", PHOTOS, "--class", "dog", "--name", name,
                 "--set", f"steps_outer={steps}", *common], 120
            ),
            "attack": desk.call([*APDM, "attack", name, "--plugin", "dreambooth", *common], 90),
            "evaluate": desk.call(
                [*APDM, "evaluate", name, "--images", "8", "--class-images", "32", *common], 90
            ),
        }  # fmt: skip
        for done in found[device].values():
            if isinstance(done, dict):
                done["said"] = done["said"][-3:] if done["exit"] else []
    return found


def full_size(desk: Desk) -> str:
    """A model of Stable Diffusion 1.5's shape with random weights; the pocket model if tiny."""
    if desk.tiny:
        return "pocket"
    folder = desk.work / "sd15"
    if not (folder / "model_index.json").exists():
        from benchmarks.full_size import write_pipeline

        write_pipeline(folder, "1.5", 64)
    return str(folder)


def sd15(desk: Desk) -> dict[str, Any]:
    """Seconds per outer step and peak memory, normal and low, beside what a dry run foresees."""
    model = full_size(desk)
    # Low takes a minute for each.
    outer = {"low": 1, "normal": 1 if desk.tiny else 20}
    inner = 1 if desk.tiny else 20
    settings = {"steps_inner": inner, "prior_pictures": 4, "sampler_steps": 2}
    sets = [part for k, v in settings.items() for part in ("--set", f"{k}={v}")]
    protect = [
        *APDM, "protect", PHOTOS, "--class", "dog", "--model", model, "--preset", "paper",
        "--device", desk.device, "--dtype", "fp32" if desk.tiny else "bf16", *sets,
    ]  # fmt: skip
    found: dict[str, Any] = {}
    for memory, steps in outer.items():
        done = desk.call(
            [*protect, "--memory", memory, "--name", f"sd15-{memory}", "--save", "unet-only",
             "--set", f"steps_outer={steps}"],
            200,
        )  # fmt: skip
        manifest = desk.work / "runs" / f"sd15-{memory}" / "manifest.json"
        run = json.loads(manifest.read_text("utf-8")) if manifest.exists() else {}
        rows = manifest.with_name("metrics.jsonl")
        found[memory] = {
            "exit": done["exit"],
            "outer_steps": steps,
            "inner_steps": inner,
            "seconds": run.get("duration_seconds"),
            "seconds_of_the_process": done["seconds"],
            "said": [line for line in done["said"] if line.startswith("Protecting")],
            "peak_gib": round(run.get("peak_memory_bytes", 0) / 2**30, 2),
            "peak_reserved_gib": round(run.get("peak_reserved_bytes", 0) / 2**30, 2),
            "rows": [json.loads(line) for line in rows.read_text("utf-8").splitlines()]
            if rows.exists()
            else done["said"][-5:],
        }
        # A part that is stopped here leaves what it has.
        (desk.out / "sd15.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    planned = desk.call([*protect, "--dry-run", "--json"], 150)
    plan = _json(planned)["said"]
    foreseen = plan["card_bytes"] if isinstance(plan, dict) else {}
    for memory in outer:
        found[memory]["foreseen_gib"] = round(foreseen.get(FORESEEN[memory], 0) / 2**30, 2)
    return found | {"dry_run": planned | {"said": plan["lines"] if foreseen else plan}}


def speed(desk: Desk) -> dict[str, Any]:
    """`benchmarks.speed` on that shape, beside the published loop."""
    more = ("--against", "plain", "--profile", desk.out / "profile.txt")
    what = ("protect",) if desk.tiny else ("protect", "attack", "sample")
    return _speed(desk, "speed.json", what, *more)


def pieces(desk: Desk) -> dict[str, Any]:
    """Its inner steps with one piece of the fast path changed at a time."""
    return _speed(desk, "pieces.json", (), "--pieces")


def _speed(
    desk: Desk, name: str, what: Sequence[str], *more: str | os.PathLike[str]
) -> dict[str, Any]:
    size = ("--inner", "1", "--repeat", "1") if desk.tiny else ("--inner", "5", "--repeat", "3")
    done = desk.call(
        [sys.executable, "-m", "benchmarks.speed", "--model", full_size(desk),
         "--dtype", "float32" if desk.tiny else "bfloat16", "--device", desk.device,
         "--what", *what, *more, *size, "--json", desk.out / name],
        300,
    )  # fmt: skip
    return done | {"said": [] if done["exit"] == 0 else done["said"][-12:]}


def attack(desk: Desk) -> dict[str, Any]:
    """Seconds of DreamBooth and LoRA on the protected full-size model, and of drawing."""
    steps, pictures = ("1", "1") if desk.tiny else ("60", "8")
    common = ("--device", desk.device, "--json")
    trained = desk.call(
        [*APDM, "attack", "sd15-normal", "--plugin", "dreambooth", "--plugin", "lora",
         "--set", f"steps={steps}", "--set", "prior_pictures=4", "--set", "sampler_steps=2",
         "--no-control", *common],
        200,
    )  # fmt: skip
    judged = desk.call(
        [*APDM, "evaluate", "sd15-normal", "--images", pictures, "--class-images", "8",
         "--metrics", "dino", *common],
        150,
    )  # fmt: skip
    return {"steps": int(steps), "pictures": int(pictures), "attack": trained | _json(trained),
            "evaluate": judged | _json(judged)}  # fmt: skip


def _json(done: dict[str, Any]) -> dict[str, Any]:
    """The JSON document among the lines that a command said, in place of the lines."""
    lines = done["said"]
    first = next((i for i, line in enumerate(lines) if line.startswith("{")), None)
    try:
        return {"said": json.loads("\n".join(lines[first:])) if first is not None else lines[-5:]}
    except ValueError:
        return {"said": lines[-5:]}


def train(desk: Desk) -> dict[str, Any]:
    """The pocket model in the time that is left; its weights are in `<out>/pocket`."""
    seconds = desk.left() - 20
    if not desk.tiny and seconds < LEAST_FOR_TRAINING:
        return {"exit": None, "said": [f"only {seconds:.0f} s were left"]}
    size: tuple[str | Path, ...] = ("--scale", "0.001")
    if not desk.tiny:
        size = ("--within", f"{seconds:.0f}", "--extractor", WEIGHTS / "extractor")
    done = desk.call(
        [sys.executable, "-m", "pocket_training.train", "--plan", "gpu", "--device", desk.device,
         "--workers", "1", "--work", desk.work / "training", "--out",
         desk.work / "model", "--results", desk.out / "pocket", *size],
        seconds + 15,
    )  # fmt: skip
    return done | {"said": [line for line in done["said"] if ": step" not in line][-40:]}


def _fine(result: dict[str, Any]) -> bool:
    """Whether nothing in a part's result, however deep, ended with an error."""
    if "error" in result or result.get("exit") not in (0, None):
        return False
    return all(_fine(value) for value in result.values() if isinstance(value, dict))


PARTS: dict[str, Callable[[Desk], dict[str, Any]]] = {
    "card": card, "tests": tests, "pocket": pocket, "speed": speed, "sd15": sd15, "pieces": pieces,
    "attack": attack, "train": train,
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Run the parts that are wanted and not there yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("gpu-out"), help="where results go")
    parser.add_argument("--work", type=Path, help="for large files; default: <out>/work")
    parser.add_argument("--only", nargs="+", choices=tuple(PARTS), help="these parts")
    parser.add_argument("--skip", nargs="+", choices=tuple(PARTS), default=[], help="not these")
    parser.add_argument("--within", type=float, default=720.0, metavar="SECONDS")
    parser.add_argument("--tiny", action="store_true", help="toy sizes on the CPU")
    options = parser.parse_args(argv)
    out = options.out.resolve()
    work = (options.work or out / "work").resolve()
    work.mkdir(parents=True, exist_ok=True)
    desk = Desk(out, work, options.tiny, time.monotonic() + options.within)
    path = out / "gpu.json"
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    for name, part in PARTS.items():
        if name in options.skip or name in found or name not in (options.only or PARTS):
            continue
        print(f"== {name}, {desk.left():.0f} s left", flush=True)
        started = time.monotonic()
        try:
            result = part(desk)
        except Exception as error:  # one part that fails must not cost the others their turn
            result = {"error": repr(error)}
        found[name] = result | {"part_seconds": round(time.monotonic() - started, 1)}
        path.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    failed = [name for name, result in found.items() if not _fine(result)]
    print(f"written: {path}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
