"""The sheet shows original beside protected, same numbers, and photos only when asked."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from PIL import Image

from apdm_cli.errors import ApdmError
from apdm_cli.report.assemble import compare_runs
from apdm_cli.report.evaluated import EvaluatedRun, open_runs
from apdm_cli.report.pictures import (
    TILE,
    SheetRow,
    contact_sheet,
    curve_picture,
    named_below,
    sheet_rows,
    spread,
    subject_photos,
)
from tests.report.synthetic import attack_row, levels, make_run, paint, score, utility_rows

Colour = tuple[int, int, int]
RED, BLUE = (200, 20, 20), (20, 20, 200)


def colours(picture: Image.Image) -> set[Colour]:
    return {colour for _, colour in picture.getcolors(1 << 24) or []}  # type: ignore[misc]


def sheet_of(root: Path, photos: list[Image.Image] | None = None) -> Image.Image:
    run = open_runs(root, [])[0]
    compared = compare_runs([run]).runs[0]
    return contact_sheet("title", "subtitle", sheet_rows(run, compared, 4, photos or []))


def two_arms() -> list[dict]:
    return [attack_row("lora", arm, score(0.4)) for arm in ("original", "protected")]


def arm_painter(folder: str, number: int) -> Image.Image:
    colour = RED if "_control" in folder else BLUE
    return Image.new("RGB", (16, 16), (colour[0], colour[1] + number, colour[2]))


def test_original_stands_above_protected_with_the_same_numbers(tmp_path: Path) -> None:
    make_run(tmp_path, rows=two_arms(), painter=arm_painter, pictures=8)
    sheet = sheet_of(tmp_path)
    places: dict[Colour, tuple[int, int]] = {}
    for y in range(0, sheet.height, 4):
        for x in range(0, sheet.width, 4):
            places.setdefault(sheet.getpixel((x, y)), (x, y))  # type: ignore[arg-type]
    # 4 of 8, evenly: numbers 0, 2, 4, 6 in both rows, in order.
    red = [places[(RED[0], RED[1] + number, RED[2])] for number in (0, 2, 4, 6)]
    blue = [places[(BLUE[0], BLUE[1] + number, BLUE[2])] for number in (0, 2, 4, 6)]
    assert [x for x, _ in red] == sorted(x for x, _ in red) == [x for x, _ in blue]
    assert max(y for _, y in red) < min(y for _, y in blue)
    assert (RED[0], RED[1] + 1, RED[2]) not in places


def test_rows_say_in_plain_words_what_they_show(tmp_path: Path) -> None:
    make_run(tmp_path, rows=two_arms() + utility_rows())
    run = open_runs(tmp_path, [])[0]
    photo = Image.new("RGB", (TILE, TILE), (1, 200, 3))
    rows = sheet_rows(run, compare_runs([run]).runs[0], photos=[photo])
    assert [(row.caption, row.note, row.arm) for row in rows] == [
        ("Photos of the person", "who is protected", ""),
        ("Original model, after the attack", "lora, likeness 0.40", "original"),
        ("Protected model, after the attack", "lora, likeness 0.40", "protected"),
        ("Other people, original", "no attack", "original"),
        ("Other people, protected", "same seeds", "protected"),
    ]
    assert rows[3].pictures[0].getpixel((0, 0)) == paint("evaluation/images/class-b", 0).getpixel(
        (0, 0)
    )


def budget_rows() -> list[dict]:
    """Two attacks: lora is the stronger one at its own steps, heal the one that is cheapest."""
    levels_at: dict[str, dict[float, tuple[float, float]]] = {
        "lora": {1: (0.3, 0.3), 3: (0.4, 0.31)},
        "heal": {0.5: (0.2, 0.1), 1: (0.7, 0.2), 3: (0.9, 0.8)},
    }
    return [
        attack_row(attack, arm, score(value), cell=f"{attack}-{arm}")
        | {
            "budget": budget,
            "steps": round(50 * budget),
            "images": f"evaluation/images/{attack}-{arm}-{budget}",
        }
        for attack, stops in levels_at.items()
        for budget, pair in stops.items()
        for arm, value in zip(("original", "protected"), pair, strict=True)
    ] + levels()


def test_the_attack_that_the_answer_names_is_shown_at_its_own_steps_and_the_longest(
    tmp_path: Path,
) -> None:
    make_run(tmp_path, rows=budget_rows())
    run = open_runs(tmp_path, [])[0]
    compared = compare_runs([run]).runs[0]
    assert "heal" in compared.answer
    rows = sheet_rows(run, compared)
    assert [(row.caption, row.note) for row in rows] == [
        ("Original model, after the attack", "heal, 50 steps, likeness 0.70"),
        ("Original model, attacked 3 × as long", "heal, 150 steps, likeness 0.90"),
        ("Protected model, after the attack", "heal, 50 steps, likeness 0.20"),
        ("Protected model, attacked 3 × as long", "heal, 150 steps, likeness 0.80"),
    ]
    firsts = [row.pictures[0].getpixel((0, 0)) for row in rows]
    assert firsts == [
        paint(f"evaluation/images/heal-{arm}-{budget}", 0).getpixel((0, 0))
        for arm in ("original", "protected")
        for budget in (1, 3)
    ]


def test_a_curve_stands_beside_where_there_is_one(tmp_path: Path) -> None:
    make_run(tmp_path / "with", rows=budget_rows())
    make_run(tmp_path / "without", rows=two_arms())
    curves = [
        curve_picture(compare_runs(open_runs(tmp_path / name, [])).runs[0])
        for name in ("with", "without")
    ]
    assert curves[0] is not None and curves[1] is None
    rows: list[SheetRow] = []
    assert contact_sheet("t", "s", rows, curves[0]).width >= curves[0].width


def test_names_of_curves_that_end_together_do_not_lie_on_each_other() -> None:
    assert named_below({"original": 0.97, "protected": 0.96}, 1.0) == "protected"
    assert named_below({"original": 0.9, "protected": 0.95}, 1.0) == "original"
    assert named_below({"original": 0.97, "protected": 0.7}, 1.0) is None  # both have room above
    assert named_below({"original": 0.97}, 1.0) is None


def test_a_missing_arm_is_drawn_as_missing(tmp_path: Path) -> None:
    make_run(tmp_path, rows=two_arms()[1:])
    run = open_runs(tmp_path, [])[0]
    original, protected = sheet_rows(run, compare_runs([run]).runs[0])
    assert original.pictures == () and len(protected.pictures) == 8


def test_photos_are_a_first_row_only_when_given(tmp_path: Path) -> None:
    photo = Image.new("RGB", (TILE, TILE), (1, 200, 3))
    make_run(tmp_path, rows=two_arms())
    assert (1, 200, 3) not in colours(sheet_of(tmp_path))
    with_photos = sheet_of(tmp_path, [photo, photo])
    assert (1, 200, 3) in colours(with_photos)
    assert with_photos.height > sheet_of(tmp_path).height


def test_photos_are_found_again_by_their_digest(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, colour in (("a.png", "red"), ("b.png", "blue"), ("stranger.png", "green")):
        Image.new("RGB", (64, 48), colour).save(folder / name)
    mine = [folder / "b.png", folder / "a.png"]
    make_run(tmp_path / "runs", photos=mine)
    manifest = open_runs(tmp_path / "runs", [])[0].run.manifest
    manifest["subject"]["photos"]["sources"] = [str(folder)]
    shown = subject_photos(manifest, 32)
    assert [photo.size for photo in shown] == [(32, 32), (32, 32)]
    assert [photo.getpixel((5, 5)) for photo in shown] == [(0, 0, 255), (255, 0, 0)]
    Image.new("RGB", (64, 48), "white").save(folder / "a.png")  # another photo under that name
    with pytest.raises(ApdmError, match=r"--include-photos: a\.png is no longer"):
        subject_photos(manifest, 32)


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path, rows=two_arms())
    damaged = next((run / "evaluation" / "images").rglob("0000.png"))
    damaged.write_bytes(damaged.read_bytes()[:40])
    file = run / "evaluation" / "scores.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "asked": {"images": 8}}))
    with pytest.raises(ApdmError, match=r"0000\.png is damaged") as caught:
        sheet_of(tmp_path)
    again = f"apdm evaluate photos-person --images 8 --out {tmp_path}"
    assert caught.value.hint.endswith(f": {again}")


def test_pictures_are_spread_evenly_and_never_more_than_there_are() -> None:
    assert spread(30, 6) == [0, 5, 10, 15, 20, 25]
    assert spread(3, 8) == [0, 1, 2]
    assert spread(0, 8) == []


def test_the_sheet_is_the_same_every_time(tmp_path: Path) -> None:
    make_run(tmp_path)
    first, second = (hashlib.sha256(sheet_of(tmp_path).tobytes()).digest() for _ in range(2))
    assert first == second


def test_a_run_without_pictures_still_has_a_sheet(tmp_path: Path) -> None:
    make_run(tmp_path, pictures=0)
    run: EvaluatedRun = open_runs(tmp_path, [])[0]
    assert sheet_rows(run, compare_runs([run]).runs[0]) == []
    assert sheet_of(tmp_path).height > 0
