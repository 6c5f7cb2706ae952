"""Whether a model's tokenizer knows the words that a subject is called by."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from apdm_cli.errors import ApdmError, UsageError
from apdm_cli.pocket import vocabulary
from apdm_cli.pocket.vocabulary import NOUNS

if TYPE_CHECKING:
    from apdm_cli.diffusion.model import DiffusionModel

_OTHER_WORD = "Use another word, or another --model: the embedded pocket model knows few words."
FORBIDDEN = "\"'`"
LONGEST = 200  # characters; no text encoder reads as much


def check_word(word: str, option: str) -> str:
    """Return `word`, stripped; UsageError for one that is empty, long or no plain text."""
    if not word.strip() or any(character in FORBIDDEN for character in word):
        raise _no_word(word, option)
    if not word.isprintable() or len(word) > LONGEST:
        raise _no_word(word, option)
    return " ".join(word.split())


def _no_word(word: str, option: str) -> UsageError:
    shown = repr(word) if len(word) <= LONGEST else f"{word[:LONGEST]!r}..."
    return UsageError(
        f"{option}: {shown} cannot stand in a prompt",
        f"Use plain words without quotes, tabs or line breaks, at most {LONGEST} characters.",
    )


def check_vocabulary(model: DiffusionModel, class_noun: str, identifier: str) -> tuple[str, ...]:
    """Sentences about how the tokenizer takes the words; ApdmError where it does not know one.

    An identifier that is split into several tokens is allowed, and said.
    """
    for option, word in (("--class", class_noun), ("--identifier", identifier)):
        unknown = unknown_words(model, word)
        if unknown:
            known = [noun for noun in NOUNS if not unknown_words(model, noun)]
            raise _unknown(option, unknown, known)
    check_length(model, f"a photo of {identifier} {class_noun}", class_noun)
    tokenizer = model.tokenizer
    pieces = tokenizer.tokenize(identifier) if tokenizer is not None else ()
    if len(pieces) > 1:
        return (f"The tokenizer splits the identifier {identifier!r} into {len(pieces)} tokens.",)
    return ()


def check_pocket_vocabulary(
    class_noun: str, identifier: str, class_option: str = "--class"
) -> None:
    """Refuse words as `check_vocabulary` does for the embedded model, which need not be loaded."""
    for option, word in ((class_option, class_noun), ("--identifier", identifier)):
        unknown = vocabulary.unknown_words(word)
        if unknown:
            raise _unknown(option, unknown, vocabulary.class_nouns())


def _unknown(option: str, unknown: Sequence[str], known: Sequence[str]) -> ApdmError:
    """`known`: the usual class nouns that the tokenizer does know."""
    of_class = option != "--identifier"
    nouns = f"It knows: {', '.join(known)}." if known and of_class else _OTHER_WORD
    nearest = difflib.get_close_matches(unknown[0], known, n=1) if of_class else []
    meant = f". Did you mean {nearest[0]}?" if nearest else ""
    words = ", ".join(unknown)
    return ApdmError(f"{option}: the model's tokenizer does not know {words}{meant}", nouns)


def check_length(model: DiffusionModel, prompt: str, noun: str) -> None:
    """Refuse a prompt of which the model would not read the end: there stands the class noun.

    Raises:
        ApdmError: with both numbers of tokens.
    """
    tokenizer = model.tokenizer
    most = model.family.longest_prompt(model.components)
    if tokenizer is None or not most:
        return
    needed = len(tokenizer(prompt).input_ids)
    if needed > most:
        raise ApdmError(
            f"--identifier and --class are too long: the prompt has {needed} tokens, the model "
            f"reads {most}, and {noun!r} would fall off its end",
            "Use a shorter identifier.",
        )


def unknown_words(model: DiffusionModel, words: str) -> list[str]:
    """Those of `words` that the tokenizer has no token for."""
    tokenizer = model.tokenizer
    if tokenizer is None:  # a family that reads letters or bytes has no unknown words
        return []
    unknown = tokenizer.unk_token_id
    # CLIP's byte-level vocabulary knows every word and reuses another token as its "unknown".
    if unknown is None or unknown in (tokenizer.eos_token_id, tokenizer.pad_token_id):
        return []
    return [
        word
        for word in words.split()
        if unknown in tokenizer(word, add_special_tokens=False).input_ids
    ]
