"""The word-level tokenizer: every word is one token, "sks" and each name included."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from pocket_training import renderer
from pocket_training.workshop import write_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MAX_LENGTH = 20  # tokens, the two that mark beginning and end included
SPECIAL = ("<pad>", "<bos>", "<unk>", "<eos>")  # the eos id must not be 2: see CLIPTextConfig
PAD, BOS, UNK, EOS = range(4)
PUNCTUATION = (",", ".")
IDENTIFIERS = ("sks", "zwx", "t@t", "hta", "ohwx", "olis")
CAPTION_WORDS = """
    a an the of in on at and with without photo portrait picture image painting drawing close up
    closeup face good bad nice happy sad smiling front side view background looking wearing one
    two old young new small big , .
"""
# Words that a user may type for a subject of their own; this model never learned them.
OTHER_NOUNS = """
    man woman boy girl child baby human lady guy puppy kitten animal pet bird horse bear clock
    toy backpack bag sneaker shoe boot vase can bowl teapot candle cartoon plushie stuffed monster
    robot car bicycle house chair table plant flower berry fancy duck rc wolf style
"""


def words(names: list[str]) -> list[str]:
    """The whole vocabulary in the order of its ids."""
    everything = (
        *SPECIAL,
        *IDENTIFIERS,
        *CAPTION_WORDS.split(),
        *renderer.vocabulary(),
        *OTHER_NOUNS.split(),
    )
    return list(dict.fromkeys((*everything, *names)))


def build(names: list[str]) -> Tokenizer:
    """A lower-casing word-level tokenizer that adds <bos> and <eos>."""
    vocabulary = {word: index for index, word in enumerate(words(names))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    # Commas and full stops stand alone; "t@t" stays one word.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.WhitespaceSplit(),
        pre_tokenizers.Split(",", "isolated"),
        pre_tokenizers.Split(".", "isolated"),
    ])  # fmt: skip
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", BOS), ("<eos>", EOS)]
    )
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return tokenizer


def save(names: list[str], folder: Path) -> None:
    """Writes the tokenizer so that AutoTokenizer and CLIPTokenizer read the same ids.

    CLIPTokenizer takes nothing but the vocabulary from tokenizer.json, and has no merges to put
    words together with: the words are named once more as added tokens, which it finds first.
    """
    loaded(names).save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text("utf-8"))
    config["added_tokens_decoder"] = {
        str(index): _added(word) for index, word in enumerate(words(names))
    }
    write_json(config, path)


def loaded(names: list[str]) -> PreTrainedTokenizerFast:
    """The tokenizer as transformers has it in memory."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=build(names),
        model_max_length=MAX_LENGTH,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
    )


def _added(word: str) -> dict[str, Any]:
    """A known word as an added token: never a part of a longer one, in capitals or not."""
    special = word in SPECIAL
    return {
        "content": word,
        "lstrip": False,
        "rstrip": False,
        "normalized": not special,
        "single_word": not special and word not in PUNCTUATION,
        "special": special,
    }


@cache
def table(names: tuple[str, ...]) -> dict[str, int]:
    """The id of every word."""
    return {word: index for index, word in enumerate(words(list(names)))}


def encode(caption: str, names: tuple[str, ...]) -> list[int]:
    """Token ids of a caption of plain words, padded to `MAX_LENGTH`; what `build` would give.

    Captions are made a few dozen times a step: this skips the tokenizer's own machinery.
    """
    known = table(names)
    ids = [known.get(word, UNK) for word in caption.lower().split()][: MAX_LENGTH - 2]
    ids = [BOS, *ids, EOS]
    return ids + [PAD] * (MAX_LENGTH - len(ids))


__all__ = ["MAX_LENGTH", "build", "encode", "save", "words"]
