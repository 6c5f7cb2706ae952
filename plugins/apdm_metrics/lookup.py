"""Where weights are found: --weights NAME=PATH, then the caches, then the network."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from apdm_cli.extension.metric import MetricUnavailable

PATIENCE = 10.0  # seconds until an unreachable network counts as none


def offline() -> bool:
    """Whether the user forbade the network, in the words that the hub's own client takes."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}


def given(weights: Mapping[str, str], name: str) -> Path | None:
    """The path of `--weights name=PATH`, if that was given; MetricUnavailable if it is missing."""
    if name not in weights:
        return None
    path = Path(weights[name]).expanduser()
    if not path.exists():
        raise MetricUnavailable(f"--weights {name}={weights[name]}: no such file or folder")
    return path


def hub_folder(repository: str, patterns: tuple[str, ...]) -> Path:
    """Folder of a hub repository, from the cache or the hub; MetricUnavailable without either."""
    from huggingface_hub import snapshot_download

    wanted = list(patterns)
    with contextlib.suppress(OSError, ValueError):
        return Path(snapshot_download(repository, allow_patterns=wanted, local_files_only=True))
    try:
        with network("huggingface.co"):
            return Path(snapshot_download(repository, allow_patterns=wanted, etag_timeout=PATIENCE))
    except Exception as error:
        raise MetricUnavailable(_missing(repository, first_line(error))) from error


def torch_file(url: str, name: str, path: Path | None = None) -> tuple[Any, Path]:
    """Tensors and path of a PyTorch file: `path`, torch hub's cache, or a download of `url`.

    Only tensors are read (`weights_only`): the file cannot run code. MetricUnavailable when it is
    nowhere.
    """
    import torch

    if path is not None and path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path), path
    folder = path.parent if path else Path(torch.hub.get_dir()) / "checkpoints"
    file = path or folder / url.rsplit("/", 1)[-1]
    host = urlsplit(url).hostname or ""
    try:
        # torch announces its download on stdout, which belongs to --json.
        with contextlib.redirect_stdout(io.StringIO()), network("" if file.is_file() else host):
            tensors = torch.hub.load_state_dict_from_url(
                url,
                model_dir=str(folder),
                file_name=file.name,
                map_location="cpu",
                progress=False,
                weights_only=True,
            )
    except Exception as error:
        raise MetricUnavailable(_missing(file.name, first_line(error), name)) from error
    return tensors, file


@contextlib.contextmanager
def network(host: str) -> Iterator[None]:
    """Surround a download from `host`: it gives up soon, and does not chat.

    Raises:
        ConnectionError: at once, where the user forbade the network or the host has no address.
    """
    if host:
        _require(host)
    patience, level = socket.getdefaulttimeout(), logging.root.manager.disable
    socket.setdefaulttimeout(PATIENCE)
    logging.disable(logging.CRITICAL)  # a client's own account of its five tries
    try:
        yield
    finally:
        socket.setdefaulttimeout(patience)
        logging.disable(level)


def _require(host: str) -> None:
    if offline():
        raise ConnectionError("HF_HUB_OFFLINE is set")
    if getproxies():
        return  # the proxy resolves names
    try:
        socket.getaddrinfo(host, 443)
    except OSError as error:
        raise ConnectionError(f"no network: {host} has no address") from error


def _missing(what: str, why: str, name: str = "") -> str:
    hint = f"; give them with --weights {name}=PATH" if name else ""
    return f"the weights {what} are neither here nor could they be fetched ({why}){hint}"


def first_line(error: BaseException) -> str:
    """Of an error's text, shortened."""
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__
