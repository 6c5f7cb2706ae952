"""A pipeline's tensors under the names of the original Stable Diffusion checkpoints."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
OUTSIDE = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def original_layout(pipeline: Any) -> dict[str, Tensor]:
    """Every tensor of U-Net, autoencoder and text encoders, as one whole checkpoint has them."""
    tensors: dict[str, Tensor] = {}
    names = set(pipeline.unet.state_dict())
    per_block = pipeline.unet.config.layers_per_block + 1
    for name, tensor in pipeline.unet.state_dict().items():
        tensors[f"model.diffusion_model.{_unet(name, names, per_block)}"] = tensor
    last = len(pipeline.vae.config.up_block_types) - 1
    for name, tensor in pipeline.vae.state_dict().items():
        old = _vae(name, last)
        is_matrix = ".attn_1." in old and tensor.ndim == 2
        tensors[f"first_stage_model.{old}"] = tensor[:, :, None, None] if is_matrix else tensor
    second = getattr(pipeline, "text_encoder_2", None)
    first = "cond_stage_model" if second is None else "conditioner.embedders.0"
    for name, tensor in pipeline.text_encoder.state_dict().items():
        inner = name.removeprefix("text_model.")
        tensors[f"{first}.transformer.text_model.{inner}"] = tensor
    if second is not None:
        for name, tensor in _open_clip(second.state_dict()).items():
            tensors[f"conditioner.embedders.1.model.{name}"] = tensor
    return {name: tensor.clone().contiguous() for name, tensor in tensors.items()}


def _open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """CLIP's text encoder with a projection, as OpenCLIP has it."""
    names = {
        "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
        "text_model.final_layer_norm.weight": "ln_final.weight",
        "text_model.final_layer_norm.bias": "ln_final.bias",
    }
    tensors = {old: state[new] for new, old in names.items()}
    tensors["text_projection"] = state["text_projection.weight"].T
    layers = {"self_attn.out_proj": "attn.out_proj", "layer_norm1": "ln_1", "layer_norm2": "ln_2"}
    layers |= {"mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    for layer in range(sum(name.endswith("mlp.fc1.bias") for name in state)):
        new, old = f"text_model.encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        for kind in ("weight", "bias"):
            parts = [state[f"{new}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            tensors[f"{old}.attn.in_proj_{kind}"] = torch.cat(parts)
            for theirs, ours in layers.items():
                tensors[f"{old}.{ours}.{kind}"] = state[f"{new}.{theirs}.{kind}"]
    return tensors


def _unet(name: str, names: set[str], per_block: int) -> str:
    place = re.fullmatch(r"(down|mid|up)_blocks?\.(?:(\d+)\.)?(\w+)\.(\d+)\.(.*)", name)
    if place is None:
        for new, old in OUTSIDE.items():
            name = re.sub(rf"^{re.escape(new)}\b", old, name)
        return name
    side, block, kind, layer, rest = place.groups()
    if kind == "resnets":
        rest = _replaced(rest, RESNET)
    if side == "mid":
        return f"middle_block.{2 * int(layer) if kind == 'resnets' else 1}.{rest}"
    number = int(block) * per_block + int(layer)
    slot = {"resnets": "0", "attentions": "1"}.get(kind)
    if side == "down":
        if kind == "downsamplers":
            return (
                f"input_blocks.{int(block) * per_block + per_block}.0.{rest.replace('conv', 'op')}"
            )
        return f"input_blocks.{number + 1}.{slot}.{rest}"
    if kind == "upsamplers":
        attends = any(other.startswith(f"up_blocks.{block}.attentions.") for other in names)
        return (
            f"output_blocks.{int(block) * per_block + per_block - 1}.{2 if attends else 1}.{rest}"
        )
    return f"output_blocks.{number}.{slot}.{rest}"


def _vae(name: str, last: int) -> str:
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    name = re.sub(
        r"mid_block\.attentions\.0\.(.*)",
        lambda m: f"mid.attn_1.{_replaced(m[1], ATTENTION)}",
        name,
    )
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{last - int(m[1])}.block", name)
    return re.sub(
        r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{last - int(m[1])}.upsample", name
    )


def _replaced(rest: str, table: dict[str, str]) -> str:
    for new, old in table.items():
        if rest == new or rest.startswith(f"{new}."):
            return old + rest[len(new) :]
    return rest
