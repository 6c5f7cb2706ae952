"""Pictures are drawn once, and again when anything about them changed or is damaged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from safetensors.torch import save_file

import apdm_cli.diffusion.picture_cache as room
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.picture_cache import Order, class_pictures, gallery, generated_latents
from apdm_cli.diffusion.pictures import png_bytes, read_png
from apdm_cli.diffusion.sampling import SamplerSettings
from apdm_cli.errors import ApdmError
from apdm_cli.extension.family import load_model
from tests.tiny import make_tiny_pipeline

SAMPLER = SamplerSettings(sampler="ddim", steps=2, guidance=3.0, batch_size=4)
ORDER = Order({"model": "a"}, ("a photo of person", "a photo of dog") * 3, tuple(range(6)), SAMPLER)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> DiffusionModel:
    return load_model(str(make_tiny_pipeline(tmp_path_factory.mktemp("m"))), torch.device("cpu"))


def never() -> NoReturn:
    raise AssertionError("the model was asked for")


def test_finished_pictures_are_read_and_the_model_is_not_loaded(
    model: DiffusionModel, tmp_path: Path
) -> None:
    seen: list[int] = []
    first = gallery(ORDER, tmp_path / "g", lambda: model, seen.append)
    assert first.shape == (6, 32, 32, 3)
    assert sum(seen) == 6
    assert torch.equal(gallery(ORDER, tmp_path / "g", never), first)
    names = sorted(file.name for file in (tmp_path / "g").glob("*.png"))
    assert names == [f"{i:04d}.png" for i in range(6)]


def test_an_interrupted_set_goes_on_with_the_missing_pictures(
    model: DiffusionModel, tmp_path: Path
) -> None:
    whole = gallery(ORDER, tmp_path / "g", lambda: model)
    kept = (tmp_path / "g" / "0000.png").stat().st_mtime_ns
    for index in (1, 4, 5):
        (tmp_path / "g" / f"{index:04d}.png").unlink()
    (tmp_path / "g" / ".tmp-deadbeef").write_bytes(b"torn")
    assert torch.equal(gallery(ORDER, tmp_path / "g", lambda: model), whole)
    assert (tmp_path / "g" / "0000.png").stat().st_mtime_ns == kept
    assert not (tmp_path / "g" / ".tmp-deadbeef").exists()


def test_batch_size_changes_no_picture(model: DiffusionModel, tmp_path: Path) -> None:
    alone = replace(ORDER, sampler=SAMPLER.model_copy(update={"batch_size": 1}))
    assert alone.key == ORDER.key
    a, b = (
        gallery(order, tmp_path / str(i), lambda: model) for i, order in enumerate((ORDER, alone))
    )
    assert (a.int() - b.int()).abs().max() <= 1


@pytest.mark.parametrize(
    "changed",
    [
        replace(ORDER, origin={"model": "b"}),
        replace(ORDER, seeds=tuple(range(1, 7))),
        replace(ORDER, prompts=("a photo of cat",) * 6),
        replace(ORDER, sampler=SAMPLER.model_copy(update={"guidance": 1.0})),
    ],
)
def test_another_order_in_the_same_folder_is_drawn_anew(
    changed: Order, model: DiffusionModel, tmp_path: Path
) -> None:
    gallery(ORDER, tmp_path / "g", lambda: model)
    with pytest.raises(AssertionError, match="was asked for"):
        gallery(changed, tmp_path / "g", never)
    assert changed.key != ORDER.key


def test_fewer_pictures_leave_no_others_behind(model: DiffusionModel, tmp_path: Path) -> None:
    gallery(ORDER, tmp_path / "g", lambda: model)
    fewer = replace(ORDER, prompts=ORDER.prompts[:2], seeds=ORDER.seeds[:2])
    assert len(gallery(fewer, tmp_path / "g", lambda: model)) == 2
    assert len(list((tmp_path / "g").glob("*.png"))) == 2


PAIRS = SamplerSettings(sampler="ddim", steps=2, guidance=2.0, batch_size=2)
DOG = "a photo of dog"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The seeds of everything that is really drawn."""
    seeds: list[Any] = []
    for name in ("sample", "sample_latents"):
        original = getattr(room, name)

        def counting(
            model: Any, prompts: Any, wanted: Any, *rest: Any, original: Any = original, **more: Any
        ) -> Any:
            seeds.extend(wanted)
            return original(model, prompts, wanted, *rest, **more)

        monkeypatch.setattr(room, name, counting)
    return seeds


def test_a_larger_request_only_adds(
    model: DiffusionModel, tmp_path: Path, drawn: list[Any]
) -> None:
    told: list[int] = []
    three = class_pictures(model, DOG, 3, PAIRS, tmp_path, seed=2)
    five = class_pictures(model, DOG, 5, PAIRS, tmp_path, seed=2, drawn=told.append)
    again = class_pictures(model, DOG, 5, PAIRS, tmp_path, seed=2)
    assert three.shape == (3, 32, 32, 3) and three.dtype == torch.uint8
    assert torch.equal(five[:3], three) and torch.equal(again, five)
    assert drawn == [2_000_000 + i for i in range(5)]
    assert told == [3, 2]
    assert len({picture.numpy().tobytes() for picture in five}) == 5


def test_key_is_model_prompt_seed_and_sampler(
    model: DiffusionModel, tmp_path: Path, drawn: list[Any]
) -> None:
    def ask(**changes: Any) -> int:
        arguments = {"model": model, "prompt": DOG, "seed": 0, "sampler": PAIRS, **changes}
        before = len(drawn)
        class_pictures(
            arguments["model"],
            arguments["prompt"],
            1,
            arguments["sampler"],
            tmp_path,
            arguments["seed"],
        )
        return len(drawn) - before

    assert ask() == 1
    assert ask() == 0
    assert ask(prompt="a photo of cat") == 1
    assert ask(seed=1) == 1
    assert ask(sampler=PAIRS.model_copy(update={"guidance": 3.0})) == 1
    assert ask(model=replace(model, ref=replace(model.ref, digest="0" * 64))) == 1
    # A picture depends on its own seed only, so the batch it was drawn in does not matter.
    assert ask(sampler=PAIRS.model_copy(update={"batch_size": 1})) == 0


@pytest.mark.parametrize(("dtype", "eight_bits"), [(torch.float32, True), (torch.bfloat16, False)])
def test_an_exact_model_draws_its_own_after_one_that_is_held_rounded(
    dtype: torch.dtype, eight_bits: bool, tmp_path: Path
) -> None:
    cpu = torch.device("cpu")
    exact = load_model("pocket", cpu, dtype)
    rounded = load_model("pocket", cpu, dtype, frozen=True, eight_bits=eight_bits)

    def all_of(asked: DiffusionModel, cache: Path) -> list[torch.Tensor]:
        pictures = class_pictures(asked, DOG, 2, PAIRS, cache)
        return [pictures, generated_latents(asked, [DOG] * 2, PAIRS, cache)]

    expected = all_of(exact, tmp_path / "alone")
    others = all_of(rounded, tmp_path / "both")
    found = all_of(exact, tmp_path / "both")
    assert all(map(torch.equal, found, expected)) and not torch.equal(others[1], expected[1])


def test_precision_is_in_every_key_but_those_of_float32(
    model: DiffusionModel, tmp_path: Path
) -> None:
    named = replace(model, ref=replace(model.ref, digest="0" * 64))
    half = replace(named, dtype=torch.bfloat16)
    class_pictures(named, DOG, 1, PAIRS, tmp_path)
    generated_latents(named, [DOG], PAIRS, tmp_path)
    assert (tmp_path / "class-pictures/54a90a35f0205d8553cc/00000.png").is_file()
    for asked in (half, half, replace(named, dtype=torch.float16)):
        class_pictures(asked, DOG, 1, PAIRS, tmp_path)
        generated_latents(asked, [DOG], PAIRS, tmp_path)
    assert len(list(tmp_path.glob("class-pictures/*"))) == 3
    assert len(list(tmp_path.glob("latents/*"))) == 3
    assert ORDER.key == "0ef2760e9034"
    assert replace(ORDER, dtype=torch.bfloat16).key != ORDER.key


@pytest.mark.parametrize("damage", [b"", b"\x89PNG\r\n\x1a\n cut off"])
def test_a_damaged_picture_is_drawn_again(
    model: DiffusionModel, tmp_path: Path, drawn: list[Any], damage: bytes
) -> None:
    first = class_pictures(model, DOG, 2, PAIRS, tmp_path)
    next(tmp_path.rglob("00001.png")).write_bytes(damage)
    assert torch.equal(class_pictures(model, DOG, 2, PAIRS, tmp_path), first)
    assert drawn == [0, 1, 1]
    assert not list(tmp_path.rglob(".tmp-*"))


def test_latents_are_kept_and_not_decoded(
    model: DiffusionModel, tmp_path: Path, drawn: list[Any]
) -> None:
    prompts = ["a photo of dog", "a photo of cat", "a photo of dog"]
    told: list[int] = []
    first = generated_latents(model, prompts, PAIRS, tmp_path, seed=1, drawn=told.append)
    assert first.shape == (3, 4, 8, 8) and first.dtype == torch.float32
    assert drawn == [1_000_000, 1_000_001, 1_000_002] and told == [2, 1]
    assert torch.equal(generated_latents(model, prompts, PAIRS, tmp_path, seed=1), first)
    assert len(drawn) == 3
    next(tmp_path.rglob("*.safetensors")).write_bytes(b"cut off")
    assert torch.equal(generated_latents(model, prompts, PAIRS, tmp_path, seed=1), first)
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.parametrize("change", ["nan", "inf", "shape", "dtype", "name", "more"])
def test_cached_latents_that_nobody_writes_are_drawn_again(
    model: DiffusionModel, tmp_path: Path, drawn: list[Any], change: str
) -> None:
    first = generated_latents(model, [DOG] * 2, PAIRS, tmp_path)
    (file,) = tmp_path.rglob("*.safetensors")
    changed = {
        "nan": {"latents": first.index_fill(0, torch.tensor([1]), torch.nan)},
        "inf": {"latents": first * torch.inf},
        "shape": {"latents": first[:, :, :4].contiguous()},
        "dtype": {"latents": first.half()},
        "name": {"other": first},
        "more": {"latents": torch.cat([first, first])},
    }[change]
    save_file(changed, file)
    assert torch.equal(generated_latents(model, [DOG] * 2, PAIRS, tmp_path), first)
    assert len(drawn) == 4
    assert torch.equal(generated_latents(model, [DOG] * 2, PAIRS, tmp_path), first)
    assert len(drawn) == 4


def test_class_pictures_of_one_colour_are_refused_also_from_the_cache(
    model: DiffusionModel, tmp_path: Path
) -> None:
    """An earlier version kept what a broken autoencoder drew."""
    class_pictures(model, DOG, 2, PAIRS, tmp_path)
    grey = torch.full((32, 32, 3), 128, dtype=torch.uint8)
    next(tmp_path.rglob("00001.png")).write_bytes(png_bytes(grey))
    with pytest.raises(ApdmError, match="single colour"):
        class_pictures(model, DOG, 2, PAIRS, tmp_path)


def test_a_folder_that_cannot_be_made_is_named(model: DiffusionModel, tmp_path: Path) -> None:
    (tmp_path / "class-pictures").write_text("in the way")
    with pytest.raises(ApdmError, match="class-pictures"):
        class_pictures(model, DOG, 1, PAIRS, tmp_path)


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("damage", [b"", b"\x89PNG\r\n\x1a\n cut off", b"no picture"])
def test_a_damaged_picture_of_a_gallery_is_drawn_again(
    model: DiffusionModel, tmp_path: Path, drawn: list[Any], damage: bytes, keyed: bool
) -> None:
    order = replace(ORDER, sampler=SAMPLER.model_copy(update={"batch_size": 1}))
    first = gallery(order, tmp_path / "g", lambda: model, keyed=keyed)
    (tmp_path / "g" / "0003.png").write_bytes(damage)
    told: list[int] = []
    again = gallery(order, tmp_path / "g", lambda: model, told.append, keyed=keyed)
    assert torch.equal(again, first)
    assert drawn == [0, 1, 2, 3, 4, 5, 3] and told == [5, 1]
    assert torch.equal(gallery(order, tmp_path / "g", never, keyed=keyed), first)


def test_a_picture_that_is_cut_anywhere_is_whole_or_not_read(
    model: DiffusionModel, tmp_path: Path
) -> None:
    whole = gallery(ORDER, tmp_path / "g", lambda: model)[0]
    content = (tmp_path / "g" / "0000.png").read_bytes()
    file = tmp_path / "cut.png"
    for length in range(0, len(content), 7):
        file.write_bytes(content[:length])
        found = read_png(file)
        assert found is None or torch.equal(found, whole), length


@pytest.mark.parametrize("damage", [b"", b'{"origin": {"mod', b"[]", b"{}"])
def test_pictures_whose_description_is_damaged_are_drawn_again(
    model: DiffusionModel, tmp_path: Path, drawn: list[Any], damage: bytes
) -> None:
    """In a folder that may hold another order's pictures nothing else tells what they are."""
    first = gallery(ORDER, tmp_path / "g", lambda: model)
    (tmp_path / "g" / "about.json").write_bytes(damage)
    assert torch.equal(gallery(ORDER, tmp_path / "g", lambda: model), first)
    assert len(drawn) == 12
    assert torch.equal(gallery(ORDER, tmp_path / "g", never), first)


@pytest.mark.parametrize("damage", [b"", b'{"model": "9', b"[]"])
def test_a_folder_whose_name_is_its_key_keeps_its_pictures(
    model: DiffusionModel, tmp_path: Path, drawn: list[Any], damage: bytes
) -> None:
    """Other processes may be filling it: what they write is theirs to move into place."""
    first = class_pictures(model, DOG, 2, PAIRS, tmp_path)
    (about,) = tmp_path.rglob("about.json")
    description = about.read_bytes()
    about.write_bytes(damage)
    (about.parent / ".tmp-deadbeef").write_bytes(b"another process is writing")
    assert torch.equal(class_pictures(model, DOG, 2, PAIRS, tmp_path), first)
    assert drawn == [0, 1] and about.read_bytes() == description
    assert (about.parent / ".tmp-deadbeef").exists()
