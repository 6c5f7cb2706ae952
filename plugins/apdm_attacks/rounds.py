"""Several personalizations, one after another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from apdm_attacks.composed import Composed, ComposedConfig

if TYPE_CHECKING:
    from apdm_cli.plugin import Artifact, Bench


class RoundsConfig(ComposedConfig):
    """The options of the repeated attack are per round."""

    rounds: int = Field(3, ge=1, le=10, description="personalizations of `steps` steps each")


class Rounds(Composed):
    """Personalizes again and again, with a fresh optimizer and fresh noise every round.

    Whether a protection holds over several rounds is an open question of arXiv 2511.01307. The
    artifact of every one of them stays beside the last (`rounds/1`, ...). Budgets multiply the
    number of rounds: 3 are nine instead of three, and .5 ends in the middle of the second.
    """

    name = "rounds"
    Config = RoundsConfig

    def total_steps(self, config: Any) -> int:
        """Those of all rounds."""
        return int(config.rounds * config.steps)

    def continues(self, config: Any) -> bool:
        """Every round is as long as ever; there are more of them."""
        return True

    def run(self, bench: Bench, config: Any) -> Artifact:
        """Round after round on the same trained part, until the longest budget is spent."""
        personalization = bench.personalization(bench.attack(config.attack), config)
        stops = bench.stops(self.total_steps(config))
        series, total = [], max(stops)
        for index, start in enumerate(range(0, total, config.steps), start=1):
            steps = min(config.steps, total - start)
            inside = {end - start: stops[end] for end in stops if start < end <= start + steps}
            label = f"round {index}"
            bench.train(personalization, label=label, steps=steps, stops=inside)
            if index <= config.rounds:
                kept = personalization.save(bench.new_folder(f"rounds/{index}"))
                series.append({"label": label, "kind": kept.kind, "path": f"rounds/{index}"})
        bench.results["series"] = series
        return personalization.save(bench.artifact_folder)
