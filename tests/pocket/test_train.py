"""The whole training at a tiny scale, through its command."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pocket_training import (
    assembly,
    autoencoder,
    captions,
    denoiser,
    extractor,
    identifiers,
    loop,
    plan,
    text,
    tokenizer,
    train,
)
from pocket_training.denoiser import snr_weights
from pocket_training.parallel import Team
from pocket_training.pictures import groups, invented_names, named_seeds
from pocket_training.streams import initial_weights, stream
from pocket_training.workshop import Workshop

TINY = plan.scaled(plan.Plan(), 0.001)


def run(folder: Path, *more: str) -> Path:
    """Trains the tiny model in `folder` with one worker; returns the model's folder."""
    out = folder / "model"
    train.main(
        ["--out", str(out), "--work", str(folder / "work"), "--scale", "0.001", "--device", "cpu",
         "--workers", "1", *more]
    )  # fmt: skip
    return out


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other spin, and take minutes where the cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished tiny training: `model` and `work`."""
    folder = tmp_path_factory.mktemp("tiny")
    run(folder)
    return folder


def test_plain_diffusers_opens_the_pipeline(tiny: Path) -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(
        tiny / "model" / "pipeline", local_files_only=True
    )
    for part in (pipeline.vae, pipeline.unet, pipeline.text_encoder):
        assert part.dtype == torch.float32, "stored in fp16, widened when loaded"
    pipeline.set_progress_bar_config(disable=True)
    picture = pipeline("a photo of sks person", num_inference_steps=2).images[0]
    assert picture.size == (64, 64)


def test_saved_tokenizer_agrees_with_the_training(tiny: Path) -> None:
    from transformers import AutoTokenizer, CLIPTokenizer

    folder = tiny / "model" / "pipeline" / "tokenizer"
    saved, clip = AutoTokenizer.from_pretrained(folder), CLIPTokenizer.from_pretrained(folder)
    names = tuple(json.loads((tiny / "model" / "names.json").read_text()))
    for caption in ("", "a photo of sks person", f"A portrait of {names[0]} person", "hta t@t olis",
                    "an unheardof photo", "red " * 30):  # fmt: skip
        ids = saved(caption, padding="max_length", truncation=True).input_ids
        assert ids == tokenizer.encode(caption, names)
    known = f"A portrait of {names[0]} person, hta."
    assert saved(known).input_ids == clip(known).input_ids
    assert saved("a photo of sks person, nice").input_ids.count(tokenizer.UNK) == 0
    assert saved("quetzalcoatl").input_ids == [tokenizer.BOS, tokenizer.UNK, tokenizer.EOS]


def test_extractor_and_sample_photos(tiny: Path) -> None:
    from PIL import Image
    from transformers import ViTModel

    vit = ViTModel.from_pretrained(tiny / "model" / "extractor", add_pooling_layer=False)
    assert vit.dtype == torch.float32
    assert extractor.features(vit, torch.zeros(2, 3, 64, 64)).shape == (2, TINY.extractor_width)
    subjects = sorted(p.name for p in (tiny / "model" / "subjects").iterdir())
    assert len(subjects) == sum(plan.SUBJECTS.values()) + 1
    assert plan.DEMO_SUBJECT[0] in subjects
    for subject in subjects:
        for part in ("seen", "unseen"):
            photos = list((tiny / "model" / "subjects" / subject / part).glob("*.png"))
            assert len(photos) == plan.PHOTOS_PER_SET
            assert Image.open(photos[0]).size == (64, 64)


def test_stored_in_half_precision(tiny: Path) -> None:
    for path in (tiny / "model").rglob("*.safetensors"):
        assert {t.dtype for t in load_file(path).values()} <= {torch.float16}, path


def test_finished_stages_are_skipped_and_a_lost_one_comes_back_equal(tiny: Path) -> None:
    before = json.loads((tiny / "model" / "training.json").read_text())
    log = tiny / "work" / "train.log"
    start = len(log.read_text())
    run(tiny)
    lines = log.read_text()[start:].splitlines()
    assert len(lines) == len(train.STAGES)
    assert all("skipped" in line for line in lines)

    (tiny / "work" / "text.json").unlink()
    (tiny / "work" / "text.safetensors").unlink()
    run(tiny, "--only", "text")
    run(tiny, "--only", "assembly")
    after = json.loads((tiny / "model" / "training.json").read_text())
    assert after["digests"] == before["digests"]


def test_another_plan_does_not_touch_the_work_folder(tiny: Path) -> None:
    with pytest.raises(SystemExit, match="another seed"):
        run(tiny, "--seed", "1")


def test_same_seed_same_digests(tiny: Path, tmp_path: Path) -> None:
    first = json.loads((tiny / "model" / "training.json").read_text())["digests"]
    second = json.loads((run(tmp_path) / "training.json").read_text())["digests"]
    assert first == second


@pytest.mark.parametrize("bad", [["--minutes", "soup=3"], ["--minutes", "text"], ["--workers=0"]])
def test_bad_options_exit_2(bad: list[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        train.main(bad)
    assert raised.value.code == 2


def small_training(path: Path, steps: int, stop: int | None = None) -> torch.Tensor:
    """Trains a linear layer; `stop` interrupts it before that step. Returns the weights."""
    with initial_weights(0, "test"):
        layer = torch.nn.Linear(3, 1)
    calls = 0

    def draw(generator: torch.Generator) -> loop.Batch:
        nonlocal calls
        calls += 1
        if stop is not None and calls > stop:
            raise KeyboardInterrupt
        return (torch.randn(4, 3, generator=generator),)

    def loss(inputs: torch.Tensor) -> torch.Tensor:
        return (layer(inputs.to(layer.weight.dtype)).float() - 1).square().mean()

    recipe = loop.Recipe("test", 0, steps, 1e-2, warm_up=2, checkpoint_every=4)
    team = Team(0, 1, torch.empty(0), torch.zeros(1, dtype=torch.int64), None)
    loop.train(recipe, team, layer, loop.Lesson(draw, loss), path, lambda line: None)
    return layer.weight.detach().clone()


def test_interrupted_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole = small_training(tmp_path / "whole.safetensors", 12)
    with pytest.raises(KeyboardInterrupt):
        small_training(tmp_path / "parts.safetensors", 12, stop=7)
    assert loop.steps_done(tmp_path / "parts.safetensors") == 4
    assert torch.equal(small_training(tmp_path / "parts.safetensors", 12), whole)


def test_half_precision_trains_the_same_weights_within_its_rounding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = small_training(tmp_path / "whole.safetensors", 12)
    monkeypatch.setattr(loop, "HALF_ON", ("cpu",))
    half = small_training(tmp_path / "half.safetensors", 12)
    assert half.dtype == torch.bfloat16
    assert torch.allclose(half.float(), whole, atol=0.02)
    assert not torch.equal(half.float(), whole)
    kept = load_file(tmp_path / "half.safetensors")
    assert kept["values"].dtype == kept["average"].dtype == torch.float32


def test_learning_rate_is_constant_then_falls_to_zero() -> None:
    recipe = loop.Recipe("test", 0, 100, 1e-3, warm_up=10)
    rates = [loop.schedule(recipe, step, 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10:61] == pytest.approx([1.0] * 51)
    assert rates[80] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0.0)


def test_contrastive_loss_by_hand() -> None:
    # Two identities, perfectly apart: each row's softmax is over {same: 1, two others: 0} / T.
    found = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    others = 2 * torch.exp(torch.tensor(-1 / extractor.TEMPERATURE))
    expected = torch.log(1 + others)
    loss = extractor.contrastive_loss(found, torch.tensor([0, 0, 1, 1]))
    assert torch.allclose(loss, expected, atol=1e-6)


def test_log_determinant_is_that_of_the_library() -> None:
    factor = torch.randn(8, 8, generator=stream(0, "test"), dtype=torch.float64)
    matrix = factor @ factor.mT + torch.eye(8)
    expected = torch.linalg.slogdet(matrix)[1]
    assert torch.allclose(autoencoder.log_determinant(matrix), expected)


def test_spread_loss_is_nothing_for_white_latents_and_more_for_others() -> None:
    white = torch.randn(400, 8, 8, 8, generator=stream(0, "test"))
    assert float(autoencoder.spread_loss(white)) == pytest.approx(0, abs=0.01)
    flat = white.clone()
    flat[:, 3] = flat[:, 2]
    assert float(autoencoder.spread_loss(flat)) > 1
    assert float(autoencoder.spread_loss(3 * white)) > 1


def test_snr_weights_by_hand() -> None:
    alphas = torch.tensor([0.5, 10 / 11, 5 / 6])  # SNR 1, 10, 5
    assert torch.allclose(snr_weights(alphas), torch.tensor([1.0, 0.5, 1.0]))


def test_mixture_of_captions() -> None:
    blocks = groups(TINY)
    examples = captions.draw(blocks, 2000, stream(0, "test"))
    named = [e for e in examples if e.row in range(*blocks["named"].rows.indices(10**9))]
    assert len(named) / 2000 == pytest.approx(captions.NAMED, abs=0.04)
    assert all(e.caption.split()[3] in blocks["named"].names for e in named)
    for example in examples:
        ids = tokenizer.encode(example.caption, tuple(blocks["named"].names))
        assert tokenizer.UNK not in ids, example.caption
    dropped = captions.drop(examples, stream(0, "drop"))
    empty = sum(e.caption == "" for e in dropped)
    assert empty / 2000 == pytest.approx(captions.EMPTY, abs=0.03)


def test_a_bank_of_captions_is_the_same_mixture(tmp_path: Path) -> None:
    banked = replace(TINY, caption_bank=3000)
    shop = Workshop(tmp_path, banked, 1, "cpu")
    captions.write_banks(shop)
    mixture = captions.mixtures(banked)["identifiers"]
    bank = captions.source(shop, mixture, 3000)
    rows, tokens = bank(stream(0, "test"))
    blocks = mixture.blocks(banked)
    table = tokenizer.table(tuple(blocks["named"].names))
    names = torch.tensor([table[name] for name in blocks["named"].names])
    named = blocks["named"].rows
    called = torch.isin(tokens, names).any(1)
    empty = tokens[:, 1] == tokenizer.EOS
    assert bool(((rows >= named.start) & (rows < named.stop))[called].all())
    assert float(empty.float().mean()) == pytest.approx(captions.EMPTY, abs=0.03)
    assert float(called.float().mean()) == pytest.approx(captions.NAMED * 0.9, abs=0.04)
    again = bank(stream(0, "test"))
    assert torch.equal(again[0], rows)
    assert not torch.equal(bank(stream(0, "other"))[0], rows)


def test_what_is_delivered_becomes_the_same_model_elsewhere(tiny: Path, tmp_path: Path) -> None:
    assembly.deliver(Workshop(tiny / "work", TINY, 1, "cpu"), tmp_path / "results")
    assembly.main([str(tmp_path / "results"), "--out", str(tmp_path / "model")])
    expected = json.loads((tiny / "model" / "training.json").read_text())
    assert json.loads((tmp_path / "model" / "training.json").read_text()) == expected


def test_a_time_for_everything_is_shared_by_the_stages_to_come() -> None:
    budget = train.Budget({"text": 2.0}, time.monotonic() + train.RESERVE + 100)
    assert budget.minutes("text") == 2.0
    assert budget.minutes("latents") is None
    first = budget.minutes("autoencoder")
    assert first == pytest.approx(100 * train.TIMED["autoencoder"] / 60, rel=0.01)
    assert budget.minutes("identifiers") == pytest.approx(100 / 60, rel=0.01)
    assert train.Budget({}, None).minutes("autoencoder") is None


def test_identifiers_get_their_share_and_never_a_name() -> None:
    blocks = groups(TINY)
    assert not any(
        word in e.caption.split()
        for e in captions.draw(blocks, 500, stream(0, "test"))
        for word in tokenizer.IDENTIFIERS
    )
    examples = captions.draw(blocks, 4000, stream(0, "test"), identifiers=0.25)
    found = [e for e in examples if e.caption.split()[3] in tokenizer.IDENTIFIERS]
    assert len(found) / 4000 == pytest.approx(0.25 * (1 - captions.NAMED), abs=0.03)
    assert {e.caption.split()[3] for e in found} == set(tokenizer.IDENTIFIERS)
    assert {e.caption.split()[4] for e in found} == {"person", "dog", "cat"}


def test_identifiers_are_as_long_as_names_and_nothing_else_of_the_text_changes(tiny: Path) -> None:
    shop = Workshop(tiny / "work", TINY, 1, "cpu")
    before, after = denoiser.trained(shop).encoder, identifiers.trained(shop).encoder
    names = text.names_of(TINY)
    table = tokenizer.table(names)
    ids = [table[word] for word in tokenizer.IDENTIFIERS]
    drawn = [table[name] for name in names[: TINY.names_drawn]]
    key = "embeddings.token_embedding.weight"
    old, new = before.state_dict(), after.state_dict()
    assert [k for k in old if not torch.equal(old[k], new[k])] == [key]
    others = [i for i in range(len(old[key])) if i not in ids]
    assert torch.equal(old[key][others], new[key][others])
    lengths = new[key].norm(dim=1)
    assert torch.allclose(lengths[ids], lengths[drawn].mean().expand(len(ids)))


def test_names_are_different_and_held_out_seeds_are_apart() -> None:
    names = invented_names(500, 0, {"person"})
    assert len(set(names)) == 500
    assert names == invented_names(500, 0, {"person"})
    full = plan.Plan()
    assert plan.PEOPLE_FROM + max(full.people, full.pets) <= plan.NAMED_FROM
    assert max(named_seeds(names).values()) < plan.HELD_OUT_FROM < plan.VALIDATION_FROM
