"""What a photo may cost, measured in a process of its own.

docs/reliability.md promises that decoding a photo takes at most 1.5 GB above the process. Here
`MAX_MEMORY` is a twenty-fifth, for speed, and pictures are just below what it lets through: whoever
raises the limits, or adds a copy of the picture on its way to sRGB, sees it here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from apdm_cli.diffusion import photo_decoding
from tests.hostile.counting import hostile

SCALE = 25
PROMISE = 1_500_000_000
ROOT = Path(__file__).parents[2]

# Makes a picture with as many pixels as are let through, then decodes it in a fork whose peak is
# compared with its start; and one of more pixels, which is to be refused before it is decoded.
PROGRAM = """
import io, json, os, sys
import numpy as np
from PIL import Image, ImageCms
from apdm_cli.diffusion import photo_decoding as d

d.MAX_MEMORY //= int(sys.argv[1])
kind, options = sys.argv[2], json.loads(sys.argv[3])
form, mode = kind.split("-")

def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))

def make(pixels):
    side = int(pixels ** 0.5)
    if mode == "F":
        image = Image.fromarray(np.full((side, side), 0.5, np.float32))
    elif mode == "I16":
        image = Image.fromarray(np.full((side, side), 999, np.uint16))
    else:
        bands = 3 if mode == "P" else len(mode)
        tile = np.random.default_rng(0).integers(0, 255, (50, 50, bands), np.uint8)
        image = Image.fromarray(tile, None).resize((side, side), Image.Resampling.NEAREST)
        if mode in ("CMYK", "P", "LA"):
            image = image.convert("RGB").convert(mode)
    exif = Image.Exif()
    exif[0x112] = 6
    if mode in ("RGB", "RGBA"):
        options["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    buffer = io.BytesIO()
    image.save(buffer, form, exif=exif, **options)
    return buffer.getvalue()

def in_child(action):
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, json.dumps(action()).encode())
        os._exit(0)
    os.wait()
    return json.loads(os.read(read, 10_000))

def decode(content):
    before = peak()
    try:
        d.decode_picture(content, "a")
        return [peak() - before, ""]
    except Exception as error:
        return [peak() - before, str(error)]

def measured(pixels):
    path = sys.argv[4]
    in_child(lambda: open(path, "wb").write(make(pixels)))
    size = os.path.getsize(path)
    return [size, *in_child(lambda: decode(open(path, "rb").read()))]

d.decode_picture(make(32 * 32), "warm")
costs, before = [], d._bytes_per_pixel
d._bytes_per_pixel = lambda picture: costs.append(before(picture)) or costs[-1]
d.decode_picture(make(32 * 32), "cost")
most = 0.9 * d.MAX_MEMORY / costs[-1]
# What the file takes counts too: two steps find the size that is let through.
size = measured(most)[0]
most = min(most, 0.97 * max(1, d.MAX_MEMORY - size) / costs[-1])
print(json.dumps([measured(most), measured(1.25 * d.MAX_MEMORY / costs[-1])]))
"""

KINDS: dict[str, dict[str, Any]] = {
    "JPEG-RGB": {"quality": 80},
    "JPEG-CMYK": {"quality": 80, "progressive": True},
    "PNG-RGBA": {"compress_level": 1},
    "PNG-P": {"compress_level": 1, "transparency": 3},
    "PNG-I16": {"compress_level": 1},
    "WEBP-RGBA": {"quality": 50, "method": 0},
    "WEBP-RGB": {"lossless": True, "method": 0, "quality": 0},
    "TIFF-F": {"compression": "tiff_lzw"},
    "TIFF-RGBA": {"compression": "tiff_lzw"},
    "TIFF-I16": {},
    "BMP-RGB": {},
    "GIF-P": {},
    "AVIF-RGBA": {"speed": 10, "quality": 40},
    "JPEG2000-RGBA": {"irreversible": True, "quality_layers": [80]},
}


@hostile("photos", "decode_picture")
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
@pytest.mark.parametrize("kind", KINDS)
def test_a_photo_costs_no_more_than_promised(kind: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(SCALE), kind, json.dumps(KINDS[kind])]
    done = subprocess.run(
        [*command, str(tmp_path / "a")], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    (size, taken, error), (_, above, refused) = json.loads(done.stdout)
    assert error == "", error
    assert taken < PROMISE / SCALE, f"{taken / 1e6:.0f} MB for a file of {size / 1e6:.0f} MB"
    assert "too large to be decoded safely" in refused
    assert above < photo_decoding.MAX_MEMORY / SCALE  # refused by its header
