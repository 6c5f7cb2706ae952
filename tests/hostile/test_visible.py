"""What comes from outside cannot act on the terminal, the report's reader or a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
import unicodedata

import pytest
from rich.table import Table

from apdm_cli.cli import console
from apdm_cli.errors import ApdmError
from apdm_cli.visible import json_escaped, spreadsheet_cell, visible
from tests.hostile.counting import hostile
from tests.hostile.inputs import TEXTS

OBEYED = {chr(code) for code in [*range(32), 127, *range(128, 160)]} - {"\n"}
TURNING = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c")


def is_safe(text: str) -> bool:
    return not any(
        character in OBEYED | TURNING or unicodedata.category(character) in ("Cs", "Zl", "Zp")
        for character in text
    )


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_names(text: str) -> None:
    shown = visible(text)
    assert is_safe(shown) and "\n" not in shown
    assert visible(shown) == shown
    assert is_safe(visible(text, lines=True).replace("\t", ""))
    if is_safe(text) and "\n" not in text and not set(text) & set("\u200b\ufeff"):
        assert shown == text


def test_every_character_there_is() -> None:
    for code in range(0x11000):
        assert is_safe(visible(chr(code)))


def test_words_of_all_scripts_stay() -> None:
    for word in (
        "größer",
        "写真",
        "e\u0301",
        "\U0001f9d1\u200d\U0001f9b0",
        "שלום",
        "a b",
        "نص\u200cها",
    ):
        assert visible(word) == word


def test_two_names_that_look_alike_do_not_after_it() -> None:
    assert visible("a\u202eb") != visible("ab") != visible("a\u200bb")


@hostile("texts from outside, shown", "the console")
@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_terminal(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Through each way that the commands print."""
    console.print_error(ApdmError(f"{text} cannot be read", text))
    console.warn(f"plugin {text} is broken", text)
    console.stdout.print(text, markup=False, soft_wrap=True)
    console.stderr.print(text, markup=False, highlight=False)
    table = Table()
    table.add_column("name")
    from rich.markup import escape

    table.add_row(escape(text))
    console.stdout.print(table)
    console.print_json({"name": text, text: [text]})
    captured = capsys.readouterr()
    assert is_safe(captured.out.replace("\t", "")) and is_safe(captured.err.replace("\t", ""))
    assert "reboot" not in text or "reboot" in captured.out


@hostile("texts from outside, shown", "--json")
@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_json_keeps_the_value(text: str) -> None:
    written = json_escaped(json.dumps({"name": text}, ensure_ascii=False))
    assert json.loads(written) == {"name": text}
    assert is_safe(written)
    written.encode()  # also of what is no valid Unicode


@hostile("texts from outside, shown", "CSV")
@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_spreadsheet(text: str) -> None:
    buffer = io.StringIO()
    csv.writer(buffer).writerow([spreadsheet_cell(text), "x"])
    (row,) = csv.reader(io.StringIO(buffer.getvalue()))
    assert row[1] == "x" and is_safe(row[0])
    assert not row[0].startswith(("=", "+", "@", "-")) or _number(row[0])


@pytest.mark.parametrize("number", ["-1", "-0.5", "1e-4", "+3", "12"])
def test_numbers_stay_numbers(number: str) -> None:
    assert spreadsheet_cell(number) == number


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
