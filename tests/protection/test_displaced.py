"""Where attackers of earlier subjects were: kept at a low rank, and held on to with --onto."""

from __future__ import annotations

import copy
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.func import functional_call

import apdm_cli.extension.manager as manager
import apdm_cli.protection.keeping as keeping
import apdm_cli.protection.l2p as l2p
import apdm_cli.protection.run as protection_run
from apdm_attacks.textual_inversion import TextualInversion
from apdm_cli.diffusion.displacements import Displacement, open_displacements
from apdm_cli.errors import ApdmError
from apdm_cli.personalization.dreambooth import PictureSource
from apdm_cli.protection.bench import Bench
from apdm_cli.protection.displaced import DisplacedPreservation, Held
from apdm_cli.randomness import Streams
from apdm_cli.runs.jsonl import read_rows
from apdm_cli.runs.run import Run
from tests.protection import toys
from tests.protection.commands import forget_pipelines, run, same
from tests.protection.pair import Pair
from tests.protection.test_several import PERSISTENT

KEEP = ("--keep-attackers", "2")
HOLD = ("--set", "preservation.displaced=2")


class Home(Pair):
    """Alice is protected in `first`, which keeps where her two attackers were."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.attackers: list[dict[str, Tensor]] = []
        self.left: list[tuple[int, int]] = []
        real = keeping.keep_attackers

        def noted(bench: Bench, *rest: Any) -> None:
            self.attackers = [copy.deepcopy(one.displacement) for one, _ in bench.left]
            self.left = [(one.age, steps) for one, steps in bench.left]
            real(bench, *rest)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(protection_run, "keep_attackers", noted)
            assert self.protect_alice("first", *KEEP) == 0

    def protect_alice(self, name: str, *more: str) -> int:
        two = ("--set", "attackers.count=2")
        return self.together(name, *PERSISTENT, *two, *more, subjects=[self.both[0]])

    def add_rex(self, name: str, *more: str, onto: str = "first") -> int:
        settings = self.arguments("")[self.arguments("").index("--set") :]
        asked = ("protect", "--subject", self.both[1], "--onto", onto, "--out", str(self.runs))
        lives = ("--set", "attackers.ages=[5,6]")  # longer than the run
        return run(
            [*asked, "--device", "cpu", "--name", name, *settings, *PERSISTENT, *lives, *more]
        )

    def displacements(self, name: str) -> dict[str, bytes]:
        folder = self.runs / name / "displacements"
        files = (file for file in folder.rglob("*") if file.is_file())
        return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    yield Home(tmp_path_factory.mktemp("home"))
    forget_pipelines()


@pytest.fixture(scope="module")
def whole(home: Home) -> Home:
    """Rex is added in `whole`, which holds on to Alice's attackers and keeps his own."""
    assert home.add_rex("whole", *HOLD, *KEEP) == 0
    return home


def distance(found: Displacement, moved: dict[str, Tensor]) -> float:
    """‖found − moved‖ / ‖moved‖."""
    parts = {name: found.of(name) for name in moved}
    lost = sum(
        float((part.view_as(moved[name]) - moved[name]).square().sum())
        for name, part in parts.items()
        if part is not None
    )
    return float((lost / sum(float(one.square().sum()) for one in moved.values())) ** 0.5)


def test_a_higher_rank_keeps_more_and_the_whole_rank_keeps_all() -> None:
    shapes = {"linear": (12, 10), "convolution": (12, 4, 3, 3), "bias": (12,)}
    moved = {name: toys.random(*shape, seed=len(name)) for name, shape in shapes.items()}
    found = {rank: Displacement.nearest(moved, rank) for rank in (1, 2, 4, 12)}
    lost = [distance(one, moved) for one in found.values()]
    assert lost[0] > lost[1] > lost[2] > lost[3] == 0
    assert {name: tuple(part.shape) for name, part in found[2].parts.items()} == {
        "linear:up": (12, 2),
        "linear:down": (2, 10),
        "convolution:up": (12, 2),
        "convolution:down": (2, 36),
        "bias": (12,),
    }
    # No other matrix of rank 2 is nearer: what is lost are the smaller singular values.
    values = torch.linalg.svdvals(moved["linear"])
    part = found[2].of("linear")
    assert part is not None
    assert torch.isclose((part - moved["linear"]).norm(), values[2:].norm(), rtol=1e-5)


def test_a_run_keeps_what_its_attackers_moved_and_nothing_else(home: Home) -> None:
    assert set(home.displacements("first")) == {"alice/0.safetensors", "alice/1.safetensors"}
    kept = open_displacements(home.runs / "first" / "displacements" / "alice")
    assert len(kept) == len(home.attackers) == 2
    # Of [2, 3] steps of a life, they took what was left on the result.
    assert all(age in (2, 3) for age, _ in home.left) and any(steps for _, steps in home.left)
    weights = home.weights("first")
    for one, moved in zip(kept, home.attackers, strict=True):
        assert set(moved) == set(weights), "DreamBooth moves all of them"
        names = {part.partition(":")[0] for part in one.parts}
        assert names == set(weights), "no photo, no latent, no other tensor"
        assert 0 < distance(one, moved) < 1
        assert distance(Displacement.nearest(moved, 8), moved) < distance(one, moved)
    assert sum(map(len, home.displacements("first").values())) < 2 * 4 * sum(
        weight.numel() for weight in weights.values()
    )


LORA = "attackers.pool=[{attack='lora', settings={rank=2, convolutions=true, convolution_rank=2}}]"
DORA = "attackers.pool=[{attack='lora', settings={rank=2, variant='dora'}}]"
WORD = "attackers.pool=[{attack='textual-inversion'}]"


@pytest.mark.parametrize(("name", "pool"), [("lora", LORA), ("dora", DORA)])
def test_what_adapters_add_is_what_was_moved(home: Home, name: str, pool: str) -> None:
    """θ + δ predicts what the attacker with its adapter does on θ; of a LoRA at its own rank."""
    real: Any = keeping.keep_attackers
    asked: list[float] = []

    def compared(bench: Bench, request: Any, rank: int, *rest: Any) -> None:
        for attacker, _ in bench.left:
            moved = attacker.displacement
            kept = Displacement.nearest(moved, rank if pool == LORA else 10_000)
            placed = copy.deepcopy(bench.model.trained)
            kept.place(placed, bench.model.trained)
            noisy = toys.random(2, *bench.model.latent_shape, seed=4)
            given = (noisy, torch.tensor([100, 700]), bench.personal.expand(2))
            with torch.no_grad():
                found = bench.model.denoiser.with_network(placed).predict(*given)
                wanted = attacker.denoiser.predict(*given)
                untouched = bench.model.denoiser.predict(*given)
            asked.append(float((wanted - untouched).abs().max()))
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=0.02 * asked[-1])
        real(bench, request, rank, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protection_run, "keep_attackers", compared)
        assert home.protect_alice(name, *KEEP, "--set", pool) == 0
    assert len(asked) == 2 and all(asked)
    assert set(home.displacements(name)) == {"alice/0.safetensors", "alice/1.safetensors"}


def test_displacements_of_adapters_are_held_on_to(home: Home) -> None:
    assert home.protect_alice("adapters", *KEEP, "--set", LORA) == 0
    assert home.add_rex("adapters-held", *HOLD, onto="adapters") == 0
    assert home.add_rex("adapters-alone", onto="adapters") == 0
    assert not same(home.weights("adapters-held"), home.weights("adapters-alone"))


class Words(TextualInversion):
    """Somebody's attack that trains a word, and does not say that nothing of it can be kept."""

    name = "words"
    leaves_displacement = True


def test_attackers_that_move_no_weights_leave_nothing_and_that_is_said(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = manager.attacks
    monkeypatch.setattr(manager, "attacks", lambda found: {**real(found), "words": Words()})
    assert home.protect_alice("word", *KEEP, "--set", "attackers.pool=[{attack='words'}]") == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "Nothing is kept of the simulated attackers of alice" in said
    assert home.displacements("word") == {}


def test_attackers_of_which_nothing_can_be_kept_are_refused_at_once(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "attackers.pool=[{attack='textual-inversion'},{attack='custom-diffusion'}]"
    for more in ((), ("--dry-run",)):
        assert home.protect_alice("never", *KEEP, "--set", words, *more) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert "simulated attackers with textual-inversion and custom-diffusion, who" in said
        assert "--set path.attack=lora" in said
    assert home.protect_alice("never", *KEEP, "--set", "path.attack=textual-inversion") == 2
    assert "simulated attackers with textual-inversion, who" in capsys.readouterr().err
    assert not (home.runs / "never").exists()


def test_those_of_whom_nothing_will_be_kept_are_named_before_the_first_step(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed = (
        "--set",
        "attackers.pool=[{attack='lora',settings={rank=2}},{attack='textual-inversion'}]",
    )
    named = "nothing will be kept of simulated attackers with textual-inversion, who move"
    assert home.protect_alice("mixed", *KEEP, *mixed, "--dry-run") == 0
    assert named in " ".join("".join(capsys.readouterr()).split())

    def begin(bench: Bench, total: int) -> int:
        said.append(" ".join(capsys.readouterr().err.split()))
        raise ApdmError("far enough")

    said: list[str] = []
    monkeypatch.setattr(Bench, "begin", begin)
    assert home.protect_alice("mixed", *KEEP, *mixed) == 1
    assert home.protect_alice("mixed", *mixed) == 1
    assert [named in text for text in said] == [True, False], "only who keeps is told"


@pytest.mark.usefixtures("heeded_signals")
def test_a_run_that_was_begun_so_goes_on_though_nothing_can_be_kept(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(TextualInversion, "leaves_displacement", True)
        patch.setattr(Bench, "leave", lambda bench, attackers: os.kill(os.getpid(), signal.SIGTERM))
        assert home.protect_alice("earlier", *KEEP, "--set", WORD) == 143
    assert home.protect_alice("earlier", *KEEP, "--set", WORD, "--resume") == 0
    assert "nothing will be kept" in " ".join(capsys.readouterr().err.split())


def test_nothing_is_kept_unless_it_is_asked_for(home: Home) -> None:
    assert home.protect_alice("plain") == 0
    assert not (home.runs / "plain" / "displacements").exists()
    assert same(home.weights("plain"), home.weights("first"))
    assert "keep_attackers" not in home.manifest("plain")
    assert "displaced" not in home.manifest("plain")["configuration"]["preservation"]
    assert "displaced" not in read_rows(home.runs / "plain" / "metrics.jsonl")[0]
    assert home.manifest("first")["keep_attackers"] == 2


def test_the_gradient_is_that_of_the_error_at_the_displaced_weights() -> None:
    start, reference = toys.denoiser(seed=1), toys.denoiser(seed=2)
    moved = {
        name: 0.1 * toys.random(*weight.shape, seed=number)
        for number, (name, weight) in enumerate(start.network.named_parameters())
    }
    displacement = Displacement.nearest(moved, 3)
    personal = toys.condition(toys.PERSONAL)

    def source() -> PictureSource:
        return PictureSource(toys.latents(4, 2), Streams(5), "displaced", toys.process())

    term = DisplacedPreservation(
        start.network,
        reference,
        toys.denoiser(seed=3),
        [Held(displacement, source(), personal)],
        batch_size=2,
    )
    before = toys.weights(start.network)
    for _ in range(2):  # added to what is there; the same draw
        term.held[0] = Held(displacement, source(), personal)
        with term.turn(7) as error:
            (3 * error).backward()
    assert torch.equal(toys.weights(start.network), before)

    drawn = source().draw(2)
    noisy = toys.process().noised(*drawn)

    def predicted(network: torch.nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
        leaves: dict[str, Tensor] = dict(network.named_parameters())
        placed = {}
        for name, weight in leaves.items():
            part = displacement.of(name)
            assert part is not None
            placed[name] = weight + part.view_as(weight)
        asked = (noisy, drawn.timesteps, personal.expand(2)["text"])
        found: Tensor = functional_call(network, placed, asked).sample
        return found, leaves

    wanted = predicted(reference.network)[0].detach()
    found, leaves = predicted(start.network)
    direct = (found - wanted).square().mean()
    assert torch.isclose(error, direct, rtol=1e-5)
    gradients = torch.autograd.grad(direct, list(leaves.values()), allow_unused=True)
    flat = torch.cat(
        [
            (torch.zeros_like(weight) if one is None else one).flatten()
            for weight, one in zip(leaves.values(), gradients, strict=True)
        ]
    )
    assert flat.norm() > 0
    assert torch.allclose(toys.gradients(start.network), 2 * 3 * flat, rtol=1e-3, atol=1e-6)


def test_displacements_of_another_model_do_not_fit() -> None:
    network = toys.denoiser().network
    name, weight = next(iter(network.named_parameters()))
    for parts in ({"nowhere": torch.ones(1)}, {name: torch.ones(weight.numel() + 1)}):
        with pytest.raises(ApdmError, match="do not fit the model"):
            Displacement(parts).place(copy.deepcopy(network), network)


def test_it_begins_at_zero_and_acts_when_theta_moves(whole: Home) -> None:
    """φ + δ fails as the protected model did; as long as θ is φ, θ + δ is no other."""
    values = [row["displaced"] for row in read_rows(whole.runs / "whole" / "metrics.jsonl")]
    assert values[0] == 0.0 and all(value > 0 for value in values[1:])
    assert whole.add_rex("let-go") == 0
    assert not same(whole.weights("whole"), whole.weights("let-go"))


def test_what_was_kept_of_earlier_subjects_goes_on(whole: Home) -> None:
    both, before = whole.displacements("whole"), whole.displacements("first")
    assert {name: both[name] for name in before} == before
    assert set(both) - set(before) == {"rex/0.safetensors"}
    assert load_file(whole.runs / "whole" / "displacements" / "rex" / "0.safetensors")


@pytest.mark.usefixtures("heeded_signals")
def test_a_stopped_one_ends_bit_identically_and_only_on_the_same_displacements(
    whole: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = whole
    real = l2p.LearningToProtect._summary

    def summary(self: Any, index: int, *rest: Any) -> Any:
        if index == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, index, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(l2p.LearningToProtect, "_summary", summary)
        assert home.add_rex("stopped", *HOLD, *KEEP) == 143
    assert "--keep-attackers 2" in Run.open(home.runs, "stopped").begun_by()
    file = home.runs / "first" / "displacements" / "alice" / "1.safetensors"
    kept = file.read_bytes()
    file.unlink()
    capsys.readouterr()
    assert home.add_rex("stopped", "--resume", *HOLD, *KEEP) == 1
    assert "onto.displacements was" in capsys.readouterr().err
    file.write_bytes(kept)
    leave = Bench.leave

    def left(bench: Bench, attackers: Any) -> None:
        leave(bench, attackers)
        os.kill(os.getpid(), signal.SIGTERM)  # before they live to the end

    with monkeypatch.context() as patch:
        patch.setattr(Bench, "leave", left)
        assert home.add_rex("stopped", "--resume", *HOLD, *KEEP) == 143
    assert home.add_rex("stopped", "--resume", *HOLD, *KEEP) == 0
    assert same(home.weights("whole"), home.weights("stopped"))
    assert home.displacements("whole") == home.displacements("stopped")


def test_what_cannot_be_kept_or_held_is_said(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    if not (home.runs / "plain").exists():
        assert home.protect_alice("plain") == 0

    def said() -> str:
        return " ".join(capsys.readouterr().err.split())

    said()
    assert home.add_rex("never", *HOLD, onto="plain") == 1
    assert "Run plain has kept no displacements of the attackers of alice" in (text := said())
    assert "--keep-attackers 16" in text
    assert home.protect_alice("never", *HOLD) == 2
    assert "preservation.displaced is for a protection that goes on from another one" in said()
    assert home.protect_alice("never", "--set", "attackers.kind=restart", *KEEP) == 2
    assert "no simulated attacker lives to the end" in said()
    naive = ["protect", str(home.alice), "--class", "person", "--method", "naive", *KEEP]
    assert run([*naive, "--model", str(home.model), "--out", str(home.runs)]) == 2
    assert "no simulated attacker lives to the end" in said()
    assert home.protect_alice("never", "--keep-attackers", "0") == 2
    assert "a rank is at least 1" in said()
    assert home.add_rex("never", *HOLD, "--set", "train=adapter") == 2
    assert "preservation.displaced is for train = full only" in said()
    assert not (home.runs / "never").exists()
