"""Charts keep their shape, whatever attacks are called."""

from __future__ import annotations

import warnings

from apdm_cli.report.plots import curves_chart


def test_a_long_title_leaves_room_for_the_curves() -> None:
    """matplotlib gives up the layout, and says so, where titles push panels out of the figure."""
    title = "lora, " + ", ".join(f"setting_{i}={i}" for i in range(12))
    panels = [(f"{place} {title}", [("original", [1, 2], [0.5, 0.4])]) for place in range(3)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chart = curves_chart("losses", "Training loss.", panels, "step")
    assert "setting_0" in chart.wide and "setting_11" not in chart.wide
