"""Text from outside made safe to look at: file names, manifests, errors of other people's code.

A terminal obeys control characters, and a reader believes what a right-to-left override shows
("photo_gpj.exe"). Whatever is printed, reported or written into a table passes through here.
"""

from __future__ import annotations

import re
import unicodedata

# Cc: control characters. Cs: lone surrogates, which are bytes that were no UTF-8. Zl, Zp: line
# ends that `splitlines` knows and a reader does not. Of Cf (invisible formatting) only what turns
# or hides text: joiners and soft hyphens belong to real words.
_CATEGORIES = ("Cc", "Cs", "Zl", "Zp")
_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_HIDING = frozenset("\u200b\u2060\ufeff")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_PLAIN = re.compile(r"[ -~]*")
_UNUSUAL = re.compile(r"[^\n -~]")
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def visible(text: str, *, lines: bool = False) -> str:
    """`text` with every character that a terminal obeys, or a reader cannot see, spelled out.

    ESC becomes `\\x1b`, a right-to-left override `\\u202e`, a line break `\\n`.

    Args:
        lines: leave line breaks and tabs as they are: for whole messages, not for names.
    """
    if _PLAIN.fullmatch(text):
        return text
    return "".join(
        character
        if (lines and character in "\n\t") or not _is_hidden(character)
        else _spelled(character)
        for character in text
    )


def json_escaped(text: str) -> str:
    """JSON text of the same value without a character that `visible` would spell out."""
    return _UNUSUAL.sub(
        lambda found: f"\\u{ord(found[0]):04x}" if _is_hidden(found[0]) else found[0], text
    )


def spreadsheet_cell(text: str) -> str:
    """`text` for a CSV file: visible, and never a formula for the program that opens it.

    Spreadsheets run cells that begin with =, +, - or @. Plain numbers stay as they are.
    """
    shown = visible(text)
    if shown.startswith(FORMULA) and not _is_number(shown):
        return "'" + shown
    return shown


def _is_hidden(character: str) -> bool:
    return (
        character in _TURNING
        or character in _HIDING
        or unicodedata.category(character) in _CATEGORIES
    )


def _spelled(character: str) -> str:
    code = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
