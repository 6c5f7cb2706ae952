"""Whether models and weights can be fetched from the hub. Being offline is normal."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit
from urllib.request import getproxies

from apdm_cli.doctor.findings import Finding, note, ok

PATIENCE = 3.0  # seconds
OFFLINE_ADVICE = (
    "The embedded model needs no network. For others give --model a folder, and --weights "
    "NAME=PATH for what metrics miss."
)


def hub() -> Iterator[Finding]:
    """One connection to the hub is opened and closed; nothing is sent or downloaded."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}:
        yield note("network", "offline, because HF_HUB_OFFLINE is set", OFFLINE_ADVICE)
        return
    address = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    host, port = address.hostname or "huggingface.co", address.port or 443
    if getproxies().get(address.scheme):
        yield ok("network", f"{host} is reached through a proxy, which was not tried")
        return
    try:
        socket.create_connection((host, port), timeout=PATIENCE).close()
    except OSError as error:
        reason = error.strerror or str(error) or "no answer"
        yield note("network", f"{host} cannot be reached ({reason})", OFFLINE_ADVICE)
    else:
        yield ok("network", f"{host} can be reached")
