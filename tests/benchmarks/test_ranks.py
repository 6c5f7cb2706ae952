"""The benchmark of ranks: what is computed, and how it is told."""

from __future__ import annotations

from benchmarks import ranks


def test_what_goes_round_a_ring() -> None:
    """Each rank sends what the others have to have, twice."""
    assert [ranks.moved(1000, count) for count in (1, 2, 4)] == [0, 4000, 6000]
    first, second, *_ = ranks.computed(2.0)
    assert (first["cards"], second["cards"], first["seconds_alone"]) == (8, 64, 2.0)
    on_the_way = first["bytes"] / (first["gigabytes_a_second"] * 1e9)
    assert abs(first["seconds"] - 2.0 - on_the_way) < 1e-3


def test_what_is_computed_is_called_so() -> None:
    rows = ranks.computed(2.0)
    results = {"seconds_alone": 2.0, "computed": rows}
    text = ranks.table(results)
    assert text.startswith("Computed, and run by nobody") and "Measured" not in text
    assert len(text.splitlines()) == 4 + len(rows)
