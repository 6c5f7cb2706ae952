"""`--cluster` and what goes with it, for the commands that have it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apdm_cli.errors import UsageError

if TYPE_CHECKING:
    from apdm_cli.harness.cluster import Cluster


def check_cluster(
    address: str | None, device: str, gpus_per_worker: float | None, *, send_photos: bool = False
) -> None:
    """Refuse what cannot be meant, before torch is imported."""
    from apdm_cli.runs.cluster import require_ray

    if address is None:
        if gpus_per_worker is not None:
            raise UsageError("--gpus-per-worker goes with --cluster.", "Cards here: --device.")
        if send_photos:
            raise UsageError("--send-photos goes with --cluster.", "Nothing is sent without it.")
        return
    if gpus_per_worker is not None and gpus_per_worker > 1 and gpus_per_worker % 1 != 0:
        raise UsageError(
            f"--gpus-per-worker {gpus_per_worker:g} is neither a share of one card nor cards.",
            "Give a number up to 1, or a whole one.",
        )
    if device not in ("auto", "cpu"):
        raise UsageError(
            f"--device {device} names a card of this machine, and --cluster uses others'.",
            "Leave it out; --gpus-per-worker says what each worker gets, --device cpu none.",
        )
    require_ray()


def chosen_cluster(
    address: str | None,
    workers: int | None,
    device: str,
    gpus_per_worker: float | None,
    dtype: str,
    *,
    send_photos: bool = False,
) -> Cluster | None:
    """The cluster that was asked for, if any, which computes in one precision."""
    from apdm_cli.cli.console import warn
    from apdm_cli.harness.cluster import Cluster, in_one_precision

    if address is None:
        return None
    gpus = 0.0 if device == "cpu" else gpus_per_worker
    return in_one_precision(Cluster(address, workers, gpus, dtype, send_photos), warn)
