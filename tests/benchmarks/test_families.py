"""The table of docs/models.md has every family and every attack that trains once."""

from __future__ import annotations

from pathlib import Path

from apdm_cli.extension.manager import attacks, build_plugin_manager, families
from apdm_families import stable_diffusion_3
from benchmarks.families import (
    ATTACKS,
    BEGIN,
    DONE,
    END,
    EVALUATE,
    LINES,
    MODELS,
    PAGE,
    PLAIN,
    PROTECTIONS,
    lines_of,
)
from benchmarks.families import table as rendered


def test_every_family_and_every_attack_is_in_it() -> None:
    plugins = build_plugin_manager()
    assert set(MODELS) == set(families(plugins))
    once = {name for name, attack in attacks(plugins).items() if attack.trains_once}
    # That one is dreambooth with another loss.
    assert {name for name, _ in ATTACKS.values()} == once - {"adaptive-objective"}
    written = PAGE.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]
    lines = written.strip().splitlines()
    assert all(f"`{name}`" in lines[0] for name in MODELS)
    rows = {line.split("|")[1].strip() for line in lines if line.startswith("| ")}
    assert rows >= {*PROTECTIONS, *ATTACKS, EVALUATE, PLAIN, LINES}


def test_what_is_said_stands_below_once() -> None:
    cells = {row: DONE for row in (*PROTECTIONS, *ATTACKS, EVALUATE, PLAIN)}
    text = rendered({"sdxl": {**cells, "lora": "No."}, "sd3": {**cells, "lora": "No."}})
    assert "| lora | (1) | (1) |" in text and text.count("No.") == 1


def test_the_lines_of_a_family_are_those_of_its_file() -> None:
    known = families(build_plugin_manager())
    file = Path(stable_diffusion_3.__file__ or "")
    assert lines_of(known["sd3"]) == len(file.read_text(encoding="utf-8").splitlines())
