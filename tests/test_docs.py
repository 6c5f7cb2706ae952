"""The pages for readers: links lead somewhere, and commands are those that the program takes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from apdm_cli.cli.main import COMMANDS, build_app

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "benchmarks").rglob("*.md"),
        *(ROOT / "plugins").rglob("*.md"),
        *(ROOT / "apdm_cli").rglob("*.md"),
    ]
)
# The changelog speaks of options in shorthand: `--keep difference|pictures`.
SHOWING = [page for page in PAGES if page.name != "CHANGELOG.md"]
CODE = re.compile(r"```.*?```|`[^`\n]*`|^ {4}[^\n]*$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"")
ELSEWHERE = ("http://", "https://", "mailto:")


def links(page: Path) -> list[str]:
    """Targets of the links and pictures of a page that do not lead out of the repository."""
    text = CODE.sub("", page.read_text(encoding="utf-8"))
    found = (markdown or html for markdown, html in LINK.findall(text))
    return [target for target in found if not target.startswith(ELSEWHERE)]


def anchors(page: Path) -> set[str]:
    """What may stand after `#`: the headings as GitHub spells them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+\s+(.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (
            anchor and target.suffix == ".md" and anchor not in anchors(target)
        ):
            broken.append(link)
    assert not broken, f"{page.relative_to(ROOT)} links to what is not there: {broken}"


def test_the_pages_are_found() -> None:
    names = {page.relative_to(ROOT).as_posix() for page in PAGES}
    assert {"README.md", "CONTRIBUTING.md", "docs/method.md"} <= names
    assert any(name.startswith("benchmarks/") for name in names)
    assert "write-a-metric.md" in links(ROOT / "docs" / "write-an-attack.md")


@pytest.fixture(scope="module")
def program() -> Any:
    return typer.main.get_command(build_app())


def commands(page: Path) -> Iterator[str]:
    """What a page shows of `apdm`, in its lines of code and in its sentences."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for span in (*re.findall(r"`([^`]+)`", text), *re.findall(r"^ {4,}(.*)$", text, re.MULTILINE)):
        found = re.match(r"(?:\$ )?apdm ([a-z]+\b[^#]*)", " ".join(span.split()))
        if found and found[1].split()[0] in COMMANDS:
            yield found[1]


@pytest.mark.parametrize("page", SHOWING, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_is_one_that_the_program_takes(page: Path, program: Any) -> None:
    """Options by their names, and values as far as they can be read without the files they name."""
    refused = []
    for line in commands(page):
        name, *words = shlex.split(line)
        if words and words[-1].startswith("--") and len(words) == 1:
            continue  # `apdm attack --workers`: an option that is spoken of
        numbers = {"N": "1", "SECONDS": "1"}
        try:
            program.commands[name].make_context(name, [numbers.get(word, word) for word in words])
        except typer.Exit:  # --list, --help
            continue
        except Exception as error:
            refused.append(f"apdm {line}: {getattr(error, 'message', error)}")
    assert not refused
