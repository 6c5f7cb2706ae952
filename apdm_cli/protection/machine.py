"""What a run needs to know of the machine: its memory, and whether it computes the same twice."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence

import torch

from apdm_cli.devices import is_out_of_memory
from apdm_cli.errors import ApdmError


def peaks(device: torch.device) -> dict[str, int]:
    """Peak memory in bytes, for manifests.

    Returns:
        `peak_memory_bytes`, see `peak_memory`; on CUDA `peak_reserved_bytes` as well: what the
        allocator had taken from the card for that. nvidia-smi shows it, with what the driver and
        the libraries take beside it, and it decides whether a card is large enough.
    """
    found = {"peak_memory_bytes": peak_memory(device)}
    if device.type == "cuda":
        found["peak_reserved_bytes"] = int(torch.cuda.max_memory_reserved(device))
    return found


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: what tensors held on CUDA, of the whole process elsewhere.

    Pages of mapped files count while they are in memory, although the system could drop them.
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


@contextlib.contextmanager
def memory_hint(settings: Sequence[str]) -> Iterator[None]:
    """Turn an out-of-memory error into one that says what to try.

    Args:
        settings: additions to the command line that need less memory, in the order to try them.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ApdmError("There is not enough memory", _hint(settings)) from error


def _hint(settings: Sequence[str]) -> str:
    if not settings:
        return "These settings need the least there is: take a smaller model, or a larger machine."
    first, *others = settings
    then = f" If that is too much still, add {', then '.join(others)}." if others else ""
    return f"Add {first}.{then} apdm protect --dry-run shows what is needed."


@contextlib.contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """Let CUDA compute bit-identically inside the block, where PyTorch can; the CPU does anyway."""
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    before = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
