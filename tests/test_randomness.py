"""Named streams: same seed and name, same draws; nothing shifts anything else."""

import torch

from apdm_cli.randomness import Streams, stream_seed


def draw(streams: Streams, name: str) -> torch.Tensor:
    return torch.randn(20, generator=streams.generator(name))


def test_same_seed_and_name_give_the_same_draws():
    assert torch.equal(draw(Streams(7), "attack/noise"), draw(Streams(7), "attack/noise"))


def test_seed_and_name_both_matter():
    drawn = [draw(Streams(seed), name) for seed in (0, 1, -1) for name in ("a", "b", "a/b")]
    assert len({tuple(values.tolist()) for values in drawn}) == len(drawn)


def test_one_name_is_one_live_generator():
    streams = Streams(0)
    first = draw(streams, "noise")
    assert streams.generator("noise") is streams.generator("noise")
    assert not torch.equal(first, draw(streams, "noise"))


def test_a_new_stream_does_not_shift_another():
    alone, accompanied = Streams(3), Streams(3)
    draw(alone, "noise"), draw(accompanied, "noise")
    draw(accompanied, "new")
    assert torch.equal(draw(alone, "noise"), draw(accompanied, "noise"))


def test_the_seed_of_a_stream_is_pinned():
    # Results of published runs hang on these numbers: they must never change.
    assert stream_seed(0, "noise") == 5127903134280592399
    drawn = torch.randint(0, 1000, (4,), generator=Streams(0).generator("noise"))
    assert drawn.tolist() == [312, 729, 745, 264]


def test_state_is_restored_in_a_new_object():
    streams = Streams(5)
    draw(streams, "a"), draw(streams, "b"), draw(streams, "b")
    state = streams.state_dict()
    assert all(position.dtype == torch.uint8 for position in state.values())
    expected = [draw(streams, "a"), draw(streams, "b"), draw(streams, "c")]
    restored = Streams(5)
    restored.load_state_dict(state)
    assert all(map(torch.equal, expected, [draw(restored, name) for name in "abc"]))


def test_generators_handed_out_before_go_back_too():
    streams = Streams(5)
    early = streams.generator("a")
    state = streams.state_dict()
    expected = torch.randn(3, generator=early)
    unused_in_state = draw(streams, "b")
    streams.load_state_dict(state)
    assert torch.equal(torch.randn(3, generator=early), expected)
    assert torch.equal(draw(streams, "b"), unused_in_state)


def test_saved_state_is_a_copy():
    streams = Streams(1)
    streams.generator("a")
    state = streams.state_dict()
    before = state["a"].clone()
    draw(streams, "a")
    assert torch.equal(state["a"], before)
