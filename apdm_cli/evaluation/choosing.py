"""Which metrics an evaluation is asked for, by their names: no backend is loaded for that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from apdm_cli.errors import UsageError
from apdm_cli.extension.manager import choose
from apdm_cli.extension.metric import Metric

AUTO = "auto"


def choose_metrics(
    names: Sequence[str], weights: Mapping[str, str], available: Mapping[str, Metric]
) -> list[Metric]:
    """The metrics `names` ("auto": all that are not optional), each once.

    Args:
        weights: backend name → path.
        available: name → metric.

    Raises:
        UsageError: an unknown metric (the nearest is named) or an unknown backend in `weights`.
    """
    known = sorted({name for metric in available.values() for name in metric.weight_names})
    unknown = [name for name in weights if name not in known]
    if unknown:
        raise UsageError(
            f"--weights {unknown[0]}: no backend has this name", f"Known are: {', '.join(known)}."
        )
    chosen: list[Metric] = []
    for name in names:
        if name == AUTO:
            chosen += [one for one in available.values() if not one.optional]
        else:
            chosen.append(choose(available, name, "metric"))
    return list(dict.fromkeys(chosen))
