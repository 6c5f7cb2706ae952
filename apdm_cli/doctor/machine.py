"""The machine: processor, graphics cards, memory, disks, and which precisions really compute."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from apdm_cli.doctor.findings import Finding, note, ok, problem
from apdm_cli.runs.disk import format_bytes

if TYPE_CHECKING:
    import torch

SIDE = 512  # of the matrices that are multiplied
REPEATS = 20
# Relative error of a product of random matrices in each precision, with a wide margin.
TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2, "fp16": 1e-2}
LITTLE_DISK, NO_DISK = 5 * 10**9, 200 * 10**6
LITTLE_MEMORY = 4 * 10**9


def device() -> Iterator[Finding]:
    """What `--device auto` takes here."""
    import torch

    from apdm_cli.devices import resolve_device

    chosen = resolve_device("auto")
    threads = torch.get_num_threads()
    cores = f"{os.cpu_count()} cores, {threads} of them used"
    yield ok("device", f"--device auto is {chosen}; processor: {cores}", auto=str(chosen))
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        card = torch.cuda.get_device_properties(index)
        says = f"cuda:{index} is an {card.name} with {format_bytes(card.total_memory)}"
        yield ok("device", says, name=card.name, bytes=card.total_memory)
    if chosen.type == "cpu":
        built = torch.version.cuda
        why = (
            f"PyTorch was built for CUDA {built} and finds no card"
            if built
            else ("this PyTorch knows only the processor")
        )
        yield note(
            "device",
            f"no graphics card is used: {why}",
            "The embedded model needs none. A full-size model does: install the driver, or a "
            "PyTorch for CUDA (make setup TORCH=cuda).",
        )


def precisions() -> Iterator[Finding]:
    """Whether fp32, bf16 and fp16 compute here, how exactly, and how fast: measured."""

    from apdm_cli.devices import resolve_device, resolve_dtype

    target = resolve_device("auto")
    times: dict[str, float] = {}
    broken: dict[str, str] = {}
    for name in ("fp32", "bf16", "fp16"):
        try:
            error, seconds = _product(target, resolve_dtype(name, target))
        except (RuntimeError, NotImplementedError) as refused:
            broken[name] = str(refused).splitlines()[0]
            continue
        if error <= TOLERANCE[name]:
            times[name] = seconds
        else:
            broken[name] = f"a product is wrong by {error:.1%}"
    auto = str(resolve_dtype("auto", target)).removeprefix("torch.")
    base = times.get("fp32")
    parts = [
        f"{name} {seconds * 1000:.1f} ms"
        + (f" ({base / seconds:.1f} times as fast as fp32)" if base and name != "fp32" else "")
        for name, seconds in times.items()
    ]
    shown = ", ".join(parts)
    if "fp32" in times:
        says = f"a product of {SIDE}×{SIDE} matrices on {target}: {shown}; --dtype auto is {auto}"
        yield ok("precision", says, seconds=times, auto=auto)
    for name, why in broken.items():
        report = problem if name == "fp32" else note
        yield report("precision", f"{name} does not work on {target}: {why}", seconds=None)


def memory() -> Iterator[Finding]:
    """Main memory, within the limits of a container."""
    total, free = _memory()
    if total is None:
        yield note("memory", "the amount of main memory is not known on this system")
        return
    says = f"{format_bytes(total)} of main memory"
    says += f", {format_bytes(free)} free" if free is not None else ""
    data = {"total": total, "free": free}
    if (free if free is not None else total) < LITTLE_MEMORY:
        advice = "The embedded model needs about 2 GB. A full-size one may want --memory low."
        yield note("memory", says, advice, **data)
    else:
        yield ok("memory", says, **data)


def disks(root: Path, caches: dict[str, Path]) -> Iterator[Finding]:
    """Free space and permission to write where results and caches go. Nothing is left behind."""
    for what, folder in {"runs": root, **caches}.items():
        place = _existing(folder)
        if not os.access(place, os.W_OK | os.X_OK):
            report = problem if what == "runs" else note
            yield report(
                "disk",
                f"{what}: {place} cannot be written",
                "Choose another folder with --out." if what == "runs" else "Check permissions.",
            )
            continue
        free = shutil.disk_usage(place).free
        says = f"{what}: {format_bytes(free)} free in {folder}"
        if free < NO_DISK:
            yield problem("disk", says, "apdm runs shows what takes room, apdm clean frees it.")
        elif free < LITTLE_DISK and what == "runs":
            advice = "Enough for the embedded model; a full-size one takes 4 GB an attack."
            yield note("disk", says, advice, free=free)
        else:
            yield ok("disk", says, free=free)


def _product(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Relative error of a matrix product in `dtype`, and seconds of the fastest of a few."""
    import torch

    from apdm_cli.randomness import Streams

    generator = Streams(0).generator("doctor/precision")
    left, right = (torch.randn(SIDE, SIDE, generator=generator) for _ in range(2))
    exact = left.double() @ right.double()
    first, second = (part.to(device=device, dtype=dtype) for part in (left, right))
    found = (first @ second).cpu().double()
    fastest = float("inf")
    for _ in range(REPEATS):
        started = time.perf_counter()
        (first @ second)[0, 0].item()  # which waits until the card has computed it
        fastest = min(fastest, time.perf_counter() - started)
    return ((found - exact).norm() / exact.norm()).item(), fastest


def _memory() -> tuple[int | None, int | None]:
    """Total and free bytes; None where the system does not say."""
    total = free = None
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        total = page * os.sysconf("SC_PHYS_PAGES")
        free = page * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return total, free
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvail"))
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        total, free = min(total, limit), min(free, max(0, limit - used))
    except (OSError, ValueError, StopIteration):
        pass  # no container, or no limit in it
    return total, free


def _existing(folder: Path) -> Path:
    """`folder`, or the nearest of its parents that exists."""
    place = folder.absolute()
    while not place.is_dir() and place != place.parent:
        place = place.parent
    return place
