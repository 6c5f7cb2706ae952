"""How fast are the steps, and how much faster than the published loop written straight down?

    python -m benchmarks.speed [--model pocket|sd15-random|PATH] [--what protect attack ...]
                               [--against plain] [--pieces [WORD ...]] [--profile FILE]
                               [--json FILE]

Seconds per inner step of the preset `published-code`, per step of an attack, per picture drawn and
scored: the median of repetitions after a warm-up, in alternating order, with the distance between
quartiles. Floating-point operations are counted by torch on the real modules; a *unit* is one
forward of the network on one sample. With --against plain the same work is done by
`benchmarks.plain_loop` in the same process, and `ratio` is its time over ours; on a card, which
does not hold both, one after the other. With --pieces inner steps are also timed with one piece of
the fast path changed at a time.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

import apdm_cli.diffusion.recording as recording
import apdm_cli.personalization.optimizers as optimizers
from apdm_cli.config import resolve
from apdm_cli.diffusion.compiling import compiled_forwards
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.photos import load_photos
from apdm_cli.diffusion.sampling import SamplerSettings, sample
from apdm_cli.evaluation.scoring import open_panel, photo_pictures
from apdm_cli.extension.family import load_model
from apdm_cli.extension.manager import (
    attacks,
    build_plugin_manager,
    choose,
    families,
    registered_protections,
)
from apdm_cli.extension.metric import Pictures
from apdm_cli.pocket.profile import WEIGHTS
from apdm_cli.protection.bench import Bench
from apdm_cli.protection.ingredients import stand_ins
from apdm_cli.protection.machine import peaks
from apdm_cli.protection.prompts import training_subject
from apdm_cli.randomness import Streams
from apdm_cli.runs.manifest import versions
from apdm_cli.subject import Subject
from benchmarks.full_size import write_pipeline
from benchmarks.plain_loop import PlainLoop

PHOTOS = WEIGHTS / "subjects" / "dog-1" / "seen"
PRESET = "published-code"
PARTS = ("protect", "attack", "sample", "metrics")
PICTURES = 16
FLOOR = 17  # forward units of an inner step with nothing done twice: 2 × 3 + 3 × 3 + 2


class Workplace:
    """A model and photos, on which the parts are measured."""

    def __init__(self, model: str, device: str, dtype: str) -> None:
        self.plugins = build_plugin_manager()
        self.forwards = contextlib.ExitStack()  # whose compiled code is used until the end
        self.device = torch.device(device)
        self.model: DiffusionModel = load_model(
            model, self.device, getattr(torch, dtype), None, families(self.plugins)
        )
        photos = load_photos((PHOTOS,), self.model.resolution)
        self.subject = Subject("dog-1", "dog", "sks", photos)

    def protect(
        self, settings: dict[str, Any], *, recorded: bool = True, compiled: bool = False
    ) -> Iterator[Any]:
        """Outer steps of the preset on random latents, as `apdm protect` takes them."""
        method = choose(registered_protections(self.plugins), "apdm", "protection").item
        config = resolve(method.Config, method.preset(PRESET), settings)
        model = self.model.private_copy()
        if not recorded:
            model = model.launched()
        elif model.recorder is not None:
            torch.nn.Module.to(model.trained, memory_format=recording.LAYOUT)
        inputs = method.inputs(self.subject, config)
        bench = Bench(
            model,
            training_subject(self.subject, config.prompt_style),
            inputs,
            stand_ins(model, self.subject, inputs),
            Streams(0),
            attacks(self.plugins),
            compile_forward=self.forwards.enter_context(compiled_forwards(compiled, self.device)),
        )
        return iter(method.steps(bench, config))

    def plain(self, outer: int, inner: int) -> Iterator[int]:
        """The same by the loop written straight down."""
        own = self.model.private_copy()
        subject = training_subject(self.subject, "clean")
        pixels = self.subject.photos.pixels.to(self.device)
        # The published loop computes in float32 throughout.
        components = {**own.components}
        for name in ("vae", *own.family.text_encoders):
            components[name] = copy.deepcopy(components[name]).float()
        loop = PlainLoop(
            components, pixels, pixels.flip(0), (subject.personal_prompt, subject.class_prompt)
        )
        return loop.steps(outer, inner)

    def attack(self, name: str, steps: int) -> Iterator[Any]:
        """Steps of an attack, as an attacker inside a protection takes them: the same code."""
        from apdm_cli.extension.protection import Kind

        attack = attacks(self.plugins)[name]
        config = resolve(attack.Config, {"steps": steps})
        method = choose(registered_protections(self.plugins), "apdm", "protection").item
        inputs = method.inputs(self.subject, resolve(method.Config, method.preset(PRESET)))
        model = self.model.private_copy()
        bench = Bench(
            model,
            self.subject,
            inputs,
            stand_ins(model, self.subject, inputs),
            Streams(0),
            attacks(self.plugins),
        )
        made = bench.attacker(Kind(attack, config), bench.photos, "speed")
        return iter(made.steps(steps))

    def draw(self, count: int, steps: int) -> None:
        """Pictures, decoded."""
        settings = SamplerSettings(sampler=self.model.family.defaults.class_sampler, steps=steps)
        prompts = [self.subject.class_prompt] * count
        for _ in sample(self.model, prompts, range(count), settings):
            pass

    def scorer(self, count: int) -> Callable[[], Any]:
        """Scores `count` pictures by every metric that needs nothing more than photos."""
        panel = open_panel(("auto",), self.model, {})
        photos = photo_pictures(self.subject.photos)
        shown = photos.repeat(-(-count // len(photos)), 1, 1, 1)[:count]
        return lambda: panel.scores(Pictures(images=shown, photos=photos))


def measured(work: Mapping[str, Callable[[], Any]], repeat: int) -> dict[str, dict[str, float]]:
    """Seconds of each piece of work: every one once to warm up, then in alternating order."""
    taken: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(repeat + 1):
        for name in work if turn % 2 else reversed(list(work)):
            _wait()
            started = time.perf_counter()
            work[name]()
            _wait()
            if turn:
                taken[name].append(time.perf_counter() - started)
    return {name: _spread(seconds) for name, seconds in taken.items()}


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    low, _, high = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else [seconds[0]] * 3
    return {"median": statistics.median(seconds), "quartiles": high - low, "n": len(seconds)}


def counted(work: Callable[[], Any]) -> int:
    """Floating-point operations of the matrix products and convolutions in `work`."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def synchronizations(work: Callable[[], Any]) -> int | None:
    """How often the host waits for the device in `work`; None without CUDA."""
    import warnings

    if not torch.cuda.is_available():
        return None
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(one.message) for one in caught)


def unit(model: DiffusionModel) -> int:
    """Floating-point operations of one forward of the network on one sample."""
    latents = torch.zeros(1, *model.latent_shape, device=model.device)
    condition = model.encode_text([""])
    step = torch.zeros(1, dtype=torch.long, device=model.device)
    with torch.no_grad():
        return counted(lambda: model.denoiser.predict(latents, step, condition))


def protect(place: Workplace, options: argparse.Namespace) -> dict[str, Any]:
    """Inner steps, ours and, if asked for, those of the loop written straight down."""
    inner = options.inner

    def ours() -> Callable[[], Any]:
        # One path that goes on: the first outer step also pays for the optimizers' memory.
        steps = place.protect({"steps_outer": 10_000, "steps_inner": inner, "prior_pictures": 4})
        next(steps)
        return lambda: next(steps)

    def plain() -> Callable[[], Any]:
        steps = place.plain(10_000, inner)
        next(islice(steps, inner - 1, None))
        return lambda: next(islice(steps, inner - 1, None))

    arms = {"fast": ours}
    if options.against == "plain":
        arms["plain"] = plain
    one = unit(place.model)
    found: dict[str, Any] = {"inner_steps": inner, "unit_flops": one, "floor_units": FLOOR}
    taken: dict[str, dict[str, float]] = {}
    for group in _at_once(arms, place.device):
        work = {name: make() for name, make in group.items()}
        taken |= measured(work, options.repeat)
        for name in work:
            seconds, waits = taken[name], synchronizations(work[name])
            found[name] = {
                "seconds_per_inner_step": {
                    key: value if key == "n" else value / inner for key, value in seconds.items()
                },
                "seconds_per_outer_step": seconds["median"],
                "synchronizations_per_inner_step": None if waits is None else waits / inner,
                **peaks(place.device),
            }
        if "fast" in work and options.profile:
            options.profile.write_text(profile(work["fast"], place.device), encoding="utf-8")
        work.clear()
        _free()
    # Counted where every kernel is launched: what is played back is not seen.
    counting: dict[str, Callable[[], Any]] = {
        "fast": partial(launched, place, inner),
        "plain": plain,
    }
    for name in taken:
        flops = counted(counting[name]()) / inner
        found[name] |= {
            "flops_per_inner_step": flops,
            "units_per_inner_step": flops / one,
            "tflops": flops * inner / taken[name]["median"] / 1e12,
        }
        _free()
    if "plain" in taken:
        found["ratio"] = taken["plain"]["median"] / taken["fast"]["median"]
    return found


def _at_once(
    arms: Mapping[str, Callable[[], Any]], device: torch.device
) -> list[dict[str, Callable[[], Any]]]:
    """Arms in groups that are measured in turns: a card has no room for two full-size ones."""
    if device.type == "cpu":
        return [dict(arms)]
    return [{name: make} for name, make in arms.items()]


def _free() -> None:
    gc.collect()
    gc.collect()  # recordings go when their networks have gone
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def launched(place: Workplace, inner: int) -> Callable[[], Any]:
    """An outer step with nothing recorded."""
    steps = place.protect(
        {"steps_outer": 10_000, "steps_inner": inner, "prior_pictures": 4}, recorded=False
    )
    next(steps)
    return lambda: next(steps)


def profile(work: Callable[[], Any], device: torch.device) -> str:
    """The thirty kernels, or operations, that take most of the time of `work`."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    kinds = [ProfilerActivity.CPU]
    if device.type == "cuda":
        kinds.append(ProfilerActivity.CUDA)
    with profiled(activities=kinds, acc_events=True) as seen:
        work()
        _wait()
    order = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
    table = seen.key_averages().table(sort_by=order, row_limit=30, max_name_column_width=80)
    return str(table)


@contextlib.contextmanager
def changed(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Inside, `owner.name` is `value`."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def pieces(place: Workplace, options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """(piece, seconds per inner step) with one piece changed at a time.

    What comes before the second outer step is told apart: optimizers get their memory, passes are
    recorded and layers compiled.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    nothing = contextlib.nullcontext
    backends = ("FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION", "MATH")
    layout = partial(changed, recording, "LAYOUT", torch.contiguous_format)
    untried = partial(changed, recording, "TRY_KERNELS", False)
    variants: dict[str, tuple[Callable[[], Any], dict[str, Any], dict[str, bool]]] = {
        "as it is": (nothing, {}, {}),
        "launched, not recorded": (nothing, {}, {"recorded": False}),
        "one forward at a time": (nothing, {"batched_forwards": False}, {}),
        "AdamW foreach, not fused": (partial(changed, optimizers, "FUSED", False), {}, {}),
        "weights not in channels_last": (layout, {}, {}),
        "cuDNN does not try its kernels": (untried, {}, {}),
    }
    if place.device.type == "cuda":
        for name in backends:
            backend = partial(sdpa_kernel, getattr(SDPBackend, name))
            variants[f"attention: {name}"] = (backend, {}, {})
    variants["layers compiled"] = (nothing, {}, {"compiled": True})  # last: it takes minutes
    for name, (context, settings, how) in variants.items():
        if options.pieces and not any(word in name for word in options.pieces):
            continue
        found: dict[str, Any] = {}
        started = time.perf_counter()
        try:
            with context():
                steps = place.protect(
                    {"steps_outer": 10_000, "steps_inner": options.inner, "prior_pictures": 4}
                    | settings,
                    **how,
                )
                next(steps)
                found["seconds_before"] = time.perf_counter() - started
                taken = measured({name: partial(next, steps)}, min(3, options.repeat))[name]
            found["seconds_per_inner_step"] = taken["median"] / options.inner
            found |= peaks(place.device)
        except RuntimeError as error:
            found["error"] = str(error).partition("\n")[0]
        steps = iter(())
        _free()
        print(f"{name}: {found}", file=sys.stderr)
        yield name, found


def attack(place: Workplace, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds per step of DreamBooth and of a LoRA."""
    names = ("dreambooth", "lora")
    work = {name: partial(next, place.attack(name, 10_000)) for name in names}
    taken = measured(work, options.repeat * 3)
    return {name: {"seconds_per_step": seconds} for name, seconds in taken.items()}


def drawing(place: Workplace, options: argparse.Namespace) -> dict[str, Any]:
    """Pictures a second at twenty steps."""
    taken = measured({"draw": lambda: place.draw(PICTURES, 20)}, max(2, options.repeat // 2))
    return {"pictures_per_second": PICTURES / taken["draw"]["median"], "seconds": taken["draw"]}


def metrics(place: Workplace, options: argparse.Namespace) -> dict[str, Any]:
    """Pictures a second through all metrics that are not optional."""
    taken = measured({"score": place.scorer(4 * PICTURES)}, options.repeat)
    rate = 4 * PICTURES / taken["score"]["median"]
    return {"pictures_per_second": rate, "seconds": taken["score"]}


MEASURES = dict(zip(PARTS, (protect, attack, drawing, metrics), strict=True))


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="pocket", help="pocket, sd15-random or a folder")
    parser.add_argument("--what", nargs="*", choices=(*PARTS, "all"), default=["all"])
    parser.add_argument("--against", choices=("plain",), help="the published loop")
    parser.add_argument(
        "--pieces", nargs="*", metavar="WORD", help="one piece changed at a time; those named so"
    )
    parser.add_argument("--profile", type=Path, metavar="FILE", help="the kernels of a step")
    parser.add_argument("--inner", type=int, default=5, help="inner steps to an outer one")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32", help="bfloat16 on a card")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        source = options.model
        if source == "sd15-random":
            source = str(Path(scratch) / "sd15")
            write_pipeline(Path(source), "1.5", 64)
        place = Workplace(source, options.device, options.dtype)
        found: dict[str, Any] = {
            "model": options.model,
            "device": torch.cuda.get_device_name() if options.device != "cpu" else "cpu",
            "dtype": options.dtype,
            "threads": torch.get_num_threads(),
            "versions": versions(),
            "preset": PRESET,
        }
        for name in PARTS if "all" in options.what else dict.fromkeys(options.what):
            print(f"{name} ...", file=sys.stderr)
            found[name] = MEASURES[name](place, options)
            _free()
            _write(found, options.json)
        if options.pieces is not None:
            found["pieces"] = {}
            for piece, taken in pieces(place, options):
                found["pieces"][piece] = taken
                _write(found, options.json)
    _write(found, options.json)
    print(json.dumps(found, indent=1))


def _write(found: dict[str, Any], path: Path | None) -> None:
    if path is not None:
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
