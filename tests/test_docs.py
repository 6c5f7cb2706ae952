"""The pages for readers: every link between them leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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
