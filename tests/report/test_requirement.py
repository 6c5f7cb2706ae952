"""--require: what it can say, how it fails, and that a missing score never passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from apdm_cli.errors import UsageError
from apdm_cli.report.assemble import compare_runs
from apdm_cli.report.evaluated import open_runs
from apdm_cli.report.requirement import check, parse
from apdm_cli.report.schema import Limits, Requirement, RunComparison
from tests.report.synthetic import attack_row, both, levels, make_run, row, score


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunComparison:
    root = tmp_path_factory.mktemp("runs")
    make_run(root, pictures=0)
    return compare_runs(open_runs(root, [])).runs[0]


def checked(text: str, run: RunComparison) -> Requirement:
    return check(parse(text), run)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("worst.dino<=0.31", 0.31),
        ("protected.worst.dino < .32", 0.31),
        ("original.worst.dino>=0.6", 0.6433),
        ("mean.dino<0.3", 0.2283),
        ("cut.worst.dino>=5e-1", 0.5347),
        ("change.worst.dino<=-0.3", -0.3333),
        ("dreambooth.dino<=0.2", 0.1233),
        ("dreambooth/unseen-photos.dino<=0.2", 0.2),
        ("textual-inversion.dino.high<=0.34", 0.33),
        ("utility.fid<=10", 8.1),
        ("utility/class-pictures.same-seed>.8", 0.83),
        ("kept.neighbours.dino>=.9", 0.9485),
        ("floor.dino<=0.1", 0.02),
        ("ceiling.dino > 0.8", 0.9),
    ],
)
def test_what_holds(text: str, value: float, run: RunComparison) -> None:
    found = checked(text, run)
    assert found.held, found.says
    assert found.value == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize(
    "text", ["worst.dino<0.31", "worst.dino>0.31", "worst.dino.high<=0.31", "mean.dino>=0.3"]
)
def test_what_does_not_hold(text: str, run: RunComparison) -> None:
    assert not checked(text, run).held


def test_the_attack_that_reached_the_worst_case_is_named(run: RunComparison) -> None:
    assert checked("worst.dino<=0.3", run).says == "0.31 (lora)"
    assert checked("original.worst.dino<=0.3", run).says == "0.64 (dreambooth)"


def test_rounding_never_hides_why_it_failed(run: RunComparison) -> None:
    assert checked("mean.dino<=0.2283", run).says.startswith("0.22833")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("worst.dno<=0.3", "did you mean dino?"),
        ("worst.clip-i<=0.3", "there are dino, brisque"),
        ("dreambooh.dino<=0.3", "did you mean dreambooth?"),
        ("cut.worst.brisque>=0.5", "no floor"),
        ("change.utility.same-seed<1", "only one arm was scored"),
        ("original.utility.same-seed<1", "that arm was not scored"),
    ],
)
def test_a_score_that_does_not_exist_never_holds(text: str, says: str, run: RunComparison) -> None:
    found = checked(text, run)
    assert not found.held and found.value is None
    assert says in found.says


@pytest.mark.parametrize("text", ["cut.worst.diversity>=0.1", "cut.lora.diversity>=0.1"])
def test_a_metric_that_takes_no_side_is_the_reason_why_it_has_no_cut(
    text: str, tmp_path: Path
) -> None:
    rows = [attack_row("lora", arm, score(0.4, "diversity")) for arm in ("original", "protected")]
    make_run(tmp_path, rows=rows + levels("diversity"), pictures=0)
    found = checked(text, compare_runs(open_runs(tmp_path, [])).runs[0])
    assert not found.held and "neither direction of this metric protects" in found.says


def test_what_an_attack_without_an_original_reaches_is_reached(tmp_path: Path) -> None:
    rows = [*both("lora", 0.5, 0.1), attack_row("heal", "protected", score(0.8)), *levels()]
    make_run(tmp_path, rows=rows, pictures=0)
    run = compare_runs(open_runs(tmp_path, [])).runs[0]
    found = checked("worst.dino<=0.3", run)
    assert (found.held, found.value) == (False, 0.8)
    assert found.says == "0.80 (heal, which has no score of the original to compare with)"
    assert checked("worst.dino<=0.8", run).held
    assert checked("worst.dino>=0.5", run).held, "the worst case, not the weakest attack"
    assert checked("cut.worst.dino>=0.8", run).says == "83 % (lora)"


def test_of_several_topics_the_worst_counts(tmp_path: Path) -> None:
    rows = [
        row("attack", "protected", score(0.2), attack="lora", cell="c"),
        row("utility", "protected", score(8.0, "fid"), topic="class pictures"),
        row("utility", "protected", score(30.0, "fid"), topic="captions"),
    ]
    make_run(tmp_path, rows=rows)
    run = compare_runs(open_runs(tmp_path, [])).runs[0]
    assert checked("utility.fid<=10", run).says == "30.0 (captions)"
    assert checked("utility/class-pictures.fid<=10", run).held


def test_an_attack_with_one_variant_needs_only_its_name(tmp_path: Path) -> None:
    rows = [
        attack_row("lora", "protected", score(0.2), variant="rank=8"),
        attack_row("heal", "protected", score(0.3), variant="steps=1"),
        attack_row("heal", "protected", score(0.4), variant="steps=2"),
    ]
    make_run(tmp_path, rows=rows)
    run = compare_runs(open_runs(tmp_path, [])).runs[0]
    assert checked("lora.dino<=0.2", run).held
    assert "lora/rank-8, heal/steps-1, heal/steps-2" in checked("heal.dino<=0.9", run).says
    assert checked("heal/steps-2.dino<=0.4", run).held


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("worst,dino<=0.3", 6),
        ("worst.dino", 11),
        ("worst.dino=<0.3", 11),
        ("worst.dino==0.3", 11),
        ("worst.dino<=0,3", 14),
        ("worst.dino<=high", 13),
        ("worst.dino<=1e999", 13),
        ("worst.dino<=0.3 and mean.dino<1", 17),
        ("dino<=0.3", 5),
        ("worst..dino<=0.3", 7),
        ("", 1),
        ("protcted.worst.dino<=0.3", 1),
        ("cut.worst.dino.hgih>=0.3", 16),
        ("worst.dino<=__import__('os')", 13),
    ],
)
def test_a_typo_points_at_its_column(text: str, column: int) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert f"column {column}:" in caught.value.what
    shown, pointer = caught.value.what.splitlines()[1:]
    assert shown == f"  {text}"
    assert pointer.index("^") == 2 + column - 1
    assert caught.value.exit_code == 2


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> RunComparison:
    """lora: 4 times the steps; heal: more than 3; ti: not even the original gets there."""
    stops = {
        "lora": ({25: 0.26, 50: 0.66}, {100: 0.26, 200: 0.66}),
        "heal": ({50: 0.7, 150: 0.9}, {50: 0.1, 150: 0.2}),
        "ti": ({50: 0.1, 150: 0.2}, {50: 0.1, 150: 0.2}),
    }
    rows = [
        attack_row(attack, arm, score(value, spread=0.02), cell=f"{attack}-{arm}")
        | {"budget": steps / 50, "steps": steps}
        for attack, curves in stops.items()
        for arm, curve in zip(("original", "protected"), curves, strict=True)
        for steps, value in curve.items()
    ]
    root = tmp_path_factory.mktemp("runs")
    make_run(root, rows=rows + levels(), pictures=0)
    return compare_runs(open_runs(root, [])).runs[0]


@pytest.mark.parametrize(
    ("text", "held", "says"),
    [
        ("work>=3", True, "heal: more than 3"),
        ("work>=3.1", False, "heal: more than 3"),
        ("work>3", True, "heal: more than 3"),
        ("work.heal<=100", False, "heal: more than 3"),  # nothing bounds it from above
        ("work<=5", True, "lora: 4 ["),  # the smallest is no larger than this one
        ("work.lora>=3.9", True, "lora: 4 ["),
        ("work.lora<=4.1", True, "lora: 4 ["),
        ("work.lora.low>=3.99", False, "lora: 4 ["),
        ("work.lora.high<=4.5", True, "lora: 4 ["),
        ("work.ti>=0", False, "did not come to 0.46"),
        ("work.nobody>=1", False, "there are lora, heal, ti"),
        ("lora@2.dino<=0.3", True, "0.26"),
        ("heal@3.dino<=0.25", True, "0.20"),
        ("heal.dino<=0.15", True, "0.10"),
        ("original.heal@3.dino>=0.8", True, "0.90"),
        ("heal@2.dino<=1", False, "heal@3"),
    ],
)
def test_work_factors_and_budgets(
    text: str, held: bool, says: str, followed: RunComparison
) -> None:
    found = checked(text, followed)
    assert (found.held, says in found.says) == (held, True), found.says


@pytest.mark.parametrize("order", [("lora", "heal"), ("heal", "lora")])
def test_a_work_factor_that_is_equal_to_the_bound_is_not_above_it_in_any_order(
    order: tuple[str, str], followed: RunComparison
) -> None:
    """heal: more than 3; lora: exactly 3, as far as is known."""
    works = {one.label: one for one in followed.work}
    three = Limits(low=3, high=3)
    works["lora"] = works["lora"].model_copy(update={"factor": three})
    run = followed.model_copy(update={"work": tuple(works[label] for label in order)})
    found = checked("work>3", run)
    assert not found.held and found.says.startswith("lora: 3 [")
    assert checked("work>=3", run).held
    assert checked("work<=3", run).held and not checked("work<3", run).held


def test_a_limit_counts_as_far_as_the_scores_are_certain(tmp_path: Path) -> None:
    """As measured, lora leaves most open; its original is so uncertain that little is known."""
    stops = {
        "lora": ({100: (0.5, 0.2), 300: (0.64, 0.15)}, {100: (0.1, 0.05), 300: (0.3, 0.1)}),
        "heal": ({100: (0.7, 0.02), 300: (0.9, 0.02)}, {100: (0.1, 0.02), 250: (0.2, 0.02)}),
    }
    rows = [
        attack_row(attack, arm, score(value, spread=spread), cell=f"{attack}-{arm}")
        | {"budget": steps / 100, "steps": steps}
        for attack, curves in stops.items()
        for arm, curve in zip(("original", "protected"), curves, strict=True)
        for steps, (value, spread) in curve.items()
    ]
    make_run(tmp_path, rows=rows + levels(), pictures=0)
    run = compare_runs(open_runs(tmp_path, [])).runs[0]
    lora = next(one for one in run.work if one.attack == "lora")
    assert lora.factor and lora.factor.low > 2.9
    assert lora.interval and lora.interval.low < 2
    assert not checked("work.lora>=2.5", run).held
    assert checked("work>=2.5", run).says.startswith("lora: more than 1.")
    assert "lora leaves most open" in run.answer
    assert run.verdict.index("lora more than 1.") < run.verdict.index("heal more than 2.5")


def test_without_several_stops_no_work_factor_holds(run: RunComparison) -> None:
    found = checked("work>=0", run)
    assert not found.held and "--budgets" in found.says


@pytest.mark.parametrize(("text", "column"), [("work.lora.dino>=3", 11), ("work", 5)])
def test_a_typo_in_a_work_factor_points_at_its_column(text: str, column: int) -> None:
    with pytest.raises(UsageError, match=f"column {column}:"):
        parse(text)
