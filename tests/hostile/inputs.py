"""Hostile inputs by kind: what people, damaged disks and ill will put where we read.

Everything is drawn from a fixed seed, so that a failure names an input that can be made again.
"""

from __future__ import annotations

import copy
import io
import json
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image

from tests.hostile.counting import tried

# Text that terminals, file systems, spreadsheets and parsers stumble over.
TEXTS = [
    "",
    " ",
    ".",
    "..",
    "../../etc/passwd",
    "/",
    "/dev/zero",
    "/dev/stdin",
    "/proc/self/mem",
    "/proc/self/fd/0",
    "/proc/self/environ",
    "a\0b",
    "\0",
    "\n",
    "a\nError: all photos were deleted",
    "\r",
    "\t",
    "\x1b[2J\x1b[H",
    "\x1b]0;owned\x07",
    "\x1b]8;;http://example.invalid\x07link\x1b]8;;\x07",
    "\x9b31m",
    "\x7f",
    "\x08\x08\x08",
    "photo\u202egpj.exe",
    "\u2066a\u2069",
    "\u200b",
    "\ufeff",
    "\u2028",
    "\u2029",
    "\x85",
    "\udcff",
    "\ud800",
    "a\udce9.jpg",
    "x" * 256,
    "x" * 5_000,
    "ü" * 128 + "ü" * 128,
    "a/" * 3_000,
    "[bold]x[/bold]",
    "[/]",
    "{}",
    "{0.__class__}",
    "%s%n",
    "$(reboot)",
    "`reboot`",
    "; reboot",
    "=1+1",
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    '=HYPERLINK("http://example.invalid")',
    "<script>alert(1)</script>",
    "'\"",
    "--help",
    "-",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "9" * 4_300,
    "9" * 4_301,
    "0x" + "f" * 5_000,
    "[" * 1_000,
    "{" * 1_000,
    "[" * 1_000 + "]" * 1_000,
    "a." * 1_000 + "b",
    "con",
    "nul.txt",
    "COM1",
    "名前",
    "e\u0301" * 40,
    "\U0001f9d1\u200d\U0001f9b0",
]

# Values of every type that JSON has, in the place of any other.
VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    -(2**63) - 1,
    10**30,
    1.5,
    -0.0,
    1e300,
    "",
    "text",
    "\0",
    "\x1b[2J",
    "../../etc",
    "x" * 30_000,
    [],
    [None],
    [[]],
    ["text", 1],
    {},
    {"": None},
    {"name": 1},
    [{"name": "a", "sha256": 5}],
]


def json_texts() -> Iterator[bytes]:
    """Documents that are no JSON object of ours."""
    yield from (
        b"",
        b" ",
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        b"{",
        b"}",
        b"[1, 2]",
        b"3",
        b'"a"',
        b"null",
    )
    yield from (b"{'a': 1}", b'{"a": 1,}', b'{"a" 1}', b'{"a": 1}{', b"{\x00}", b'{"a": "\x00"}')
    yield from (b'{"kind": NaN}', b'{"kind": Infinity}', b'{"kind": -Infinity}', b'{"kind": 1e999}')
    yield from (b'{"kind": "\xe4"}', b'{"kind": "protect", "seed": 1e9999}')
    for depth in (100, 500, 1_000, 5_000, 100_000):
        yield b'{"kind": ' + b"[" * depth + b"]" * depth + b"}"
        yield b'{"kind": ' + b'{"a": ' * depth + b"1" + b"}" * depth + b"}"
        yield b"[" * depth
        yield b'{"kind": "protect", "summary": ' + b'{"a": ' * depth
    for digits in (41, 400, 4_299, 4_300, 4_301, 100_000):
        yield b'{"kind": "protect", "seed": ' + b"9" * digits + b"}"
        yield b'{"kind": "protect", "seed": -' + b"9" * digits + b"}"
        yield b'{"kind": "protect", "duration_seconds": 1' + b"0" * digits + b".0}"


def toml_texts() -> Iterator[bytes]:
    """Files that are no configuration."""
    yield from (
        b"a",
        b"= 1",
        b"a =",
        b"a = 1 2",
        b"[a",
        b"[[a]",
        b"a = 'x",
        b"\xff\xfe",
        b"a = \xe4",
    )
    yield from (b"a = \x00", b"a = 1\na = 2", b"[a]\n[a]", b"a = 99:99:99", b"a = 0x", b"a = 1__0")
    for depth in (17, 100, 1_000, 5_000):
        yield b"a = " + b"[" * depth + b"]" * depth
        yield b"a = " + b"{b = " * depth + b"1" + b"}" * depth
        yield b"[" + b".".join([b"a"] * depth) + b"]\nb = 1"
        yield b".".join([b"a"] * depth) + b" = 1"
    for digits in (20, 400, 4_300, 4_301, 50_000):
        yield b"a = " + b"9" * digits
        yield b"a = -" + b"9" * digits
        yield b"a = 0x" + b"f" * digits


def changed(document: Mapping[str, Any], seed: int = 0) -> Iterator[tuple[str, dict[str, Any]]]:
    """`document` with one entry at a time replaced by a value of every type, or left out."""
    for place in _places(document):
        for number, value in enumerate(VALUES):
            copied = copy.deepcopy(dict(document))
            _set(copied, place, value)
            yield f"{'.'.join(map(str, place))} = VALUES[{number}]", copied


def damaged(content: bytes, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """`content` cut off, with bytes changed, repeated and left out."""
    draw = random.Random(seed)
    for number in range(count):
        data = bytearray(content)
        place = draw.randrange(len(data))
        kind = ("cut", "bytes", "head", "twice", "hole", "zeros")[number % 6]
        if kind == "cut":
            data = data[:place]
        elif kind == "bytes":
            for _ in range(draw.choice((1, 4, 32))):
                data[draw.randrange(len(data))] = draw.randrange(256)
        elif kind == "head":
            for _ in range(4):
                data[draw.randrange(min(64, len(data)))] = draw.choice((0, 1, 127, 128, 255))
        elif kind == "twice":
            data[place:place] = data[place : place + 64]
        elif kind == "hole":
            del data[place : place + draw.randrange(1, 64)]
        else:
            data[place : place + 64] = bytes(len(data[place : place + 64]))
        yield f"{kind} {number}", bytes(data)


def pictures() -> dict[str, bytes]:
    """A small picture of every format that is read here, by ending."""
    noise = np.random.default_rng(0).integers(0, 255, (24, 24, 3), np.uint8)
    picture = Image.fromarray(noise)
    exif = Image.Exif()
    exif[0x0112] = 6
    forms: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "jpg": (picture, {"exif": exif, "quality": 80}),
        "png": (picture.convert("RGBA"), {}),
        "webp": (picture, {"quality": 80}),
        "bmp": (picture, {}),
        "tif": (picture, {"compression": "tiff_lzw"}),
        "gif": (
            picture,
            {"save_all": True, "append_images": [picture.transpose(Image.Transpose.ROTATE_90)]},
        ),
        "avif": (picture, {"speed": 10}),
        "jp2": (picture, {}),
        "ppm": (picture, {}),
    }
    found = {}
    for ending, (image, options) in forms.items():
        buffer = io.BytesIO()
        image.save(buffer, Image.registered_extensions()[f".{ending}"], **options)
        found[ending] = buffer.getvalue()
    return found


def as_json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document).encode()


def _places(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items: Any = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, item in items:
        yield (*before, key)
        yield from _places(item, (*before, key))


def _set(document: Any, place: tuple[Any, ...], value: Any) -> None:
    for key in place[:-1]:
        document = document[key]
    document[place[-1]] = value


class Tally:
    """Counts inputs and collects what none of them may do.

    Three things can become of an input: it is used, it is refused in a sentence, or it fails.
    """

    def __init__(self) -> None:
        self.used: list[str] = []
        self.refused: list[str] = []
        self.failed: list[str] = []

    def __len__(self) -> int:
        return len(self.used) + len(self.refused) + len(self.failed)

    def offer(self, name: str, action: Callable[..., Any], *arguments: Any) -> Any:
        """`action(*arguments)`; an `ApdmError` is a refusal, any other exception a failure."""
        from apdm_cli.errors import ApdmError

        tried()
        try:
            result = action(*arguments)
        except ApdmError as error:
            self.refused.append(name)
            if not error.what or len(error.what) > 1_500:
                self.failed.append(f"{name}: a message of {len(error.what)} characters")
            return None
        except Exception as error:
            self.failed.append(f"{name}: {type(error).__name__}: {str(error)[:200]}")
            return None
        self.used.append(name)
        return result
