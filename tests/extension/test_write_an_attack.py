"""The page docs/write-an-attack.md: its code runs as it stands, and keeps the contract."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.extension.family import load_model
from apdm_cli.testing import AttackContract
from tests.tiny import make_tiny_pipeline

PAGE = Path(__file__).parents[2] / "docs" / "write-an-attack.md"


def example(name: str) -> Any:
    """An instance of the class `name`, from the block of the page that defines it."""
    blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", PAGE.read_text(encoding="utf-8"), re.M)
    (block,) = (block for block in blocks if f"class {name}(" in block)
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(textwrap.dedent(block), str(PAGE), "exec", dont_inherit=True), names)
    return names[name]()


class OnThePage(AttackContract):
    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, tmp_path_factory: pytest.TempPathFactory) -> DiffusionModel:
        folder = tmp_path_factory.mktemp("tiny") / "pipeline"
        make_tiny_pipeline(folder, channels=(32, 32), text_layers=1)
        return load_model(str(folder), torch.device("cpu"))


class TestCrossAttention(OnThePage):
    attack: ClassVar = example("CrossAttention")


class TestTethered(OnThePage):
    attack: ClassVar = example("Tethered")

    def test_the_tether_is_in_the_loss(
        self, model: DiffusionModel, config: Any, tmp_path: Path
    ) -> None:
        from apdm_attacks.dreambooth import DreamBooth

        losses = []
        for attack in (self.attack, DreamBooth()):
            bench = self.bench(model, tmp_path / attack.name)
            losses.append(bench.train(bench.personalization(attack, config)))
        tethered, plain = losses
        assert tethered[0] == plain[0] and tethered[1] > plain[1]


class TestTwoRounds(OnThePage):
    attack: ClassVar = example("TwoRounds")

    def test_there_are_two(self, model: DiffusionModel, config: Any, tmp_path: Path) -> None:
        bench = self.bench(model, tmp_path)
        self.attack.run(bench, config)
        assert bench.steps_taken == 2 * config.steps
