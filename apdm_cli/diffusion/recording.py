"""A network's forward and backward passes, recorded once and played back as CUDA graphs.

Launching the thousands of small kernels of a U-Net one by one takes the processor longer than a
data-centre GPU takes to run them (benchmarks/NOTES.md). So on a CUDA card, in half precision, the
passes are recorded the third time that a batch of some shape comes, and played back from then on.

What is recorded runs through a *shadow*: a copy of the network in half precision, whose weights
are brought up to date before every forward. Autocast does the same, layer by layer, and reads and
writes every weight and gradient once more. The weights themselves, their gradients and the
optimizer stay in float32.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Collection, Sequence
from operator import is_
from typing import Any
from weakref import WeakKeyDictionary, WeakSet, ref

import torch
from torch import Tensor, nn

from apdm_cli.devices import is_out_of_memory
from apdm_cli.diffusion.condition import Condition
from apdm_cli.diffusion.family import Family
from apdm_cli.diffusion.rounding import in_precision

Forward = Callable[[nn.Module, Tensor, Tensor, Condition], Tensor]

LAUNCHED = 2  # passes of a new shape that are launched: many shapes never come again
MOST = 8  # recordings of one network, each with activations of its own
LAYOUT = torch.channels_last  # what the card's convolutions read without reordering
TRY_KERNELS = True  # cuDNN tries all its kernels for a shape before it is recorded
SWITCH = "APDM_CUDA_GRAPHS"  # environment variable; 0 launches every kernel
EMPTY = "The CUDA Graph is empty"  # how a warning of PyTorch begins


class Recorder:
    """A family's `predict` that plays recordings where it can, and else calls it.

    The gradients of the weights go to their `.grad`, as `backward()` leaves them. They cannot be
    had from `torch.autograd.grad`, nor differentiated again: for that take `Denoiser.launched`.

    Args:
        forward: the family's.
        dtype: of the shadows, half precision.
        exact: the family's names of what keeps its own precision.

    Attributes:
        compile_layers: compiles the layers of every shadow that is made from now on, in place;
            None leaves them as they are.
    """

    def __init__(self, forward: Forward, dtype: torch.dtype, exact: Collection[str] = ()) -> None:
        self.forward, self.dtype, self.exact = forward, dtype, exact
        self.compile_layers: Callable[[nn.Module], None] | None = None
        self._networks: WeakKeyDictionary[nn.Module, _Shadow] = WeakKeyDictionary()
        self._constant: WeakSet[nn.Module] = WeakSet()

    def never_changes(self, network: nn.Module) -> None:
        """Promise that the weights of `network` stay as they are: its shadow is made once."""
        self._constant.add(network)

    def __call__(
        self, network: nn.Module, noisy: Tensor, timesteps: Tensor, condition: Condition
    ) -> Tensor:
        """The prediction, in half precision where it is played back."""
        if torch.are_deterministic_algorithms_enabled():
            # The first passes of a resumed run would not be those of an uninterrupted one.
            return self.forward(network, noisy, timesteps, condition)
        shadow = self._networks.get(network)
        if shadow is None or shadow.is_outdated:
            moving = network not in self._constant
            shadow = self._networks[network] = _Shadow(self, network, moving)
        inputs = (noisy, timesteps, *condition.tensors.values())
        recording = shadow.recording(network, inputs, tuple(condition.tensors))
        if recording is None:
            return self.forward(network, noisy, timesteps, condition)
        return recording.played(inputs)


def recorder(family: Family, device: torch.device, dtype: torch.dtype) -> Recorder | None:
    """A recorder for a model that is there and computes so; None where nothing is recorded."""
    if not records(family, device, dtype):
        return None
    return Recorder(family.predict, dtype, family.exact)


def records(family: Family, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether passes of such models, on such a device, in such a precision, are recorded."""
    half = dtype in (torch.bfloat16, torch.float16)
    wanted = os.environ.get(SWITCH) != "0"
    return family.recordable and device.type == "cuda" and half and wanted


class _Shadow:
    """The copy of one network, and the recordings of its passes."""

    def __init__(self, recorder: Recorder, network: nn.Module, moving: bool) -> None:
        self.forward, self.dtype, self.moving = recorder.forward, recorder.dtype, moving
        self.exact = recorder.exact
        self._compile_layers = recorder.compile_layers
        self.weights = list(network.parameters())
        # Walking through all modules takes longer than a forward; whether they changed does not.
        self._parts = [
            (owned, tuple(owned.values()))
            for module in network.modules()
            for owned in (module._parameters, module._modules)
            if owned
        ]
        self._seen: dict[Any, int] = {}
        self._recordings: dict[Any, _Recording] = {}
        self._problem = False
        self.network: nn.Module | None = None
        self.copies: list[nn.Parameter] = []
        self.gradients: dict[int, Tensor] = {}  # by index of the weight
        self._places: tuple[int, ...] = ()
        self._copy: Callable[[], None] = _nothing

    @property
    def is_outdated(self) -> bool:
        """Whether the network has other weights by now: attacks add and merge adapters."""
        return any(
            len(owned) != len(found) or not all(map(is_, owned.values(), found))
            for owned, found in self._parts
        )

    def recording(
        self, network: nn.Module, inputs: tuple[Tensor, ...], names: tuple[str, ...]
    ) -> _Recording | None:
        """What to play for such inputs; None where the pass is to be launched."""
        if self._problem:
            return None
        differentiated = torch.is_grad_enabled()
        learns: tuple[int, ...] = ()
        if differentiated:
            learns = tuple(i for i, weight in enumerate(self.weights) if weight.requires_grad)
        shapes = ((one.shape, one.dtype, differentiated and one.requires_grad) for one in inputs)
        key = (names, learns, network.training, tuple(shapes))
        found = self._recordings.get(key)
        if found is None:
            self._seen[key] = self._seen.get(key, 0) + 1
            if self._seen[key] <= LAUNCHED or len(self._recordings) >= MOST:
                return None
        elif found.is_waiting:
            return None  # its activations are still needed for a backward pass
        try:
            if found is None:
                self._prepare(network)
                found = self._recordings[key] = _Recording(self, inputs, names, learns)
            self.refresh()
            return found
        except (RuntimeError, NotImplementedError, UserWarning) as error:  # no memory, for one
            cause = error.__context__ or error
            reason = str(cause).strip().partition("\n")[0]
            compiling = self._compile_layers is not None and _is_the_compilers(error)
            compiling = compiling and not is_out_of_memory(cause)
        del found, cause  # an error knows of the tensors whose memory is to be had back
        self._give_up()
        if compiling:  # recorded perhaps, when it comes again
            self._compile_layers, self._problem = None, False
        missing = "compiled" if compiling else "recorded"
        warnings.warn(f"steps are not {missing}, which is slower: {reason}", stacklevel=2)
        return None

    def _prepare(self, network: nn.Module) -> None:
        if self.network is not None:
            return
        made = in_precision(network, self.dtype, LAYOUT)
        self.network, self.copies = made, list(made.parameters())
        if self._compile_layers is not None:
            self._compile_layers(made)

    def _give_up(self) -> None:
        """Launch from now on, with the memory that recordings would have taken."""
        self._problem = True
        self._recordings.clear()
        self.network, self.copies, self.gradients = None, [], {}
        self._places, self._copy = (), _nothing
        with contextlib.suppress(RuntimeError):  # why it is given up says more
            torch.cuda.empty_cache()

    @torch.no_grad()
    def refresh(self) -> None:
        """Bring the copies up to date. (A fused optimizer leaves no trace of having stepped.)"""
        places = tuple(weight.data_ptr() for weight in self.weights)
        if places == self._places:
            if self.moving:
                self._copy()
            return
        self._copy_weights()
        if self.moving and self.weights[0].is_cuda:
            stream = torch.cuda.Stream(self.weights[0].device)
            self._copy = _captured(self._copy_weights, stream, torch.cuda.graph_pool_handle())
        else:
            self._copy = self._copy_weights
        self._places = places

    def _copy_weights(self) -> None:
        torch._foreach_copy_([*self.copies], [*self.weights])

    @torch.no_grad()
    def claim(self, learns: Sequence[int], places: Sequence[Tensor]) -> bool:
        """Let the `.grad` of the weights `learns` be `places`, which a recording writes to.

        Returns:
            Whether there is anything in them to add to.
        """
        fresh = []
        for index, place in zip(learns, places, strict=True):
            weight = self.weights[index]
            if weight.grad is place:
                continue
            if weight.grad is None:
                fresh.append(place)
            else:  # left by a pass that was launched
                place.copy_(weight.grad)
            weight.grad = place
        if len(fresh) == len(learns):
            return False
        if fresh:
            torch._foreach_zero_(fresh)
        return True


class _Recording:
    """The passes of one shape.

    It holds all that it plays with: a backward pass may come when its shadow has given up.
    """

    def __init__(
        self,
        shadow: _Shadow,
        inputs: Sequence[Tensor],
        names: Sequence[str],
        learns: tuple[int, ...],
    ) -> None:
        self.shadow, self.names, self.learns = shadow, names, learns
        self.network, self.copies = shadow.network, shadow.copies
        taking = torch.is_grad_enabled()
        exact = [False, False, *(name in shadow.exact for name in names)]
        self.inputs = [self._place(*one) for one in zip(inputs, exact, strict=True)]
        self.differentiable = [taking and one.requires_grad for one in inputs]
        for place, wanted in zip(self.inputs, self.differentiable, strict=True):
            place.requires_grad_(wanted)
        self.backwards = bool(learns) or any(self.differentiable)
        device = inputs[0].device
        self.anchor = torch.zeros((), device=device, requires_grad=True)
        self._holder: Callable[[], Any] = lambda: None
        for index in learns:
            if index not in shadow.gradients:
                shadow.gradients[index] = torch.zeros_like(shadow.weights[index])
        self.gradients = [shadow.gradients[index] for index in learns]
        self.answer: Tensor
        self.seed: Tensor
        self.found: list[Tensor | None] = []
        self.input_gradients: list[Tensor | None] = [None] * len(self.inputs)
        self._record(device)

    def _place(self, one: Tensor, exact: bool) -> Tensor:
        # A vector of timesteps is no activation, and half precision would round it.
        rounded = one.is_floating_point() and one.dim() > 1 and not exact
        dtype = self.shadow.dtype if rounded else one.dtype
        return one.detach().to(dtype, copy=True).contiguous()

    def _forward(self) -> None:
        noisy, timesteps, *rest = self.inputs
        condition = Condition(dict(zip(self.names, rest, strict=True)))
        assert self.network is not None
        for index, own in enumerate(self.copies):
            own.requires_grad_(index in self._learned)
        with (
            torch.set_grad_enabled(self.backwards),
            torch.autocast(noisy.device.type, enabled=False),
        ):
            self.answer = self.shadow.forward(self.network, noisy, timesteps, condition)

    def _differentiate(self) -> list[Tensor | None]:
        wanted: list[Tensor] = [self.copies[index] for index in self.learns]
        wanted += [
            one for one, asked in zip(self.inputs, self.differentiable, strict=True) if asked
        ]
        return list(torch.autograd.grad(self.answer, wanted, self.seed, allow_unused=True))

    def _backward(self) -> None:
        found = self._differentiate()
        self.found = found[: len(self.learns)]
        rest = iter(found[len(self.learns) :])
        self.input_gradients = [next(rest) if asked else None for asked in self.differentiable]

    def _hand_over(self, added: bool) -> None:
        """The gradients, to where the weights have theirs: added there, or in place of them."""
        if added:
            self._play_add()
            return
        both = [*zip(self.gradients, self.found, strict=True)]
        pairs = [pair for pair in both if pair[1] is not None]
        if pairs:
            wanted, given = zip(*pairs, strict=True)
            torch._foreach_copy_([*wanted], [*given])
        untouched = [place for place, one in both if one is None]
        if untouched:
            torch._foreach_zero_(untouched)

    def _add(self) -> None:
        # One by one: all at once is for tensors of one precision.
        for place, gradient in zip(self.gradients, self.found, strict=True):
            if gradient is not None:
                place.add_(gradient)

    def _record(self, device: torch.device) -> None:
        self._learned = frozenset(self.learns)
        if device.type != "cuda":  # where tests look at everything but the graphs themselves
            self._play_forward, self._play_backward = self._forward, self._backward
            self._play_add = self._add
            return
        tried, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, TRY_KERNELS
        try:
            with warnings.catch_warnings():
                # The shadow's weights have no `.grad`, and it does not matter where it would be.
                warnings.filterwarnings("ignore", message=".*AccumulateGrad node's stream")
                self._capture(device)
        finally:
            torch.backends.cudnn.benchmark = tried

    def _capture(self, device: torch.device) -> None:
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):  # libraries choose their kernels and take their memory
            for _ in range(2):
                self._forward()
                self.seed = torch.zeros_like(self.answer)
                if self.backwards:
                    self._differentiate()
        torch.cuda.current_stream(device).wait_stream(stream)
        pool = torch.cuda.graph_pool_handle()
        self._play_forward = _captured(self._forward, stream, pool)
        self.seed = torch.zeros_like(self.answer)
        self._play_backward = self._play_add = _nothing
        if self.backwards:
            self._play_backward = _captured(self._backward, stream, pool)
            if any(one is not None for one in self.found):
                self._play_add = _captured(self._add, stream, pool)
            self.answer = self.answer.detach()

    @property
    def is_waiting(self) -> bool:
        """Whether a backward pass may still come that needs what the last forward left."""
        return self._holder() is not None

    def played(self, inputs: Sequence[Tensor]) -> Tensor:
        """The prediction for `inputs`, with gradients where they are wanted."""
        answer: Tensor
        if self.backwards:
            answer = _Playback.apply(self, self.anchor, *inputs)
        else:
            answer = self.forward(inputs)
        return answer

    @torch.no_grad()
    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Play the forward pass; returns a copy of its answer."""
        for place, one in zip(self.inputs, inputs, strict=True):
            place.copy_(one)
        self._play_forward()
        return self.answer.detach().clone()

    @torch.no_grad()
    def backward(self, gradient: Tensor) -> list[Tensor | None]:
        """Play the backward pass into the weights' `.grad`; returns those of the inputs."""
        added = self.shadow.claim(self.learns, self.gradients)
        if not hasattr(self, "seed"):
            self.seed = torch.zeros_like(gradient)
        self.seed.copy_(gradient)
        self._play_backward()
        self._hand_over(added)
        return [None if one is None else one.clone() for one in self.input_gradients]


@torch.no_grad()
def _captured(work: Callable[[], None], stream: torch.cuda.Stream, pool: Any) -> Callable[[], None]:
    """What plays `work`, captured on a stream of its own card: one stream for all of a pool."""
    graph = torch.cuda.CUDAGraph()
    with (
        torch.cuda.device(stream.device),
        # A capture that fails leaves its own stream the current one.
        torch.cuda.stream(torch.cuda.current_stream(stream.device)),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("error", message=EMPTY)  # to play it would change nothing
        # The backward pass runs in a thread of its own, whose cuDNN may ask the driver for things
        # that the strictest mode forbids.
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            work()
    return graph.replay


def _is_the_compilers(error: BaseException) -> bool:
    from torch._dynamo.exc import TorchDynamoException

    return isinstance(error, TorchDynamoException)


def _nothing() -> None:
    """There is no backward pass."""


class _Holder:
    """Lives as long as a backward pass may come."""

    def __init__(self, recording: _Recording) -> None:
        self.recording = recording


class _Playback(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, recording: _Recording, anchor: Tensor, *inputs: Tensor) -> Tensor:
        answer = recording.forward(inputs)
        ctx.holder = _Holder(recording)
        recording._holder = ref(ctx.holder)
        return answer

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.holder is None:
            raise RuntimeError("a recorded pass can be differentiated once")
        found = ctx.holder.recording.backward(gradient)
        ctx.holder = None
        return (None, None, *found)
