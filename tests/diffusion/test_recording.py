"""Passes that are played back train like launched ones; here everything but the graphs runs."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException

from apdm_cli.diffusion import recording
from apdm_cli.diffusion.condition import Condition
from apdm_cli.diffusion.denoiser import Denoiser
from apdm_cli.diffusion.recording import Recorder, recorder
from apdm_families.z_image import ZImage
from tests.protection import toys


class Counting:
    """The family's forward, and how often it was called with which network."""

    def __init__(self) -> None:
        self.networks: list[nn.Module] = []

    def __call__(
        self, network: nn.Module, noisy: Tensor, timesteps: Tensor, condition: Condition
    ) -> Tensor:
        self.networks.append(network)
        return toys.FAMILY.predict(network, noisy, timesteps, condition)


def recorded(plain: Denoiser) -> tuple[Denoiser, Counting]:
    counting = Counting()
    return replace(plain, forward=Recorder(counting, torch.float32)), counting


def loss(denoiser: Denoiser, seed: int = 0, count: int = 2, tag: int = 0) -> Tensor:
    condition = toys.condition(tag, count)
    (error,) = denoiser.squared_errors([toys.draw(count, seed)], [condition])
    return error.mean()


def gradients(network: nn.Module) -> list[Tensor]:
    return [weight.grad.clone() for weight in network.parameters() if weight.grad is not None]


def close(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(
        torch.allclose(a, b, atol=1e-6, rtol=1e-4) for a, b in zip(first, second, strict=True)
    )


def played_in(denoiser: Denoiser, counting: Counting) -> None:
    """Come to where passes are played."""
    for _ in range(recording.LAUNCHED):
        loss(denoiser).backward()
    denoiser.network.zero_grad()
    counting.networks.clear()


def test_a_shape_is_recorded_when_it_comes_again_and_again() -> None:
    denoiser, counting = recorded(toys.denoiser())
    played_in(denoiser, counting)
    loss(denoiser)
    assert counting.networks[-1] is not denoiser.network
    loss(denoiser, count=3)
    assert counting.networks[-1] is denoiser.network


def test_training_goes_as_with_launched_passes() -> None:
    ends = []
    for played in (False, True):
        denoiser = toys.denoiser()
        if played:
            denoiser, _ = recorded(denoiser)
        weights = list(denoiser.network.parameters())
        optimizer = torch.optim.AdamW(weights, lr=1e-3, fused=True)
        for step in range(6):
            optimizer.zero_grad(set_to_none=step == 4)
            loss(denoiser, step).backward()
            if step % 2:  # gradients add up, also those of another shape
                loss(denoiser, step, count=3).backward()
            optimizer.step()
        ends.append([weight.detach() for weight in weights])
    assert close(*ends)
    assert not close(ends[0], [weight.detach() for weight in toys.denoiser().network.parameters()])


def test_the_paths_of_learning_to_protect_go_as_with_launched_passes() -> None:
    chosen = toys.settings(
        steps_outer=3, steps_inner=4, preservation={"evaluated_at": "both", "weight": 1.0}
    )
    ends = []
    for played in (False, True):
        start = toys.denoiser()
        if played:
            start, counting = recorded(start)
        for _ in toys.bilevel(start, chosen).iterate():
            pass
        ends.append([weight.detach() for weight in start.network.parameters()])
    assert len({id(network) for network in counting.networks}) == 6  # θ, θ′, φ, and their shadows
    assert close(*ends)


def test_gradients_of_a_launched_pass_are_kept() -> None:
    denoiser, counting = recorded(toys.denoiser())
    played_in(denoiser, counting)
    loss(denoiser, seed=1, count=3).backward()
    loss(denoiser, seed=2).backward()
    other = toys.denoiser()
    (loss(other, seed=1, count=3) + loss(other, seed=2)).backward()
    assert close(gradients(denoiser.network), gradients(other.network))


def test_a_pass_whose_backward_is_still_to_come_is_not_played_over() -> None:
    denoiser, counting = recorded(toys.denoiser())
    played_in(denoiser, counting)
    first = loss(denoiser, seed=1)
    second = loss(denoiser, seed=2)
    assert counting.networks[-1] is denoiser.network
    (first + second).backward()
    other = toys.denoiser()
    (loss(other, seed=1) + loss(other, seed=2)).backward()
    assert close(gradients(denoiser.network), gradients(other.network))
    counting.networks.clear()
    del first, second
    loss(denoiser, seed=3)
    assert counting.networks == [counting.networks[0]] != [denoiser.network]


def test_weights_that_are_tied_to_moving_ones_are_followed() -> None:
    denoiser, counting = recorded(toys.denoiser())
    played_in(denoiser, counting)
    with torch.no_grad():
        before = loss(denoiser)
        for weight in denoiser.network.parameters():
            weight.data.mul_(1.1)  # leaves no trace in the tensor's version
        for _ in range(3):
            after = loss(denoiser)
        plain = toys.denoiser()
        for weight in plain.network.parameters():
            weight.mul_(1.1)
        assert torch.allclose(after, loss(plain)) and not torch.allclose(after, before)


def test_weights_that_never_change_are_copied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser, _ = recorded(toys.denoiser())
    assert isinstance(denoiser.forward, Recorder)
    denoiser.forward.never_changes(denoiser.network)
    copies: list[int] = []
    with torch.no_grad():
        for _ in range(4):
            loss(denoiser)
        monkeypatch.setattr(torch, "_foreach_copy_", lambda *_: copies.append(1))
        loss(denoiser)
    assert not copies


def test_a_network_that_gets_other_weights_is_recorded_anew() -> None:
    denoiser, counting = recorded(toys.denoiser())
    played_in(denoiser, counting)
    loss(denoiser).backward()
    layer: Any = denoiser.network.get_submodule("conv_in")
    layer.bias = nn.Parameter(layer.bias.detach() + 1)  # as an attack that replaces layers
    denoiser.network.zero_grad()
    value = loss(denoiser)
    plain = toys.denoiser()
    with torch.no_grad():
        plain.network.get_parameter("conv_in.bias").add_(1)
    assert torch.allclose(value, loss(plain))


def test_only_weights_that_train_get_gradients() -> None:
    denoiser, counting = recorded(toys.denoiser())
    denoiser.network.requires_grad_(False)
    trained = denoiser.network.get_submodule("conv_out").requires_grad_(True)
    played_in(denoiser, counting)
    loss(denoiser).backward()
    assert counting.networks[-1] is not denoiser.network
    assert len(gradients(denoiser.network)) == len(list(trained.parameters()))


def test_what_is_before_the_network_gets_its_gradient() -> None:
    """Textual Inversion trains a word, and the network is frozen."""
    found = []
    for played in (False, True):
        denoiser = toys.denoiser()
        if played:
            denoiser, _ = recorded(denoiser)
        denoiser.network.requires_grad_(False)
        word = toys.condition(0, 2)["text"].requires_grad_(True)
        for seed in range(4):
            word.grad = None
            (error,) = denoiser.squared_errors([toys.draw(2, seed)], [Condition({"text": word})])
            error.mean().backward()
        assert word.grad is not None
        found.append([word.grad])
    assert close(*found)


def test_weights_are_not_differentiated_behind_its_back() -> None:
    """A gradient that is not there must not be taken for zero."""
    denoiser, counting = recorded(toys.denoiser())
    played_in(denoiser, counting)
    weights = list(denoiser.network.parameters())
    with pytest.raises(RuntimeError, match="appears to not have been used"):
        torch.autograd.grad(loss(denoiser), weights)
    assert len(torch.autograd.grad(loss(denoiser.launched), weights)) == len(weights)


def test_without_memory_for_a_recording_passes_are_launched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(recording, "_Recording", full)
    denoiser, counting = recorded(toys.denoiser())
    played_in(denoiser, counting)
    with pytest.warns(UserWarning, match="not recorded, which is slower: CUDA out of memory"):
        loss(denoiser, seed=1).backward()
    loss(denoiser, seed=2).backward()  # said once
    other = toys.denoiser()
    (loss(other, seed=1) + loss(other, seed=2)).backward()
    assert close(gradients(denoiser.network), gradients(other.network))
    assert isinstance(denoiser.forward, Recorder)
    (shadow,) = denoiser.forward._networks.values()
    assert shadow.network is None and not shadow.copies


def fail_once(monkeypatch: pytest.MonkeyPatch, error: Exception, rows: int = 3) -> None:
    """The next recording of a batch of `rows` fails as on a card: when all is made for it."""
    whole, errors = recording._Recording._record, [error]

    def record(self: recording._Recording, device: torch.device) -> None:
        if len(self.inputs[0]) == rows and errors:
            raise errors.pop()
        whole(self, device)

    monkeypatch.setattr(recording._Recording, "_record", record)


def shadow_of(denoiser: Denoiser) -> recording._Shadow:
    assert isinstance(denoiser.forward, Recorder)
    return denoiser.forward._networks[denoiser.network]


def test_weights_are_followed_by_what_is_recorded_after_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fail_once(monkeypatch, TorchDynamoException("no such instruction"))
    denoiser, _ = recorded(toys.denoiser())
    assert isinstance(denoiser.forward, Recorder)
    denoiser.forward.compile_layers = lambda network: None
    with torch.no_grad(), pytest.warns(UserWarning, match="not compiled"):
        for count in (2, 3):
            for _ in range(recording.LAUNCHED + 2):
                loss(denoiser, count=count)
    with torch.no_grad():
        for weight in denoiser.network.parameters():
            weight.mul_(1.5)
        for count in (2, 3):
            expected = loss(denoiser.launched, count=count)
            assert torch.allclose(loss(denoiser, count=count), expected)


def test_a_failure_leaves_no_gradients_but_those_of_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fail_once(monkeypatch, RuntimeError("not permitted when stream is capturing"), rows=2)
    denoiser, counting = recorded(toys.denoiser())
    played_in(denoiser, counting)
    with pytest.warns(UserWarning, match="not recorded, which is slower: not permitted"):
        loss(denoiser)
    assert not shadow_of(denoiser).gradients


def test_a_backward_pass_may_come_after_another_recording_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fail_once(monkeypatch, torch.OutOfMemoryError("CUDA out of memory."))
    denoiser, counting = recorded(toys.denoiser())
    played_in(denoiser, counting)
    for _ in range(recording.LAUNCHED):
        loss(denoiser, count=3)
    played = loss(denoiser, seed=1)
    assert counting.networks[-1] is not denoiser.network
    with pytest.warns(UserWarning, match="not recorded"):
        launched = loss(denoiser, seed=2, count=3)
    (played + launched).backward()
    other = toys.denoiser()
    (loss(other, seed=1) + loss(other, seed=2, count=3)).backward()
    assert close(gradients(denoiser.network), gradients(other.network))


def test_a_failure_for_want_of_memory_is_not_the_compilers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fail_once(monkeypatch, torch.OutOfMemoryError("CUDA out of memory."), rows=2)
    denoiser, counting = recorded(toys.denoiser())
    assert isinstance(denoiser.forward, Recorder)
    denoiser.forward.compile_layers = lambda network: None
    played_in(denoiser, counting)
    with pytest.warns(UserWarning, match="not recorded, which is slower: CUDA out of memory"):
        loss(denoiser)
    assert shadow_of(denoiser)._compile_layers is not None


def test_a_card_that_cannot_free_its_memory_does_not_hide_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken() -> None:
        raise RuntimeError("CUDA error: unspecified launch failure")

    fail_once(monkeypatch, RuntimeError("the reason"), rows=2)
    monkeypatch.setattr(torch.cuda, "empty_cache", broken)
    denoiser, counting = recorded(toys.denoiser())
    played_in(denoiser, counting)
    with pytest.warns(UserWarning, match="slower: the reason"):
        loss(denoiser)


class OnCards:
    """Stands in for `torch.cuda`: the current card, and the current stream of each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.card, self.streams = 0, {0: "first card's", 1: "second card's"}
        self.captured: list[tuple[int, str]] = []
        self.empty = False
        for name in ("device", "stream", "graph"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=lambda: None))
        monkeypatch.setattr(
            torch.cuda, "current_stream", lambda card: stream_of(card, self.streams[card.index])
        )

    @contextlib.contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        before, self.card = self.card, device.index
        try:
            yield
        finally:
            self.card = before

    @contextlib.contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        card = stream.device.index
        before, self.streams[card] = self.streams[card], stream.name
        try:
            yield
        finally:
            self.streams[card] = before

    @contextlib.contextmanager
    def graph(self, graph: Any, *, stream: Any, **_: Any) -> Iterator[None]:
        card = stream.device.index
        before, self.streams[card] = self.streams[card], stream.name
        self.captured.append((self.card, stream.name))
        yield  # what fails stays on its stream, as in PyTorch
        if self.empty:
            warnings.warn("The CUDA Graph is empty. This usually means ...", stacklevel=1)
        self.streams[card] = before


def stream_of(card: torch.device, name: str) -> Any:
    return SimpleNamespace(device=card, name=name)


def test_passes_are_captured_on_a_stream_of_their_own_card(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = OnCards(monkeypatch)
    side = stream_of(torch.device("cuda", 1), "side")
    recording._captured(lambda: None, side, None)
    assert cuda.captured == [(1, "side")]
    assert cuda.card == 0 and cuda.streams == {0: "first card's", 1: "second card's"}


@pytest.mark.parametrize("empty", [False, True])
def test_after_a_failed_capture_the_stream_is_what_it_was(
    monkeypatch: pytest.MonkeyPatch, empty: bool
) -> None:
    cuda = OnCards(monkeypatch)
    cuda.empty = empty

    def work() -> None:
        if not empty:
            raise RuntimeError("operation not permitted when stream is capturing")

    side = stream_of(torch.device("cuda", 1), "side")
    with pytest.raises(UserWarning if empty else RuntimeError, match=r"is empty|not permitted"):
        recording._captured(work, side, None)
    assert cuda.card == 0 and cuda.streams == {0: "first card's", 1: "second card's"}


def test_a_recording_of_nothing_is_not_played(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_once(monkeypatch, UserWarning("The CUDA Graph is empty. This usually means ..."), rows=2)
    denoiser, counting = recorded(toys.denoiser())
    played_in(denoiser, counting)
    with pytest.warns(UserWarning, match="not recorded, which is slower: The CUDA Graph is empty"):
        loss(denoiser)
    assert counting.networks == [denoiser.network]


@pytest.fixture
def _deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_deterministic")
def test_deterministic_runs_are_launched() -> None:
    denoiser, counting = recorded(toys.denoiser())
    for _ in range(5):
        loss(denoiser).backward()
    assert {id(network) for network in counting.networks} == {id(denoiser.network)}


def test_only_half_precision_on_a_card_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    card = torch.device("cuda")
    assert recorder(toys.FAMILY, card, torch.bfloat16) is not None
    assert recorder(toys.FAMILY, card, torch.float32) is None
    assert recorder(toys.FAMILY, torch.device("cpu"), torch.bfloat16) is None
    assert recorder(ZImage(), card, torch.bfloat16) is None
    monkeypatch.setenv(recording.SWITCH, "0")
    assert recorder(toys.FAMILY, card, torch.bfloat16) is None


def test_a_copy_of_a_model_is_recorded_by_itself() -> None:
    denoiser, counting = recorded(toys.denoiser())
    played_in(denoiser, counting)
    other = denoiser.with_network(copy.deepcopy(denoiser.network))
    loss(other)
    assert counting.networks[-1] is other.network
