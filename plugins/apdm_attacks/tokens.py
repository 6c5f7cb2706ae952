"""New words for the text encoders: vectors that train while their weights stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from apdm_cli.errors import ApdmError, UsageError
from apdm_cli.plugin import Artifact, Trainable

if TYPE_CHECKING:
    from apdm_cli.diffusion.model import DiffusionModel


class NewToken:
    """A word that the tokenizers did not know, with trainable vectors of its own.

    Every text encoder reads vectors of its own width. Several vectors are the tokens `word`,
    `word_1`, ... as diffusers names them; in a prompt one writes `word` alone.

    Args:
        model: its tokenizers and text encoders are extended.
        word: for example "<sks*>".
        count: vectors.
        initializer: an ordinary word whose embedding is where all of them start.
        keep_norm: keep the vectors at the initializer's length, so that they stay words.

    Raises:
        ApdmError: a tokenizer knows `word` already, or files of new words are not known for the
            model's family.
        UsageError: a tokenizer does not know `initializer`.
    """

    def __init__(
        self, model: DiffusionModel, word: str, count: int, initializer: str, keep_norm: bool
    ) -> None:
        family = model.family
        encoders, tokenizers = family.text_encoders, family.tokenizers
        known = len(encoders) == 1 or set(encoders) == set(family.word_keys)
        if not known or len(encoders) != len(tokenizers):
            raise ApdmError(
                "a new token needs a model with one tokenizer and one text encoder, or with pairs "
                f"of them for which files of new words are known, and {family.title} is otherwise"
            )
        self.word, self.keys = word, dict(family.word_keys)
        words = [word, *(f"{word}_{index}" for index in range(1, count))]
        self.parts = {
            name: _NewVectors(
                model.component(tokenizer), model.component(name), words, initializer, keep_norm
            )
            for tokenizer, name in zip(tokenizers, encoders, strict=True)
        }

    def parameters(self) -> list[nn.Parameter]:
        """The vectors, (count, D) for every text encoder."""
        return [part.vectors for part in self.parts.values()]

    def save(self, folder: Path) -> None:
        """Write the file that `apdm_cli.diffusion.artifacts.load_word` opens.

        With one text encoder it is `load_textual_inversion(folder, weight_name=...)`'s; with
        several it holds the vectors under the family's `word_keys`, and the word as "token" in its
        metadata.
        """
        vectors = {name: part.saved() for name, part in self.parts.items()}
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "learned_embeds.safetensors"
        if len(vectors) == 1:
            (only,) = vectors.values()
            save_file({self.word: only}, file)
        else:
            named = {self.keys[name]: tensor for name, tensor in vectors.items()}
            save_file(named, file, metadata={"token": self.word})


class _NewVectors:
    """The vectors of new words for one text encoder, in the place of its embeddings."""

    def __init__(
        self, tokenizer: Any, encoder: Any, words: Sequence[str], initializer: str, keep_norm: bool
    ) -> None:
        self.keep_norm = keep_norm
        start = _initial(tokenizer, encoder, initializer)
        taken = [each for each in words if each in tokenizer.get_vocab()]
        if taken:
            raise ApdmError(
                f"the model's tokenizer knows the token {taken[0]} already",
                "Choose another word for the new token.",
            )
        tokenizer.add_tokens(list(words))
        encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        encoder.requires_grad_(False)
        self._first = tokenizer.convert_tokens_to_ids(words[0])
        # A little apart from each other: equal vectors would get equal gradients for ever.
        shape = len(words), len(start)
        apart = 0.01 * start.norm() * torch.randn(shape).to(start) / len(start) ** 0.5
        self.norm = start.norm()
        self.vectors = nn.Parameter(start + apart)
        encoder.get_input_embeddings().register_forward_hook(self._replace)

    def values(self) -> Tensor:
        """The vectors as the encoder sees them, (count, D)."""
        if not self.keep_norm:
            return self.vectors
        return self.norm * nn.functional.normalize(self.vectors, dim=-1)

    def saved(self) -> Tensor:
        """`values` as `load_textual_inversion` takes them: a single one flat, several as rows."""
        values = self.values().detach().cpu().contiguous()
        return (values[0] if len(values) == 1 else values).clone()

    def _replace(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        place = inputs[0] - self._first
        mine = (place >= 0) & (place < len(self.vectors))
        vectors = self.values().to(output.dtype)[place.clamp(0, len(self.vectors) - 1)]
        return torch.where(mine[..., None], vectors, output)


@dataclass
class Embedding(Trainable):
    """The trained part: one new word."""

    new: NewToken
    trains_text = True

    def parameters(self) -> Sequence[nn.Parameter]:
        """The vectors of the new word."""
        return self.new.parameters()

    def prompt_word(self) -> str:
        """The new word."""
        return self.new.word

    def save(self, folder: Path) -> Artifact:
        """One file with the word's vectors."""
        self.new.save(folder)
        return Artifact("embedding", folder)


def _initial(tokenizer: Any, encoder: Any, word: str) -> Tensor:
    """Mean embedding of the tokens of `word`, (D,), float32."""
    ids = tokenizer(word, add_special_tokens=False).input_ids
    special = set(tokenizer.all_special_ids)
    if not ids or all(index in special for index in ids):
        raise UsageError(
            f"initializer: the model's tokenizer does not know {word!r}", "Use another word."
        )
    weights: Tensor = encoder.get_input_embeddings().weight
    return weights[ids].detach().float().mean(dim=0)
