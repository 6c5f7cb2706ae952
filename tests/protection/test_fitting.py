"""What a card would need, and which settings are named when it has less."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from apdm_cli.config import resolve
from apdm_cli.diffusion.eight_bits import bytes_in_eight_bits
from apdm_cli.extension.family import load_model
from apdm_cli.extension.manager import attacks, build_plugin_manager
from apdm_cli.extension.protection import Inputs, Protection
from apdm_cli.extension.protection_config import low_rank
from apdm_cli.protection import fitting
from apdm_cli.protection.bench import Bench
from apdm_cli.protection.fitting import ADAPTER, GIB, INT8, LOW, UNRECORDED
from apdm_cli.protection.ingredients import stand_ins
from apdm_cli.randomness import Streams
from apdm_cli.subject import Subject
from apdm_cli.testing import synthetic_photos
from apdm_protections.anti_dreambooth import AntiDreamBooth
from apdm_protections.apdm import APDM
from apdm_protections.imma import Imma
from apdm_protections.self_destruct import SelfDestruct
from tests.protection import toys
from tests.protection.commands import pipeline

CPU, HALF = torch.device("cpu"), torch.bfloat16
RECORDED = 700  # bytes, of a recording
ACTIVATIONS = {True: 1000, False: 300}  # bytes, of one forward for all and of one after the other


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pipeline(tmp_path_factory.mktemp("fitting") / "model")


@pytest.fixture(autouse=True)
def _activations(monkeypatch: pytest.MonkeyPatch) -> None:
    def known(*_: Any, one_forward: bool) -> int:
        return ACTIVATIONS[one_forward]

    monkeypatch.setattr(fitting, "activation_bytes", known)
    monkeypatch.setattr(fitting, "recorded_bytes", lambda *_: RECORDED)
    monkeypatch.setattr(fitting, "bytes_on_device", lambda weights: 200)


def bench(folder: Path, *, low_memory: bool = False, **settings: Any) -> Bench:
    config = toys.settings(**settings)
    adapter = low_rank(config)
    eight_bits = adapter is not None and adapter.base == "int8"
    model = load_model(
        str(folder), CPU, torch.float32, frozen=adapter is not None, eight_bits=eight_bits
    )
    subject, inputs = Subject("dog", "dog", "sks", synthetic_photos(model.resolution)), Inputs(3)
    ingredients, known = stand_ins(model, subject, inputs), attacks(build_plugin_manager())
    return Bench(
        model, subject, inputs, ingredients, Streams(0), known, low_memory, adapter=adapter
    )


def needs(made: Bench, dtype: torch.dtype = HALF, **settings: Any) -> dict[Any, float]:
    """In copies of the network in float32, beside the frozen parts and one loss's activations."""
    found = fitting.needs(made, APDM(), toys.settings(**settings), dtype)
    weights = 4 * sum(weight.numel() for weight in made.model.trained.parameters())
    others = [made.model.components[name] for name in ("vae", "text_encoder")]
    beside = dtype.itemsize * sum(w.numel() for part in others for w in part.parameters())
    alone = {
        added: need - beside - ACTIVATIONS[LOW not in added and not made.low_memory]
        for added, need in found.items()
    }
    return {added: need / weights for added, need in alone.items()}


def test_low_memory_has_three_copies_and_half_of_phi_on_the_card(folder: Path) -> None:
    """θ′, g and one of θ and the gradient of θ′; normally moments and φ are there as well."""
    found = needs(bench(folder))
    assert list(found) == [(), (UNRECORDED,), (LOW,), (ADAPTER,), (LOW, ADAPTER)]
    assert found[(UNRECORDED,)] == pytest.approx(9, rel=1e-4)
    assert found[(LOW,)] == pytest.approx(3.5, rel=1e-4)
    single = needs(bench(folder), torch.float32)
    assert list(single) == [(), (LOW,), (ADAPTER,), (LOW, ADAPTER)]
    assert [single[()], single[(LOW,)]] == pytest.approx([9, 4])


def test_recordings_keep_activations_gradients_and_copies_in_half(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """θ′ is recorded for its own loss and the protective one, of more samples; φ is copied too."""
    monkeypatch.setattr(fitting, "recorded_bytes", lambda *given: 800 if given[3] == 3 else 400)
    made = bench(folder)
    found = fitting.needs(made, APDM(), toys.settings(), HALF)
    weights = 4 * sum(weight.numel() for weight in made.model.trained.parameters())
    assert found[()] - found[(UNRECORDED,)] == 2 * weights + 800 + 400 - ACTIVATIONS[True]
    crew = {"kind": "persistent", "count": 2}
    both = fitting.needs(bench(folder), APDM(), toys.settings(attackers=crew), HALF)
    assert both[()] - both[(UNRECORDED,)] == 3.5 * weights + 2 * (800 + 400) - ACTIVATIONS[True]
    monkeypatch.setenv(UNRECORDED.partition("=")[0], "0")
    assert fitting.needs(bench(folder), APDM(), toys.settings(), HALF)[()] == found[(UNRECORDED,)]


def test_nothing_is_foreseen_for_recordings_of_a_family_that_has_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bench(folder)
    monkeypatch.setattr(type(made.model.family), "recordable", False)
    found = needs(made)
    assert (UNRECORDED,) not in found and found[()] == pytest.approx(9, rel=1e-4)


@pytest.mark.parametrize("method", [SelfDestruct(), AntiDreamBooth()])
def test_nothing_is_foreseen_for_recordings_of_a_method_that_has_none(
    method: Protection, folder: Path
) -> None:
    config = resolve(method.Config, method.preset(method.presets[0]))
    assert (UNRECORDED,) not in fitting.needs(bench(folder), method, config, HALF)


def test_the_activations_of_a_method_that_computes_in_float32_are_in_float32(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[torch.dtype, int]] = []

    def activations(denoiser: Any, condition: Any, shape: Any, samples: int, **_: Any) -> int:
        asked.append((denoiser.dtype, samples))
        return 1000

    monkeypatch.setattr(fitting, "activation_bytes", activations)
    fitting.needs(bench(folder), SelfDestruct(), SelfDestruct.Config(batch_size=3), HALF)
    assert set(asked) == {(torch.float32, 3)}
    asked.clear()
    fitting.needs(bench(folder), Imma(), Imma.Config(), HALF)
    assert {dtype for dtype, _ in asked} == {HALF}


def test_an_adapter_is_imagined_as_it_is_then_made(folder: Path) -> None:
    imagined = needs(bench(folder), torch.float32)
    made = needs(bench(folder, train="adapter"), torch.float32, train="adapter")
    assert list(made) == [(), (LOW,)]
    assert made[()] == pytest.approx(imagined[(ADAPTER,)])
    assert made[(LOW,)] == pytest.approx(imagined[(LOW, ADAPTER)])
    half = needs(bench(folder))
    assert imagined[(ADAPTER,)] - half[(ADAPTER,)] == pytest.approx(0.5, rel=1e-4)


def test_a_base_in_eight_bits_is_imagined_as_it_is_then_made(folder: Path) -> None:
    lora: Any = {"path": {"attack": "lora"}}
    eight: Any = {**lora, "train": "adapter", "adapter": {"base": "int8"}}
    full, made = bench(folder, **lora), bench(folder, **eight)
    _, spare = bytes_in_eight_bits(full.model.trained, HALF)
    imagined = fitting.needs(full, APDM(), toys.settings(**lora), HALF)
    assert list(imagined)[-2:] == [(ADAPTER, INT8), (LOW, ADAPTER, INT8)]
    found = fitting.needs(made, APDM(), toys.settings(**eight), HALF)
    assert list(found) == [(), (LOW,)], "what is on already is not proposed"
    for now, then in (((), (ADAPTER, INT8)), ((LOW,), (LOW, ADAPTER, INT8))):
        assert found[now] == pytest.approx(imagined[then] - spare, rel=1e-3)
    # Half a copy in bf16, a quarter in 8 bits, and scales: 4 bytes for tens of weights here.
    saved = imagined[(ADAPTER,)] - (imagined[(ADAPTER, INT8)] - spare)
    network = 4 * sum(weight.numel() for weight in full.model.trained.parameters())
    assert 0.15 < saved / network < 0.25


def test_moments_on_their_way_count_where_they_need_more_than_activations(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = needs(bench(folder))
    monkeypatch.setattr(fitting, "bytes_on_device", lambda weights: 300 + 4 * weights[0].numel())
    made = bench(folder)
    whole = sum(weight.numel() for weight in made.model.trained.parameters())
    many = needs(made)
    assert many[(LOW,)] - few[(LOW,)] == pytest.approx(made.weights[0].numel() / whole)
    assert many[(UNRECORDED,)] == few[(UNRECORDED,)]


def test_what_is_on_already_is_not_proposed(folder: Path) -> None:
    assert list(needs(bench(folder, low_memory=True))) == [(), (ADAPTER,)]
    imma = Imma()
    config = resolve(imma.Config, imma.preset("default"))
    assert list(fitting.needs(bench(folder), imma, config, HALF)) == [(), (UNRECORDED,), (LOW,)]


SIZES = {(): 30 * GIB, (UNRECORDED,): 25 * GIB, (LOW,): 13 * GIB, (LOW, ADAPTER): 9 * GIB}


@pytest.mark.parametrize(
    ("total", "free", "says"),
    [
        (80, 79, "about 30.0 GiB; this card has 80.0 GiB, 79.0 of them free: it fits."),
        (24, 23, "use --memory low (about 13.0 GiB)."),
        (24, 31, "use APDM_CUDA_GRAPHS=0 in the environment (about 25.0 GiB)."),
        (24, 26, "use --memory low"),  # what is in use is not all that the allocator holds
        (12, 11, "use --memory low --set train=adapter (about 9.0 GiB)."),
        (8, 7, "does not fit with any setting, the least of which needs about 9.0 GiB."),
    ],
)
def test_a_card_is_told_what_fits_it(total: int, free: int, says: str) -> None:
    sentence = fitting.on_this_card(SIZES, total * GIB, free * GIB)
    assert sentence.startswith("On the card: about 30.0 GiB; ") and says in sentence


def test_without_a_card_it_is_said_which_one_it_takes() -> None:
    needed = {**SIZES, (ADAPTER,): 300 * GIB}
    assert list(fitting.on_some_card(needed, HALF)) == [
        "On a CUDA card, in bfloat16: about 30.0 GiB (a card of 40 GB)",
        "With APDM_CUDA_GRAPHS=0 in the environment: about 25.0 GiB (a card of 32 GB)",
        "With --memory low: about 13.0 GiB (a card of 16 GB)",
        "With --memory low --set train=adapter: about 9.0 GiB (a card of 12 GB)",
        "With --set train=adapter: about 300.0 GiB (larger than any card)",
    ]


@pytest.mark.parametrize(
    ("device", "dtype", "low", "settings", "expected"),
    [
        ("cuda", HALF, False, {}, [LOW, ADAPTER]),
        ("cuda", torch.float32, True, {}, ["--dtype bf16", ADAPTER]),
        ("cpu", torch.float32, True, {"train": "adapter"}, []),
        ("cpu", torch.float32, True, {"train": "adapter", "path": {"attack": "lora"}}, [INT8]),
        (
            "cpu",
            torch.float32,
            True,
            {"train": "adapter", "path": {"attack": "lora"}, "adapter": {"base": "int8"}},
            [],
        ),
        (
            "cuda",
            HALF,
            True,
            {"batch_size": 4, "path": {"batch_size": 3}},
            ["--set batch_size=2", "--set path.batch_size=1", ADAPTER],
        ),
    ],
)
def test_the_next_setting_to_try_depends_on_what_is_on(
    device: str, dtype: torch.dtype, low: bool, settings: dict[str, Any], expected: list[str]
) -> None:
    config = toys.settings(**settings)
    request: Any = SimpleNamespace(
        device=torch.device(device),
        dtype=dtype,
        low_memory=low,
        settings=config,
        protection=APDM(),
        attacks=attacks(build_plugin_manager()),
    )
    assert fitting.smaller_settings(request) == expected
