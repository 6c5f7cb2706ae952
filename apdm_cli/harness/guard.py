"""What an attack must leave as it was, and what it may not leave behind: looked at afterwards."""

from __future__ import annotations

import zlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.errors import ApdmError

_CHUNK = 2**24  # numbers of a tensor that are looked at together


def checksum(model: DiffusionModel) -> dict[str, tuple[int, int]]:
    """Two numbers from the bits of every tensor of `model`: equal, if nothing was changed."""
    return {
        f"{name}.{key}": _sums(tensor)
        for name, network in model.networks().items()
        for key, tensor in network.state_dict().items()
    }


def require_finite_files(folder: Path) -> None:
    """Refuse an artifact with NaN or infinities in its `.safetensors`.

    Raises:
        ApdmError: the file and the tensor are named.
    """
    for file in sorted(folder.rglob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as tensors:
                names = list(tensors.keys())
                wrong = [name for name in names if not _is_finite(tensors.get_tensor(name))]
        except (OSError, SafetensorError) as error:
            raise ApdmError(f"{file} cannot be read again: {error}") from error
        if wrong:
            raise ApdmError(
                f"the attack ended with weights that are not finite: {wrong[0]} in {file.name}",
                "Its last step went too far: lower its learning rate.",
            )


def _is_finite(tensor: torch.Tensor) -> bool:
    if not tensor.is_floating_point():
        return True
    return all(bool(torch.isfinite(part).all()) for part in tensor.flatten().split(_CHUNK))


def _sums(tensor: torch.Tensor) -> tuple[int, int]:
    """On a processor the CRC-32 of the bits, and how many bytes they are.

    Elsewhere the sum of the bits as whole numbers, and of their squares (both modulo 2⁶⁴), which
    are made where the tensor is.
    """
    if tensor.device.type == "cpu":
        content = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
        return zlib.crc32(content.data), content.nbytes
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    flat = tensor.detach().reshape(-1)
    if not flat.is_complex():
        flat = flat.view(kinds[flat.element_size()])
    first = second = 0
    for part in flat.split(_CHUNK):
        whole = part.to(torch.int64)
        first += int(whole.sum())
        second += int((whole * whole).sum())
    return first, second
