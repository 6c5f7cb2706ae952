"""What can be set of any protection: how the house prepares it, and what of the model moves."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from apdm_cli.config import Settings


class ProtectionConfig(Settings):
    """Options that every protection has: how the house prepares and runs it.

    The defaults are those of arXiv 2511.01307 for Stable Diffusion.
    """

    prior_pictures: int = Field(200, ge=1, description="class pictures made by the original model")
    sampler_steps: int = Field(50, ge=1, description="sampler steps for class pictures")
    sampler_guidance: float = Field(7.5, ge=0, le=1e3, description="guidance for class pictures")
    prompt_style: Literal["clean", "published"] = Field(
        "clean",
        description='published: the literal training prompt "a_photo_of_sks_person" with quotes '
        "(difference 3 of the published code)",
    )
    compiled: Literal["auto", "off"] = Field(
        "off",
        description="auto: forwards through torch.compile where its compiler is installed; the "
        "result is the same but for rounding",
    )
    deterministic: bool = Field(
        False,
        description="CUDA: deterministic algorithms, so that a resumed run ends bit for bit like "
        "an uninterrupted one there too (slower)",
    )
    preview_every: int = Field(0, ge=0, description="steps between previews; 0 draws none")

    def description(self) -> dict[str, Any]:
        """What the result depends on, as manifests keep it."""
        return self.model_dump(mode="json")


class LowRank(Settings):
    """The difference between θ and φ where it is of low rank."""

    rank: int = Field(32, ge=1, description="rank of the difference of every layer")
    alpha: float = Field(32, gt=0, description="the difference is scaled by alpha / rank")
    targets: Literal["attention", "linear", "all"] = Field(
        "all",
        description="layers that move: attention projections; linear: those between them too; all: "
        "also the convolutions of a U-Net's residual blocks",
    )
    base: Literal["dtype", "int8"] = Field(
        "dtype",
        description="the frozen network below: dtype holds it in the precision of --dtype, int8 in "
        "8 bits a weight, which are made whole layer by layer",
    )


class AdaptableConfig(ProtectionConfig):
    """Options of a protection that trains `bench.weights`, whatever they are."""

    train: Literal["full", "adapter"] = Field(
        "full",
        description="full: all weights of the network; adapter: a difference of low rank on top of "
        "the frozen network, which then is held once, in the precision of --dtype",
    )
    adapter: LowRank = LowRank()

    @model_validator(mode="after")
    def _check_base(self) -> Self:
        if self.adapter.base == "int8" and self.train == "full":
            raise ValueError(
                "adapter.base = int8 is for train = adapter only: weights in 8 bits cannot train"
            )
        return self

    def description(self) -> dict[str, Any]:
        """Without settings that change nothing, so that runs from before there were any go on."""
        unused: dict[str, Any] = {}
        if self.train == "full":
            unused = {"train": True, "adapter": True}
        elif self.adapter.base == "dtype":
            unused = {"adapter": {"base"}}
        return self.model_dump(mode="json", exclude=unused)


def low_rank(config: ProtectionConfig) -> LowRank | None:
    """What the difference is where `config` trains one; None where all weights train."""
    if isinstance(config, AdaptableConfig) and config.train == "adapter":
        return config.adapter
    return None
