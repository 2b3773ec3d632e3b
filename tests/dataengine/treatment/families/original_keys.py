"""Tiny pipelines as single files, under the names that the models' authors gave their tensors."""

from pathlib import Path

import torch
from safetensors.torch import save_file

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}


def stable_diffusion_file(
    pipeline, file: Path, dtype=torch.float32, vae: bool = True, text: bool = True
) -> Path:
    """One file in the layout of Stable Diffusion 1 (CompVis, latent diffusion)."""
    tensors = {
        f"model.diffusion_model.{ldm(pipeline.unet, name)}": w
        for name, w in pipeline.unet.state_dict().items()
    }
    if vae:
        levels = len(pipeline.vae.config.block_out_channels)
        for name, weight in pipeline.vae.state_dict().items():
            tensors[f"first_stage_model.{ldm_vae(name, levels)}"] = weight
    if text:
        for name, weight in pipeline.text_encoder.state_dict().items():
            whole = name if name.startswith("text_model.") else f"text_model.{name}"
            tensors[f"cond_stage_model.transformer.{whole}"] = weight
    save_file({name: weight.to(dtype).contiguous() for name, weight in tensors.items()}, file)
    return file


def ldm(unet, name: str) -> str:
    """A UNet tensor's name in latent diffusion's code."""
    per = unet.config.layers_per_block
    parts = name.split(".")
    for ours, theirs in {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.resnets.1": "middle_block.2",
    }.items():
        if name.startswith(f"{ours}."):
            return theirs + _inner(name.removeprefix(ours))
    level, kind, number = int(parts[1]), parts[2], int(parts[3])
    rest = "." + ".".join(parts[4:])
    if parts[0] == "down_blocks":
        if kind == "downsamplers":
            return f"input_blocks.{(per + 1) * (level + 1)}.0.op" + rest.removeprefix(".conv")
        return f"input_blocks.{(per + 1) * level + number + 1}.{int(kind == 'attentions')}" + _inner(rest)
    if kind == "upsamplers":
        attends = "Attn" in unet.config.up_block_types[level]
        return f"output_blocks.{(per + 1) * level + per}.{2 if attends else 1}" + rest
    return f"output_blocks.{(per + 1) * level + number}.{int(kind == 'attentions')}" + _inner(rest)


def _inner(rest: str) -> str:
    for ours, theirs in RESNET.items():
        if rest.startswith(f".{ours}."):
            return f".{theirs}." + rest.removeprefix(f".{ours}.")
    return rest


def ldm_vae(name: str, levels: int) -> str:
    """A VAE tensor's name in latent diffusion's code; the tiny one has no attention."""
    parts = name.split(".")
    if parts[1] in ("down_blocks", "up_blocks"):
        side = "down" if parts[1] == "down_blocks" else "up"
        level = int(parts[2]) if side == "down" else levels - 1 - int(parts[2])
        if parts[3] == "resnets":
            inner = ".".join(parts[5:]).replace("conv_shortcut", "nin_shortcut")
            return f"{parts[0]}.{side}.{level}.block.{parts[4]}.{inner}"
        return f"{parts[0]}.{side}.{level}.{side}sample.{'.'.join(parts[5:])}"
    if parts[1] == "mid_block":
        return f"{parts[0]}.mid.block_{int(parts[3]) + 1}.{'.'.join(parts[4:])}"
    return name.replace("conv_norm_out", "norm_out")
