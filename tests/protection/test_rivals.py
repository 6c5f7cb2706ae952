"""The protections that come for comparison, against loops written down from their papers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from apdm_cli.config import resolve
from apdm_cli.errors import UsageError
from apdm_cli.extension.manager import attacks, build_plugin_manager
from apdm_cli.personalization.dreambooth import PictureSource
from apdm_cli.personalization.optimizers import adamw
from apdm_cli.protection.settings import ProtectionSettings
from apdm_cli.randomness import Streams
from apdm_protections.erase import Erase, erased, teacher
from apdm_protections.imma import Imma
from apdm_protections.layers import named, only
from apdm_protections.self_destruct import SelfDestruct, coupled
from apdm_protections.sophon import Sophon, denial_of_service, simulated
from tests.protection import toys
from tests.protection.test_contract import _OnTinyModel

RATE, DECAY = 1e-3, 1e-2
ATTACK = {"path": {"learning_rate": RATE, "batch_size": 2, "prior_weight": 0.5}}


@dataclass
class ToyBench:
    """What a protection is given, around a tiny U-Net, with every draw written down."""

    settings: ProtectionSettings
    low_memory: bool = False
    draws: dict[str, list[Any]] = field(default_factory=dict)
    attacks: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.streams = Streams(0)
        self.model = SimpleNamespace(denoiser=toys.denoiser())
        self.network = self.model.denoiser.network
        self.original = copy.deepcopy(self.network)
        self.reference = self.model.denoiser.with_network(self.original)
        self.personal, self.generic = toys.condition(toys.PERSONAL), toys.condition(toys.CLASS)
        self.photos, self.class_pictures = toys.latents(3, 1), toys.latents(4, 2)

    def source(self, pictures: Any, name: str) -> PictureSource:
        source = PictureSource(pictures, self.streams, name, toys.process())
        self.draws[name] = toys.record(source, "draw")
        return source

    def optimizer(self, kind: str, betas: tuple[float, float], decay: float) -> Any:
        return adamw(kind, betas, decay)

    def attacker(self, kind: Any, photos: Any, label: str, **options: Any) -> Any:
        made = toys.attacker(self.model.denoiser, self.settings, self.streams, label)
        loss: Any = made.loss
        self.draws[f"{label}/photos"] = toys.record(loss.photos, "draw")
        self.draws[f"{label}/class"] = toys.record(loss.class_pictures, "draw")
        return made

    def keep(self, name: str, what: Any) -> None:
        pass

    def begin(self, total: int) -> int:
        return 0


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in ("erase.teacher", "sophon.simulated"):  # the toys' attacker has its settings
        monkeypatch.setattr(f"apdm_protections.{name}", lambda *_: None)
    return ToyBench(toys.settings(**ATTACK))


def predict(unet: Any, draw: Any, condition: Any) -> Tensor:
    """From nothing but the schedule's numbers."""
    kept = toys.schedule().alphas_cumprod[draw.timesteps].view(-1, 1, 1, 1)
    noisy = kept.sqrt() * draw.latents + (1 - kept).sqrt() * draw.noise
    text = condition["text"].expand(len(noisy), -1, -1)
    found: Tensor = unet(noisy, draw.timesteps, encoder_hidden_states=text).sample
    return found


def error(unet: Any, draw: Any, condition: Any) -> Tensor:
    return (predict(unet, draw, condition) - draw.noise).square().mean()


def adam(weights: Any, rate: float, decay: float = DECAY) -> torch.optim.AdamW:
    return torch.optim.AdamW(weights, lr=rate, weight_decay=decay)


def step(optimizer: torch.optim.Optimizer, loss: Tensor, clip: Any = None) -> None:
    optimizer.zero_grad()
    loss.backward()
    if clip is not None:
        nn.utils.clip_grad_norm_(*clip)
    optimizer.step()


def same(network: nn.Module, plain: nn.Module, before: nn.Module) -> None:
    """Equal up to rounding, which AdamW's division blows up where gradients are tiny."""
    moved = (toys.weights(plain) - toys.weights(before)).norm()
    assert moved > 1e-3
    assert (toys.weights(network) - toys.weights(plain)).norm() < 1e-2 * moved


def run(protection: Any, bench: Any, **settings: Any) -> list[dict[str, float]]:
    config = resolve(protection.Config, settings)
    return [dict(terms) for terms in protection.steps(bench, config)]


C_PER, C_PR = toys.condition(toys.PERSONAL), toys.condition(toys.CLASS)


def test_erase_is_esd_with_a_teacher(bench: Any) -> None:
    """Equation 6, the class for the empty caption, on the cross-attention alone."""
    terms = run(
        Erase(), bench, steps=3, taught=2, learning_rate=RATE, batch_size=2, guidance=1.5,
        prior_weight=0.5, max_grad_norm=0.0, layers="cross-attention",
    )  # fmt: skip
    known = copy.deepcopy(bench.original)
    optimizer = adam(known.parameters(), RATE)
    for photo, generic in zip(
        bench.draws["teacher/photos"], bench.draws["teacher/class"], strict=True
    ):
        step(optimizer, error(known, photo, C_PER) + 0.5 * error(known, generic, C_PR))

    plain = copy.deepcopy(bench.original)
    cross = [weight for name, weight in plain.named_parameters() if "attn2" in name]
    optimizer = adam(cross, RATE, decay=0.0)
    assert len(terms) == 3
    for i, found in enumerate(terms):
        photo, generic = bench.draws["photos"][i], bench.draws["class"][i]
        with torch.no_grad():
            neutral = predict(bench.original, photo, C_PR)
            target = neutral - 1.5 * (predict(known, photo, C_PER) - neutral)
        erasure = (predict(plain, photo, C_PER) - target).square().mean()
        kept = error(plain, generic, C_PR)
        assert found["erasure"] == pytest.approx(erasure.item(), rel=1e-3)
        assert found["class_pictures"] == pytest.approx(kept.item(), rel=1e-3)
        step(optimizer, erasure + 0.5 * kept)
    same(bench.network, plain, bench.original)
    for name, weight in bench.network.named_parameters():
        moved = not torch.equal(weight, bench.original.get_parameter(name))
        assert moved <= ("attn2" in name), name
    assert all(weight.requires_grad for weight in bench.network.parameters())


def test_without_a_teacher_the_original_teaches(bench: Any) -> None:
    (terms,) = run(Erase(), bench, steps=1, taught=0, guidance=1.0)
    assert "teacher/photos" not in bench.draws
    photo = bench.draws["photos"][0]
    with torch.no_grad():
        mine, neutral = (predict(bench.original, photo, one) for one in (C_PER, C_PR))
    expected = (mine - erased(neutral, mine, 1.0)).square().mean().item()
    assert terms["erasure"] == pytest.approx(expected, rel=1e-4)


def test_imma_goes_down_with_everything_and_up_with_attention(bench: Any) -> None:
    """Algorithm 1 where φ are all the weights: what is not in S is put back at the end."""
    terms = run(
        Imma(), bench, steps=2, inner_steps=2, outer_steps=1, adaptation_rate=RATE,
        learning_rate=2 * RATE, batch_size=2, prior_weight=0.5, keep_weight=0.25,
        max_grad_norm=0.1,
    )  # fmt: skip
    plain = copy.deepcopy(bench.original)
    attention = [
        weight
        for name, weight in plain.named_parameters()
        if any(part in name for part in ("to_q", "to_k", "to_v", "to_out"))
    ]
    inner, outer = adam(plain.parameters(), RATE), adam(attention, 2 * RATE)
    draws = iter(zip(bench.draws["photos"], bench.draws["class"], strict=True))
    for found in terms:
        for _ in range(2):
            photo, generic = next(draws)
            loss = error(plain, photo, C_PER) + 0.5 * error(plain, generic, C_PR)
            step(inner, loss, (list(plain.parameters()), 0.1))
        photo, generic = next(draws)
        mine = error(plain, photo, C_PER)
        assert found["immunized"] == pytest.approx(mine.item(), rel=1e-3)
        step(outer, -mine + 0.25 * error(plain, generic, C_PR), (attention, 0.1))
    kept = {id(weight) for weight in attention}
    with torch.no_grad():
        for weight, old in zip(plain.parameters(), bench.original.parameters(), strict=True):
            if id(weight) not in kept:
                weight.copy_(old)
    same(bench.network, plain, bench.original)
    for name, weight in bench.network.named_parameters():
        if not any(part in name for part in ("to_q", "to_k", "to_v", "to_out")):
            assert torch.equal(weight, bench.original.get_parameter(name)), name


def test_sophon_denies_along_the_path_and_reinforces(bench: Any) -> None:
    """Fine-tuning suppression with the denial-of-service loss at every second attack step."""
    terms = run(
        Sophon(), bench, steps=2, inner_steps=4, protect_every=2, learning_rate=RATE,
        reinforcement_steps=2, reinforcement_rate=2 * RATE, batch_size=2, max_grad_norm=0.5,
    )  # fmt: skip
    plain = copy.deepcopy(bench.original)
    suppression = adam(plain.parameters(), RATE, decay=0.0)
    reinforcement = adam(plain.parameters(), 2 * RATE)
    attacked = iter(zip(bench.draws["path/photos"], bench.draws["path/class"], strict=True))
    judged, kept = iter(bench.draws["photos"]), iter(bench.draws["class"])
    for found in terms:
        path = copy.deepcopy(plain)
        optimizer = adam(path.parameters(), RATE)
        total = torch.zeros_like(toys.weights(path))
        denial = 0.0
        for number in (1, 2, 3, 4):
            photo, generic = next(attacked)
            step(optimizer, error(path, photo, C_PER) + 0.5 * error(path, generic, C_PR))
            if number % 2 == 0:
                optimizer.zero_grad()
                loss = predict(path, next(judged), C_PER).square().mean() / 2
                loss.backward()
                denial += loss.item()
                total += toys.gradients(path)
        assert found["denial"] == pytest.approx(denial, rel=1e-3)
        sizes = [weight.numel() for weight in plain.parameters()]
        for weight, part in zip(plain.parameters(), total.split(sizes), strict=True):
            weight.grad = part.view_as(weight).clone()
        nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        suppression.step()
        for _ in range(2):
            step(reinforcement, error(plain, next(kept), C_PR))
    same(bench.network, plain, bench.original)


def test_the_bounded_loss_is_zero_where_nothing_is_predicted() -> None:
    assert denial_of_service(torch.zeros(2, 4, 3, 3)) == 0
    assert denial_of_service(torch.full((2, 4, 3, 3), -2.0)) == 4


def test_self_destruct_adds_up_the_three_terms(bench: Any) -> None:
    """L_ul + α L_up + β L_sd, with the gradient of L_sd through the Hessians themselves."""
    (terms,) = run(
        SelfDestruct(), bench, steps=1, learning_rate=RATE, batch_size=2, alpha=0.5, beta=3.0,
        epsilon=1e-2, max_grad_norm=0.0,
    )  # fmt: skip
    found = toys.gradients(bench.network)
    plain = copy.deepcopy(bench.original)
    photo, generic = bench.draws["photos"][0], bench.draws["class"][0]
    attack, benign = (error(plain, photo, C_PER), error(plain, generic, C_PR))
    refused = error(plain, generic, C_PER)
    (-(1 + attack).log() + 0.5 * (benign + refused)).backward()
    without = toys.gradients(plain)
    plain.zero_grad()
    # The flash kernels have no second derivative.
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        weights = list(plain.parameters())
        cosine = cosine_of(error(plain, photo, C_PER), error(plain, generic, C_PR), weights)
        (3.0 * cosine).backward()
    coupling = toys.gradients(plain)
    assert coupling.norm() > 0.1 * without.norm()
    # A difference over ε is no derivative; how good it can be is the next test's.
    assert (found - without - coupling).norm() < 0.1 * coupling.norm()
    assert terms["cosine"] == pytest.approx(cosine.item(), abs=1e-3)


def test_self_destruct_couples_the_gradients_in_half_precision_too() -> None:
    def found(dtype: torch.dtype) -> Tensor:
        bench: Any = ToyBench(toys.settings())
        bench.model.denoiser = replace(bench.model.denoiser, dtype=dtype)
        run(SelfDestruct(), bench, steps=1, alpha=0.0, beta=100.0, max_grad_norm=0.0)
        return toys.gradients(bench.network)

    whole, half = found(torch.float32), found(torch.bfloat16)
    assert torch.nn.functional.cosine_similarity(whole, half, dim=0) > 0.99


def cosine_of(first: Tensor, second: Tensor, weights: Any) -> Tensor:
    """Of the gradients of two losses, itself differentiable."""
    one, other = (
        torch.cat(
            [part.flatten() for part in torch.autograd.grad(loss, weights, create_graph=True)]
        )
        for loss in (first, second)
    )
    return torch.nn.functional.cosine_similarity(one, other, dim=0)


def test_the_coupling_is_the_gradient_of_the_cosine_and_leaves_the_weights() -> None:
    """In double precision the finite difference is as good as the Hessians."""
    draws = torch.Generator().manual_seed(0)
    weights = [torch.randn(4, 3, generator=draws).double().requires_grad_() for _ in range(2)]
    before = [weight.detach().clone() for weight in weights]
    x, y = torch.randn(2, 5, 4, generator=draws).double()

    def loss(data: Tensor) -> Callable[[], Tensor]:
        return lambda: ((data @ weights[0]).tanh() @ weights[1].T).square().mean()

    found = coupled(loss(x), loss(y), weights, 1e-6)
    cosine = cosine_of(loss(x)(), loss(y)(), weights)
    expected = torch.autograd.grad(cosine, weights)
    assert found.cosine == pytest.approx(cosine.item())
    for mine, exact in zip(found.gradient, expected, strict=True):
        assert torch.allclose(mine, exact, rtol=1e-3, atol=1e-6)
    assert all(torch.equal(now, old) for now, old in zip(weights, before, strict=True))


def test_layers_are_named_and_others_get_no_gradient() -> None:
    network = toys.denoiser().network
    count = {
        layers: len(named(network, layers)) for layers in ("cross-attention", "attention", "all")
    }
    assert 0 < count["cross-attention"] < count["attention"] < count["all"]
    with only(network, "cross-attention") as weights:
        assert sum(weight.requires_grad for weight in network.parameters()) == len(weights)
    assert all(weight.requires_grad for weight in network.parameters())
    with pytest.raises(UsageError, match="Linear has no such layers"):
        named(nn.Linear(2, 2), "attention")


def test_what_is_simulated_is_checked() -> None:
    known = attacks(build_plugin_manager())
    with pytest.raises(UsageError, match="leraning_rate"):
        Erase().check(resolve(Erase.Config, {"teacher": {"leraning_rate": 1.0}}), known)
    with pytest.raises(UsageError, match="lroa"):
        Sophon().check(resolve(Sophon.Config, {"attack": "lroa"}), known)
    with pytest.raises(UsageError, match="takes no gradient in inner_steps = 2"):
        resolve(Sophon.Config, {"inner_steps": 2, "protect_every": 3})
    kinds = [
        teacher(resolve(Erase.Config, Erase().preset("pocket")), known),
        simulated(resolve(Sophon.Config, Sophon().preset("pocket")), known),
    ]
    assert [kind.config.learning_rate for kind in kinds] == [1e-4, 1e-4]
    assert math.isclose(kinds[0].config.prior_weight, 0.3)


class TestErase(_OnTinyModel):
    protection = Erase()
    settings: ClassVar = {"steps": 3, "taught": 2, "batch_size": 1, "teacher": {"batch_size": 1}}


class TestImma(_OnTinyModel):
    protection = Imma()
    settings: ClassVar = {"steps": 3, "batch_size": 1}


class TestSophon(_OnTinyModel):
    protection = Sophon()
    settings: ClassVar = {
        "steps": 3, "inner_steps": 2, "protect_every": 1, "batch_size": 1,
        "path": {"batch_size": 1, "learning_rate": 1e-3},
    }  # fmt: skip


class TestSelfDestruct(_OnTinyModel):
    protection = SelfDestruct()
    settings: ClassVar = {"steps": 3, "batch_size": 1}
