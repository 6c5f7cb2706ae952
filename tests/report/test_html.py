"""report.html as text: self-contained, escaped, private by default, the same every time."""

from __future__ import annotations

import html as html_text
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from apdm_cli.report.assemble import compare_runs
from apdm_cli.report.evaluated import open_runs
from apdm_cli.report.publish import render_html
from apdm_cli.report.requirement import parse
from apdm_cli.report.table import rich_tables
from tests.report.synthetic import METRICS, attack_row, full_rows, levels, make_run, score


def page_of(root: Path, *names: str, include_photos: bool = False) -> str:
    runs = open_runs(root, names)
    comparison = compare_runs(runs, [parse("worst.dino<=0.3")])
    page = render_html(comparison, runs, include_photos)
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "NOW", page)


class Page(HTMLParser):
    """Collects what the tests ask about; complains about unbalanced elements."""

    VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[int] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, (tag, self.open[-3:], self.getpos())
        self.open.pop()

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("runs")
    make_run(root)
    return page_of(root)


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_it_needs_nothing_from_elsewhere(text: str, page: Page) -> None:
    assert not page.all("script") and not page.all("iframe")
    policy = next(m for m in page.all("meta") if m.get("http-equiv"))["content"] or ""
    assert "default-src 'none'" in policy and "img-src data:" in policy
    addresses = [
        value or ""
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href", "srcset", "action")
    ]
    assert addresses and all(a.startswith(("data:", "#")) for a in addresses)
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style and "url(" not in style[1] and "@import" not in style[1]


def test_every_link_and_label_has_its_target(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        for name in ("href", "xlink:href"):
            value = attributes.get(name) or ""
            if value.startswith("#"):
                assert value[1:] in ids
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in ids


def test_it_can_be_read_without_eyes(page: Page) -> None:
    assert page.all("html")[0]["lang"] == "en"
    images = page.all("img")
    assert len(images) == (4 + 1) * 2 * 8  # four attacks and the class, two arms, eight each
    assert all(image["alt"] for image in images)
    assert len({image["alt"] for image in images}) == len(images)
    assert all(cell.get("scope") in ("col", "row") for cell in page.all("th"))
    charts = [a for a in page.all("figure") if a.get("role") == "img"]
    assert len(charts) == 3 and all(len(str(chart["aria-label"])) > 30 for chart in charts)
    assert page.headings[0] == 1 and page.headings.count(1) == 1
    steps = zip(page.headings, page.headings[1:], strict=False)
    assert all(after - before <= 1 for before, after in steps)


def test_the_numbers_are_there(text: str) -> None:
    plain = html_text.unescape(re.sub(r"<[^>]+>", "", text)).replace("\u00a0", " ")
    for expected in (
        "The strongest of 4 attacks, lora, reaches similarity 0.31 [0.26, 0.36]",
        "−0.52 [−0.56, −0.48]",
        "✗ not held",
        "worst.dino<=0.3",
        "two seeds of the original 7.40",
        "pocket-extractor ab12cd34",
        "apdm protect PHOTOS --class person",
        "e" * 64,
        "torch",
    ):
        assert expected in plain, expected


def test_photos_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (64, 64), "red").save(folder / "a.png")
    run = make_run(tmp_path / "runs", photos=[folder / "a.png"])
    without, with_photos = (
        page_of(tmp_path / "runs", include_photos=include) for include in (False, True)
    )
    assert "The subject's photos are left out" in without and "Photo 1 of" not in without
    assert "This file contains photos of the subject" in with_photos
    assert 'alt="Photo 1 of person-1"' in with_photos
    for text in (without, with_photos):
        assert str(tmp_path) not in text  # where they lie is said in neither
    assert not list(run.rglob("a.png"))


def test_names_cannot_inject_anything(tmp_path: Path) -> None:
    evil = '<script>alert(1)</script>" onload="x'
    rows = [attack_row(evil, arm, score(0.4), cell="c" + arm) for arm in ("original", "protected")]
    make_run(tmp_path, rows=rows + levels(), subject=evil)
    text = page_of(tmp_path)
    page = Page(text)
    assert not page.all("script") and "<script" not in text
    assert not any("onload" in attributes for _, attributes in page.elements)


def test_a_dollar_is_no_formula(tmp_path: Path) -> None:
    rows = [attack_row("$\\frac$", arm, score(0.4), cell="c" + arm) for arm in ("original",)]
    make_run(tmp_path, rows=rows)
    assert "$\\frac$" in page_of(tmp_path)


def test_a_page_about_protected_photos_speaks_of_no_protected_model(tmp_path: Path) -> None:
    """Tiles, legends, captions and the glossary; and the same in the terminal's headings."""
    make_run(tmp_path, protects_photos=True)
    runs = open_runs(tmp_path, [])
    comparison = compare_runs(runs)
    assert comparison.runs[0].protects == "photos"
    text = render_html(comparison, runs)
    page, _, _ = text.partition('id="reading"')  # there metrics explain themselves
    assert "protected model" not in page and "original model" not in page
    for said in ("attacked with the perturbed photos", "Here the photos are protected", "0\u00a0%"):
        assert said in text
    assert "Other subjects keep" not in text and "unchanged within noise" not in text
    shown = io.StringIO()
    Console(file=shown, width=100).print(rich_tables(comparison, 100))
    assert "Utility: nothing, the model is not changed" in shown.getvalue()


def test_several_runs_stand_in_an_overview(tmp_path: Path) -> None:
    make_run(tmp_path, "one")
    make_run(tmp_path, "two", subject="dog-3")
    text = page_of(tmp_path, "one", "two")
    page = Page(text)
    assert "2 runs side by side" in text and "different subjects" in text
    assert {"overview", "r1", "r2"} <= {str(a.get("id")) for _, a in page.elements}
    assert page.headings.count(1) == 1


def test_a_curve_over_rounds_appears_where_there_are_rounds(tmp_path: Path) -> None:
    rows = [
        attack_row("rounds", arm, score(0.2 + 0.1 * number), variant=f"round {number}")
        for number in (1, 2, 3)
        for arm in ("original", "protected")
    ]
    make_run(tmp_path, "with", rows)
    make_run(tmp_path, "without", full_rows())
    assert "Over rounds of personalization" in page_of(tmp_path, "with")
    assert "Over rounds of personalization" not in page_of(tmp_path, "without")


def test_work_factors_have_a_section_with_curves_and_a_table(tmp_path: Path) -> None:
    rows = [
        attack_row("lora", arm, score(value, spread=0.02), cell=f"lora-{arm}")
        | {"budget": steps / 50, "steps": steps}
        for arm, curve in (
            ("original", {25: 0.26, 50: 0.66}),
            ("protected", {50: 0.1, 100: 0.26, 200: 0.66}),
        )
        for steps, value in curve.items()
    ]
    make_run(tmp_path, rows=rows + levels())
    text = page_of(tmp_path)
    page = Page(text)
    assert any(a.get("id") == "r1-work" for a in page.all("section"))
    charts = [str(a["aria-label"]) for a in page.all("figure") if a.get("role") == "img"]
    assert "original 0.26 at 25, 0.66 at 50, protected 0.10 at 50" in charts[0]
    plain = html_text.unescape(re.sub(r"<[^>]+>", "", text)).replace("\u00a0", " ")
    assert "An attacker needs about 4 times as many steps (3.8–4.3) to get a likeness" in plain
    assert "about 141" in plain and "4 [3.8, 4.3]" in plain


def test_the_smallest_evaluation_has_a_page(tmp_path: Path) -> None:
    rows = [attack_row("lora", "protected", score(0.2, "unheard-of", spread=None))]
    unheard = METRICS[0].model_copy(update={"name": "unheard-of"})
    run = make_run(tmp_path, rows=rows, pictures=0, metrics=[unheard])
    (run / "metrics.jsonl").unlink()
    for log in run.rglob("losses.jsonl"):
        log.unlink()
    Page(page_of(tmp_path))


@pytest.mark.parametrize(
    ("original", "protected", "tile"),
    [
        (score(0.9), score(None, n=0, skipped=30), "0.90 → – lora → not scored"),
        (score(None, n=0, skipped=30), score(0.2), "– → 0.20 not scored → lora"),
        (score(0.9), None, "0.90 → – lora → not scored"),
        (None, score(0.2), "– → 0.20 no control → lora"),
    ],
)
def test_the_tiles_tell_what_has_no_score(
    original: dict[str, object] | None,
    protected: dict[str, object] | None,
    tile: str,
    tmp_path: Path,
) -> None:
    arms = {"original": original, "protected": protected}
    rows = [attack_row("lora", arm, one) for arm, one in arms.items() if one]
    make_run(tmp_path, rows=rows + levels(), pictures=0)
    plain = " ".join(html_text.unescape(re.sub(r"<[^>]+>", " ", page_of(tmp_path))).split())
    assert f"Worst-case similarity {tile} Of the attack's gain, gone –" in plain
    assert "needs a score on both sides" in plain and "successful control" not in plain


def test_the_page_is_the_same_every_time_apart_from_the_date(tmp_path: Path) -> None:
    make_run(tmp_path)
    assert page_of(tmp_path) == page_of(tmp_path)


def test_terms_of_any_protection_are_drawn_under_their_titles(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    for terms, said in (
        ({"ash": "how much is burnt"}, "how much is burnt"),
        ({}, "ash, smoke"),  # a method that names none has all drawn
    ):
        (run / "manifest.json").write_text(json.dumps({**manifest, "terms": terms}))
        rows = [{"step": step, "ash": 0.1 * step, "smoke": 1.0} for step in range(20)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        page = html_text.unescape(page_of(tmp_path))
        assert f"Over the steps of the protection: {said}." in page
        assert "error added on the photos" not in page
