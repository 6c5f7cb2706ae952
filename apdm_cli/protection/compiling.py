"""Forwards through torch.compile, where its compiler is installed."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator
from functools import cache

import torch
from torch import nn


@contextlib.contextmanager
def compiled_forwards(wanted: bool, device: torch.device) -> Iterator[Callable[[nn.Module], None]]:
    """Yields a function that compiles a module's forward in place, until the block ends.

    Modules of equal layers share what is compiled. Without `wanted`, or where nothing can be
    compiled (`compiling_problem`), the function does nothing.
    """
    if not wanted or compiling_problem(device.type) is not None:
        yield lambda module: None
        return
    modules: list[nn.Module] = []

    def compile_forward(module: nn.Module) -> None:
        module.compile(dynamic=False)
        modules.append(module)

    try:
        with warnings.catch_warnings():
            # Remarks for the authors of the compiled code, which is diffusers'.
            warnings.filterwarnings("ignore", module=r"torch\._(dynamo|inductor).*")
            yield compile_forward
    finally:
        for module in modules:
            module._compiled_call_impl = None


@contextlib.contextmanager
def not_compiled() -> Iterator[None]:
    """Inside, compiled modules run as they are: for batches of another size."""
    with torch.compiler.set_stance("force_eager"):
        yield


@cache
def compiling_problem(device: str) -> str | None:
    """Why nothing can be compiled for "cpu" or "cuda"; None where a trial went well.

    A C++ compiler is needed, or Triton on a GPU.
    """
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            numbers = torch.ones(4, device=device)
            torch.compile(_trial)(numbers)
    except Exception as error:
        return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return None


def _trial(numbers: torch.Tensor) -> torch.Tensor:
    return (numbers * 2).sin().sum()
