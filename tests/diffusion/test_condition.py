"""Conditions: whatever is done to a batch is done to every tensor in it."""

from __future__ import annotations

import pytest
import torch

from apdm_cli.diffusion.condition import Condition


def condition(*rows: float) -> Condition:
    """A sequence of two vectors and a pooled one; every number of row i is `rows[i]`."""
    values = torch.tensor(rows)
    return Condition(
        {
            "text": values.view(-1, 1, 1).repeat(1, 2, 3),
            "pooled": values.view(-1, 1).repeat(1, 4),
        }
    )


def rows(found: Condition) -> list[float]:
    """The number of every row, which all of its tensors must agree on."""
    assert found["text"].shape == (len(found), 2, 3) and found["pooled"].shape == (len(found), 4)
    for row in range(len(found)):
        everything = torch.cat([found["text"][row].flatten(), found["pooled"][row]])
        assert len(set(everything.tolist())) == 1
    return found["pooled"][:, 0].tolist()


def test_rows_are_chosen_joined_and_cut() -> None:
    three = condition(1, 2, 3)
    assert rows(condition(7).expand(3)) == [7, 7, 7]
    assert rows(three.index([2, 0, 0])) == [3, 1, 1]
    assert rows(three.index(torch.tensor([1]))) == [2]
    assert rows(Condition.cat([three, condition(4)])) == [1, 2, 3, 4]
    assert [rows(part) for part in three.split([1, 2])] == [[1], [2, 3]]
    assert [rows(part) for part in three.split(1)] == [[1], [2], [3]]


def test_where_takes_the_other_where_the_mask_is_true() -> None:
    three = condition(1, 2, 3)
    assert rows(three.where(torch.tensor([False, True, False]), condition(9))) == [1, 9, 3]
    assert rows(three) == [1, 2, 3], "the original stays"


def test_gradients_flow_unless_detached() -> None:
    vectors = torch.ones(1, 2, 3, requires_grad=True)
    one = Condition({"text": vectors})
    Condition.cat([one.expand(4), one])["text"].sum().backward()
    assert vectors.grad is not None and (vectors.grad == 5).all()
    assert not one.detach()["text"].requires_grad


def test_tensors_of_different_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="one batch size"):
        Condition({"text": torch.zeros(2, 3), "pooled": torch.zeros(1, 3)})
