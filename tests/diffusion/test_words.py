"""Words that stand in prompts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from apdm_cli.diffusion.words import check_vocabulary, check_word, unknown_words
from apdm_cli.errors import ApdmError, UsageError
from apdm_families.stable_diffusion import StableDiffusion
from tests.tiny import make_tokenizer


def model(tokenizer: Any) -> Any:
    components = {"tokenizer": tokenizer}
    return SimpleNamespace(tokenizer=tokenizer, family=StableDiffusion(), components=components)


class ByteLevel:
    """Like CLIP's: knows everything, splits what is rare, has no token of its own for unknown."""

    unk_token_id = eos_token_id = pad_token_id = 2

    def tokenize(self, text: str) -> list[str]:
        return [text[i : i + 3] for i in range(0, len(text), 3)]


@pytest.mark.parametrize("word", ["person", " golden  retriever ", "t@t", "Straße"])
def test_plain_words_pass_with_single_blanks(word: str) -> None:
    assert check_word(word, "--class") == " ".join(word.split())


@pytest.mark.parametrize("word", ["", "  ", 'a "dog"', "dog's", "dog\ncat", "dog\tcat", "`dog`"])
def test_quotes_and_line_breaks_do_not(word: str) -> None:
    with pytest.raises(UsageError, match="--class"):
        check_word(word, "--class")


def test_unknown_words_are_named_with_their_option() -> None:
    known = model(make_tokenizer())
    assert check_vocabulary(known, "dog", "sks") == ()
    assert unknown_words(known, "a photo of xylophone dog") == ["xylophone"]
    with pytest.raises(ApdmError, match=r"--class.*xylophone"):
        check_vocabulary(known, "xylophone", "sks")
    with pytest.raises(ApdmError, match=r"--identifier.*qqq"):
        check_vocabulary(known, "dog", "qqq")
    with pytest.raises(ApdmError, match=r"does not know dogg\. Did you mean dog\?"):
        check_vocabulary(known, "dogg", "sks")


def test_an_unknown_class_lists_nouns_that_the_tokenizer_knows() -> None:
    known = model(make_tokenizer())
    with pytest.raises(ApdmError) as caught:
        check_vocabulary(known, "xylophone", "sks")
    listed = caught.value.hint.removeprefix("It knows: ").removesuffix(".").split(", ")
    assert "dog" in listed and all(not unknown_words(known, noun) for noun in listed)
    with pytest.raises(ApdmError) as caught:
        check_vocabulary(known, "dog", "qqq")
    assert "It knows" not in caught.value.hint  # an identifier should mean nothing


def test_a_split_identifier_is_allowed_and_said() -> None:
    (sentence,) = check_vocabulary(model(ByteLevel()), "dog", "zwxohwx")
    assert "'zwxohwx' into 3 tokens" in sentence
    assert check_vocabulary(model(ByteLevel()), "dog", "sks") == ()
