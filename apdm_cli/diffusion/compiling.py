"""Forwards through torch.compile, where its compiler is installed."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import nn

from apdm_cli.diffusion.recording import Recorder

# What repeats in diffusers' U-Nets and autoencoders; its transformers name theirs themselves.
LAYERS = ("ResnetBlock2D", "Transformer2DModel")
MOST_SHAPES = 256

CompileForward = Callable[[nn.Module, Recorder | None], None]


@contextlib.contextmanager
def compiled_forwards(wanted: bool, device: torch.device) -> Iterator[CompileForward]:
    """Yields a function that compiles a module's forward in place, until the block ends.

    Modules of equal layers share what is compiled. Passes that a recorder is given for stay as they
    are, and what it records is compiled. Without `wanted`, or where nothing can be compiled
    (`compiling_problem`), the function does nothing.
    """
    if not wanted or compiling_problem(device.type) is not None:
        yield lambda module, recorder: None
        return
    modules: list[nn.Module] = []

    def compile_forward(module: nn.Module, recorder: Recorder | None) -> None:
        if recorder is not None:
            recorder.compile_layers = compile_layers
            return
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


def compile_layers(network: nn.Module) -> None:
    """Compile the layers that repeat in a network, each by itself, for good.

    Equal layers share what is compiled, and so do batches of all sizes but one: of a U-Net whose
    two dozen residual blocks have fourteen shapes that is ready long before the whole network is.
    """
    kinds = {*LAYERS, *(getattr(network, "_repeated_blocks", None) or ())}
    # Every shape is a compilation of the same function.
    config: Any = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, MOST_SHAPES)
    for layer in _outermost(network, kinds):
        layer.forward = _of_any_batch(torch.compile(layer.forward, dynamic=False))


def _outermost(module: nn.Module, kinds: set[str]) -> Iterator[nn.Module]:
    for child in module.children():
        if type(child).__name__ in kinds:
            yield child
        else:
            yield from _outermost(child, kinds)


def _of_any_batch(compiled: Callable[..., Any]) -> Callable[..., Any]:
    def call(*given: Any, **named: Any) -> Any:
        for one in (*given, *named.values()):
            if torch.is_tensor(one) and one.dim() > 1:
                torch._dynamo.maybe_mark_dynamic(one, 0)
        return compiled(*given, **named)

    return call


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
