"""Plugins and what they break on, and metrics: whether each can score here."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from apdm_cli.doctor.findings import Finding, note, ok, problem

PHOTOGRAPHS = "a full-size model"
PLURALS = {
    "attack": "attacks",
    "metric": "metrics",
    "protection": "protections",
    "family": "families",
}


def plugins() -> Iterator[Finding]:
    """What is installed, and what could not be used."""
    from apdm_cli.extension.manager import build_plugin_manager
    from apdm_cli.extension.names import names_of

    manager = build_plugin_manager()
    found = {kind: sorted(names) for kind, names in names_of(manager).items()}
    counts = ", ".join(
        f"{len(names)} {kind if len(names) == 1 else PLURALS.get(kind, kind)}"
        for kind, names in found.items()
    )
    yield ok("plugins", counts, **found)
    for broken in manager.broken.values():
        where = f"{broken.origin.plugin} ({broken.origin.distribution} {broken.origin.version})"
        yield problem(
            "plugins",
            f"{where} is left out: {broken.error}",
            "Update or uninstall it, or switch it off with APDM_DISABLE_PLUGINS.",
        )
    for name in manager.disabled:
        yield note("plugins", f"{name} is switched off by APDM_DISABLE_PLUGINS")


def metrics(weights: dict[str, str]) -> Iterator[Finding]:
    """Score two made-up pictures with every metric, offline: what is missing is found that way.

    Both for the embedded model and for one of photographs, because they have different extractors.
    Metrics that need weights which are not here are normal.
    """
    from dataclasses import replace

    from apdm_cli.diffusion.model import ModelRef
    from apdm_cli.extension.manager import build_plugin_manager
    from apdm_cli.extension.manager import metrics as installed

    model = _embedded()
    # The same model under another name: metrics look at who a model is, not at what it draws.
    other = replace(model, ref=ModelRef(PHOTOGRAPHS, None, "0" * 64))
    for judged, what in ((model, "the embedded model's pictures"), (other, "photographs")):
        ready: dict[str, str] = {}
        missing: dict[str, str] = {}
        for name, metric in installed(build_plugin_manager()).items():
            backend, reason = _tried(metric, judged, weights)
            if backend:
                ready[name] = backend
            else:
                missing[name] = reason
        shown = ", ".join(
            f"{name} ({backend})" if judged is other else name for name, backend in ready.items()
        )
        says = f"ready for {what}: {shown or 'none'}"
        yield ok("metrics", says, backends=ready, missing=missing)
        if judged is other:  # the embedded model has its own extractor; it needs no other
            for name, reason in missing.items():
                yield note("metrics", f"{name} is not ready: {reason}")


def _tried(metric: Any, model: Any, weights: dict[str, str]) -> tuple[str, str]:
    """The backend that scored, or why none did."""
    from apdm_cli.extension.containment import contained
    from apdm_cli.extension.metric import MetricUnavailable

    try:
        with _offline(), contained("a metric"):
            metric.weights = weights
            metric.prepare(model, model.device)
            return metric.score(_pictures()).backend.name, ""
    except MetricUnavailable as error:
        return "", str(error).replace("HF_HUB_OFFLINE is set", "this check downloads nothing")
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        return "", f"{type(error).__name__}: {reason}"


def _embedded() -> Any:
    import torch

    from apdm_cli.extension.family import load_model

    return load_model("pocket", torch.device("cpu"))


def _pictures() -> Any:
    import torch

    from apdm_cli.extension.metric import Pictures
    from apdm_cli.randomness import Streams

    generator = Streams(0).generator("doctor/pictures")

    def made(count: int) -> Any:
        shape = (count, 64, 64, 3)
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)

    return Pictures(
        made(4), prompts=["a photo of a person"] * 4, photos=made(4), reference=made(4),
        pairs=made(4),
    )  # fmt: skip


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """A doctor downloads nothing: what is not here counts as missing."""
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before
