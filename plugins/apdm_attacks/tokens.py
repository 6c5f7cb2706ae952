"""New words for the text encoder: vectors that train while its weights stay."""

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
    """A word that the tokenizer did not know, with its own trainable vectors.

    Several vectors are the tokens `word`, `word_1`, ... as diffusers names them; in a prompt one
    writes `word` alone.

    Args:
        model: its tokenizer and text encoder are extended.
        word: for example "<sks*>".
        count: vectors.
        initializer: an ordinary word whose embedding is where all of them start.
        keep_norm: keep the vectors at the initializer's length, so that they stay words.

    Raises:
        ApdmError: the tokenizer knows `word` already, or the model has not one tokenizer and one
            text encoder.
        UsageError: it does not know `initializer`.
    """

    def __init__(
        self, model: DiffusionModel, word: str, count: int, initializer: str, keep_norm: bool
    ) -> None:
        family = model.family
        if (len(family.tokenizers), len(family.text_encoders)) != (1, 1):
            raise ApdmError(
                f"a new token needs a model with one tokenizer and one text encoder, and "
                f"{family.title} is otherwise"
            )
        tokenizer = model.component(family.tokenizers[0])
        encoder = model.component(family.text_encoders[0])
        self.word, self.keep_norm = word, keep_norm
        start = _initial(tokenizer, encoder, initializer)
        words = [word, *(f"{word}_{index}" for index in range(1, count))]
        taken = [each for each in words if each in tokenizer.get_vocab()]
        if taken:
            raise ApdmError(
                f"the model's tokenizer knows the token {taken[0]} already",
                "Choose another word for the new token.",
            )
        tokenizer.add_tokens(words)
        encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        encoder.requires_grad_(False)
        self._first = tokenizer.convert_tokens_to_ids(word)
        # A little apart from each other: equal vectors would get equal gradients for ever.
        apart = 0.01 * start.norm() * torch.randn(count, len(start)).to(start) / len(start) ** 0.5
        self.norm = start.norm()
        self.vectors = nn.Parameter(start + apart)
        encoder.get_input_embeddings().register_forward_hook(self._replace)

    def values(self) -> Tensor:
        """The vectors as the encoder sees them, (count, D)."""
        if not self.keep_norm:
            return self.vectors
        return self.norm * nn.functional.normalize(self.vectors, dim=-1)

    def save(self, folder: Path) -> None:
        """Write what `load_textual_inversion(folder, weight_name=...)` opens."""
        values = self.values().detach().cpu().contiguous()
        # `load_textual_inversion` takes a single vector flat, several as rows.
        values = values[0] if len(values) == 1 else values
        folder.mkdir(parents=True, exist_ok=True)
        save_file({self.word: values.clone()}, folder / "learned_embeds.safetensors")

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
        return [self.new.vectors]

    def prompt_word(self) -> str:
        """The new word."""
        return self.new.word

    def save(self, folder: Path) -> Artifact:
        """One file for `load_textual_inversion`."""
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
