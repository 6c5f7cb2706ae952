"""Transformers of flow matching that read prompts as a language model understood them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from apdm_cli.diffusion.family import Components
from apdm_cli.errors import ApdmError
from apdm_families.checks import HINT
from apdm_families.flow_transformer import FlowTransformer

if TYPE_CHECKING:
    from torch import Tensor

    from apdm_cli.diffusion.condition import Condition

LONGEST_SEQUENCE = 512  # tokens of the language model that these pipelines read, unless told


class ChatTransformer(FlowTransformer):
    """The prompt is what a user says to a language model; its hidden states are the condition.

    Nobody personalizes the language model: it stays as it is.

    Attributes:
        thinking: what its tokenizer's chat template is told of thoughts before the answer; None
            where the pipeline brings a template of its own.
        dropped: tokens at the beginning, before the prompt, that the transformer is not given.
    """

    text_encoders = ()
    thinking: ClassVar[bool | None] = None
    dropped: ClassVar[int] = 0

    def sequence_length(self, components: Components) -> int:
        """Tokens that are read, those around the prompt among them."""
        return min(LONGEST_SEQUENCE, int(components["tokenizer"].model_max_length))

    def longest_prompt(self, components: Components) -> int:
        """What the words around the prompt leave."""
        tokenizer = components["tokenizer"]
        around = tokenizer(self.around(components)).input_ids
        return self.sequence_length(components) + self.dropped - len(around)

    def around(self, components: Components) -> str:
        """What the language model reads for an empty prompt."""
        text: str = components["tokenizer"].apply_chat_template(
            [{"role": "user", "content": ""}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=self.thinking,
        )
        return text

    def check_chat(self, components: Components, folder: Path) -> None:
        """Refuse a tokenizer that cannot say a prompt, or has no room for one."""
        tokenizer = components["tokenizer"]
        if tokenizer.pad_token_id is None:
            raise ApdmError(f"{folder}: its tokenizer has no pad_token", HINT)
        if self.thinking is not None and not tokenizer.chat_template:
            raise ApdmError(
                f"{folder}: its tokenizer has no chat_template, by which prompts are read",
                "It stands in tokenizer/tokenizer_config.json or tokenizer/chat_template.jinja.",
            )
        if self.longest_prompt(components) < 1:
            raise ApdmError(
                f"{folder}: the model_max_length of its tokenizer is "
                f"{tokenizer.model_max_length}, which the words around a prompt fill",
                f'Set "model_max_length": {LONGEST_SEQUENCE} in tokenizer/tokenizer_config.json.',
            )


def padded(rows: Sequence[Tensor], length: int) -> Condition:
    """`Condition({"sequence": (B, L, D), "length": (B,)})` of rows (L_i, D), zeros behind each."""
    import torch
    from torch.nn.functional import pad

    from apdm_cli.diffusion.condition import Condition

    sequence = torch.stack([pad(row.float(), (0, 0, 0, length - len(row))) for row in rows])
    lengths = torch.tensor([len(row) for row in rows], device=sequence.device)
    return Condition({"sequence": sequence, "length": lengths})


def unpadded(condition: Condition) -> list[Tensor]:
    """The rows (L_i, D) that `padded` was given; see `lengths_of`."""
    lengths = lengths_of(condition)
    return [row[:length] for row, length in zip(condition["sequence"], lengths, strict=True)]


def lengths_of(condition: Condition) -> list[int]:
    """Of the rows; the longest that there may be where numbers have no content.

    So they are where memory is foreseen. Lengths are read from the card, and shapes follow from
    them: a family that asks for them while it predicts is not `recordable`.
    """
    from torch._subclasses.fake_tensor import FakeTensor

    lengths = condition["length"]
    if isinstance(lengths, FakeTensor):
        return [condition["sequence"].shape[1]] * len(lengths)
    found: list[int] = lengths.tolist()
    return found
