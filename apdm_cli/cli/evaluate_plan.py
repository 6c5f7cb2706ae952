"""`apdm evaluate --dry-run`: the plan, for people and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from apdm_cli.cli.console import note, print_json, stdout
from apdm_cli.cli.progress import counted, format_duration

if TYPE_CHECKING:
    import torch

    from apdm_cli.evaluation.forecast import EvaluationForecast


def show_plans(
    found: Mapping[str, EvaluationForecast],
    metrics: Sequence[str],
    device: torch.device,
    dtype: torch.dtype,
    *,
    json: bool,
) -> None:
    """Print what an evaluation of the runs `found` would draw; one, or one for each subject."""
    plans = [_plan(name, metrics, one, device, dtype) for name, one in found.items()]
    if json:
        print_json(plans[0] if len(plans) == 1 else {"runs": plans})
        return
    for plan in plans:
        stdout.print(f"[bold]Plan for {plan['name']}[/] (nothing is written)", highlight=False)
        for sentence in dict.fromkeys(plan["said"]):
            note(sentence)
        for line in plan["lines"]:
            stdout.print(line, highlight=False, markup=False)


def _plan(
    name: str,
    metrics: Sequence[str],
    found: EvaluationForecast,
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, Any]:
    """One evaluation, for --json."""
    precision = str(dtype).removeprefix("torch.")
    lines = _lines(found, f"{device} ({precision})", metrics)
    said = [*found.said, *(f"{one.cell} is left out: {one.reason}" for one in found.left_out)]
    plan = {"name": name, "device": str(device), "dtype": precision, "metrics": metrics}
    rest = asdict(found)
    plan |= {
        "pictures_to_draw": rest.pop("to_draw"),
        "estimated_seconds_drawing": rest.pop("seconds"),
    }
    return {**plan, **rest, "said": said, "lines": lines}


def _lines(found: EvaluationForecast, place: str, metrics: Sequence[str]) -> list[str]:
    sampler = found.sampler
    steps = counted(sampler["steps"], "step")
    how = f"{sampler['sampler']}, {steps}, guidance {sampler['guidance']:g}"
    lines = [
        f"{counted(found.rows, 'attacked model')}, counted at every budget, and what the "
        f"protection cost everybody else; metrics: {', '.join(metrics)}",
        f"{counted(found.pictures, 'picture')} ({how}), of which {found.to_draw} are still to be "
        f"drawn, on {place}",
    ]
    if found.neighbour_steps:
        steps = counted(found.neighbour_steps, "training step")
        lines.append(f"At most {steps} first, to teach neighbours")
    if found.to_draw:
        time = format_duration(found.seconds)
        lines.append(f"Time: about {time} to draw, at the pace of one step of the sampler just now")
    return lines
