"""The embedded tokenizer, for trainers that open it with CLIPTokenizer or AutoTokenizer."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, CLIPTextModel, CLIPTokenizer

from apdm_cli.errors import ApdmError
from apdm_cli.extension.family import load_model
from apdm_cli.harness.arms import Arms
from apdm_cli.pocket.profile import EARLIER, WEIGHTS, pocket_folder, profile_of, same_model
from apdm_cli.pocket.samples import sample
from apdm_cli.runs.run import Run
from pocket_training import captions, tokenizer
from pocket_training.pictures import groups
from pocket_training.plan import Plan
from pocket_training.streams import stream
from tests.tiny import make_tiny_run

FOLDER = WEIGHTS / "pipeline" / "tokenizer"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan.from_json(json.loads((WEIGHTS / "training.json").read_text())["plan"])


def ids(read: Any, caption: str) -> list[int]:
    return list(read(caption, padding="max_length", truncation=True).input_ids)


def test_both_read_every_caption_as_the_training_did(plan: Plan) -> None:
    blocks = groups(plan)
    names = tuple(blocks["named"].names)
    clip, auto = CLIPTokenizer.from_pretrained(FOLDER), AutoTokenizer.from_pretrained(FOLDER)
    assert len(clip) == len(auto) == len(tokenizer.words(list(names))) == 654
    drawn = [example.caption for example in captions.draw(blocks, 500, stream(0, "test"))]
    spoken = [f"a photo of {word} person" for word in tokenizer.words(list(names))[4:]]
    for caption in ("", "A Photo of SKS person,  nice.", *drawn, *spoken):
        expected = tokenizer.encode(caption.replace(",", " , ").replace(".", " . "), names)
        assert ids(clip, caption) == ids(auto, caption) == expected, caption


def test_unknown_words_stay_unknown_and_known_parts_of_them_too() -> None:
    clip, auto = CLIPTokenizer.from_pretrained(FOLDER), AutoTokenizer.from_pretrained(FOLDER)
    for word in ("smilingly", "sks2", "t@ta", "a_photo_of_sks"):
        assert auto(word, add_special_tokens=False).input_ids == [tokenizer.UNK]
        assert clip(word, add_special_tokens=False).input_ids == [tokenizer.UNK] * len(word)


def test_a_new_word_is_learned_as_the_scripts_do_it() -> None:
    """Textual Inversion's beginning in diffusers' example: one token, one initializer."""
    read = CLIPTokenizer.from_pretrained(FOLDER)
    assert read.add_tokens(["<her>"]) == 1
    (start,) = read.encode("person", add_special_tokens=False)
    new = read.convert_tokens_to_ids("<her>")
    encoder = CLIPTextModel.from_pretrained(pocket_folder() / "text_encoder")
    encoder.resize_token_embeddings(len(read))
    table = encoder.get_input_embeddings().weight.data
    assert new == 654 and len(table) == 655
    table[new] = table[start]
    said = [torch.tensor([ids(read, f"a photo of {word}")]) for word in ("<her>", "person")]
    assert not torch.equal(*said)
    with torch.no_grad():
        assert torch.allclose(encoder(said[0])[0], encoder(said[1])[0])


def test_the_files_are_those_that_the_training_writes(plan: Plan, tmp_path: Path) -> None:
    tokenizer.save(list(groups(plan)["named"].names), tmp_path)
    for file in tmp_path.iterdir():
        assert file.read_bytes() == (FOLDER / file.name).read_bytes()
    for name, digest in json.loads((WEIGHTS / "training.json").read_text())["digests"].items():
        assert hashlib.sha256((WEIGHTS / name).read_bytes()).hexdigest() == digest, name


def test_runs_made_with_the_older_file_go_on(tmp_path: Path) -> None:
    run = make_tiny_run(tmp_path, pocket_folder(), sample("person-2").seen)

    def arms(digest: str) -> Arms:
        manifest = json.loads((run.path / "manifest.json").read_text())
        manifest["model"] = {"source": "pocket", "revision": None, "digest": digest}
        (run.path / "manifest.json").write_text(json.dumps(manifest))
        return Arms(Run.open(tmp_path, run.name), CPU, torch.float32)

    old = arms(EARLIER)
    assert old.load("original").ref.digest == old.ref("original").digest == EARLIER
    assert profile_of("elsewhere", EARLIER) == old.profile() == "pocket"
    with pytest.raises(ApdmError, match="is not the model"):
        arms("0" * 64).load("original")
    now = load_model("pocket", CPU).ref.digest
    assert now != EARLIER and same_model(now, now) and same_model(now, EARLIER)
    assert not same_model("0" * 64, EARLIER) and not same_model(now, "0" * 64)
