"""Checkpoints of OpenAI's guided-diffusion (Dhariwal & Nichol 2021) as diffusers' `DDPMPipeline`.

Many unconditional models are published in this form: a state dict, and flags that a command line had. Both
are read without running code: the state dict by `weights_only`, the flags from a JSON file in the original
names.
"""

from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError
from torch import Tensor

from dataengine.bounds import read_config
from dataengine.config import Config
from dataengine.errors import ModelRefused, reason_of

SUFFIXES = (".pt", ".pth")
FLAGS = "flags.json"
STEPS = 1000
RGB = 3
MULTIPLIERS = {512: "0.5,1,1,2,2,4,4", 256: "1,1,2,2,4,4", 128: "1,1,2,3,4", 64: "1,2,3,4"}
"""Channel multipliers by image size, where the flags name none."""
BETAS = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}


class Flags(Config):
    """The flags of guided-diffusion's scripts that say what its UNet is; others are ignored."""

    image_size: int
    num_channels: int
    num_res_blocks: int
    num_heads: int = 4
    num_head_channels: int = -1
    attention_resolutions: str = "16,8"
    channel_mult: str = ""
    class_cond: bool = False
    learn_sigma: bool = False
    resblock_updown: bool = False
    use_scale_shift_norm: bool = True
    use_new_attention_order: bool = False
    noise_schedule: str = "linear"
    diffusion_steps: int = Field(default=STEPS)

    @property
    def widths(self) -> list[int]:
        """Channels of each level."""
        named = self.channel_mult or MULTIPLIERS.get(self.image_size, "")
        return [int(float(part) * self.num_channels) for part in named.split(",") if part.strip()]

    @property
    def attends(self) -> list[bool]:
        """Whether each level has attention."""
        sides = {int(part) for part in self.attention_resolutions.split(",") if part.strip()}
        return [self.image_size // 2**level in sides for level in range(len(self.widths))]


def convert_guided_diffusion(file: Path, flags_file: Path | None, out: Path) -> str:
    """Write the `DDPMPipeline` of a checkpoint into `out`; returns that class.

    `flags_file` is a JSON file, by default `flags.json` beside the checkpoint. Raises `ModelRefused` for
    anything that is not a state dict of plain tensors, for flags that do not fit it, and for models that are
    class-conditional.
    """
    from diffusers import DDPMPipeline, DDPMScheduler

    flags = read_flags(flags_file or file.parent / FLAGS)
    state = read_state(file)
    unet = _unet(flags)
    try:
        converted = converted_state(state, flags)
        unet.load_state_dict(converted)
    except (KeyError, RuntimeError, ValueError) as error:
        raise ModelRefused(f"{file} does not fit the flags: {reason_of(error)}") from error
    scheduler = DDPMScheduler(
        beta_schedule=BETAS[flags.noise_schedule],
        variance_type="learned_range" if flags.learn_sigma else "fixed_large",
        clip_sample=True,
    )
    DDPMPipeline(unet=unet, scheduler=scheduler).save_pretrained(out)
    return "DDPMPipeline"


def is_guided_diffusion(file: Path, flags_file: Path | None) -> bool:
    """Whether a file is to be read as such a checkpoint: a `.pt` with its flags given or beside it."""
    flags = flags_file or file.parent / FLAGS
    return file.suffix.lower() in SUFFIXES and flags.suffix == ".json" and flags.is_file()


def read_flags(file: Path) -> Flags:
    """The flags in a JSON file. Raises `ModelRefused` for those of models that are not supported."""
    try:
        rows = read_config(file)
        flags = Flags.model_validate({name: rows[name] for name in Flags.model_fields if name in rows})
    except (OSError, ValueError, TypeError, ValidationError) as error:
        raise ModelRefused(
            f"{file} is missing or does not hold the flags of a guided-diffusion model: image_size, "
            "num_channels, num_res_blocks, attention_resolutions and the others of its script, as JSON"
        ) from error
    problem = ""
    if flags.class_cond:
        problem = "is class-conditional; only unconditional models are converted"
    elif flags.diffusion_steps != STEPS:
        problem = f"has {flags.diffusion_steps} diffusion steps; expected {STEPS}"
    elif flags.noise_schedule not in BETAS:
        problem = f"has the noise schedule {flags.noise_schedule!r}; expected linear or cosine"
    elif not flags.widths:
        problem = f"has no channel_mult, and there is no usual one for {flags.image_size}²"
    elif len(_head_widths(flags)) > 1:
        problem = "has heads of different widths (num_heads instead of num_head_channels)"
    if problem:
        raise ModelRefused(f"{file} is of a model that {problem}")
    return flags


def read_state(file: Path) -> dict[str, Tensor]:
    """A state dict of plain tensors. Raises `ModelRefused` for anything else."""
    try:
        state: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # pickles fail in any way
        raise ModelRefused(f"{file} is no state dict of plain tensors: {reason_of(error)}") from error
    tensors = isinstance(state, dict) and all(isinstance(value, Tensor) for value in state.values())
    if not tensors or "input_blocks.0.0.weight" not in state:
        raise ModelRefused(f"{file} is no checkpoint of guided-diffusion: it has no input_blocks.0.0.weight")
    return {str(name): value.float() for name, value in state.items()}


def _head_widths(flags: Flags) -> set[int]:
    if flags.num_head_channels > 0:
        return {flags.num_head_channels}
    widths = [width for width, attends in zip(flags.widths, flags.attends, strict=True) if attends]
    return {width // flags.num_heads for width in [*widths, flags.widths[-1]]}


def _unet(flags: Flags) -> Any:
    from diffusers import UNet2DModel

    plain = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D")
    down, up = plain if flags.resblock_updown else ("DownBlock2D", "UpBlock2D")
    kind = "resnet" if flags.resblock_updown else "conv"
    return UNet2DModel(
        sample_size=flags.image_size,
        in_channels=RGB,
        out_channels=2 * RGB if flags.learn_sigma else RGB,
        freq_shift=0,
        flip_sin_to_cos=True,
        block_out_channels=tuple(flags.widths),
        down_block_types=tuple("AttnDownBlock2D" if attends else down for attends in flags.attends),
        up_block_types=tuple("AttnUpBlock2D" if attends else up for attends in reversed(flags.attends)),
        layers_per_block=flags.num_res_blocks,
        downsample_type=kind,
        upsample_type=kind,
        attention_head_dim=next(iter(_head_widths(flags))),
        norm_eps=1e-5,
        attn_norm_num_groups=32,
        resnet_time_scale_shift="scale_shift" if flags.use_scale_shift_norm else "default",
    )


def converted_state(state: dict[str, Tensor], flags: Flags) -> dict[str, Tensor]:
    """The state dict of diffusers' UNet. Raises `KeyError` for what the checkpoint lacks."""
    left, found = dict(state), {}

    def moved(theirs: str, ours: str) -> None:
        for name in [name for name in left if name.startswith(f"{theirs}.")]:
            found[f"{ours}.{name.removeprefix(theirs + '.')}"] = left.pop(name)

    def resnet(theirs: str, ours: str) -> None:
        if f"{theirs}.in_layers.0.weight" not in left:
            raise KeyError(f"it lacks {theirs}.in_layers.0.weight")
        for part, name in RESNET.items():
            moved(f"{theirs}.{part}", f"{ours}.{name}")

    def attention(theirs: str, ours: str) -> None:
        moved(f"{theirs}.norm", f"{ours}.group_norm")
        for end in ("weight", "bias"):
            for name, rows in zip("qkv", _split(left.pop(f"{theirs}.qkv.{end}"), flags), strict=True):
                found[f"{ours}.to_{name}.{end}"] = rows
            rows = left.pop(f"{theirs}.proj_out.{end}")
            found[f"{ours}.to_out.0.{end}"] = rows.squeeze(-1) if end == "weight" else rows

    def resampled(theirs: str, ours: str, conv: str) -> None:
        if flags.resblock_updown:
            resnet(theirs, ours)
        else:
            moved(f"{theirs}.{conv}", f"{ours}.conv")

    moved("time_embed.0", "time_embedding.linear_1")
    moved("time_embed.2", "time_embedding.linear_2")
    moved("input_blocks.0.0", "conv_in")
    levels, block = len(flags.widths), 1
    for level, attends in enumerate(flags.attends):
        for layer in range(flags.num_res_blocks):
            resnet(f"input_blocks.{block}.0", f"down_blocks.{level}.resnets.{layer}")
            if attends:
                attention(f"input_blocks.{block}.1", f"down_blocks.{level}.attentions.{layer}")
            block += 1
        if level < levels - 1:
            resampled(f"input_blocks.{block}.0", f"down_blocks.{level}.downsamplers.0", "op")
            block += 1
    resnet("middle_block.0", "mid_block.resnets.0")
    attention("middle_block.1", "mid_block.attentions.0")
    resnet("middle_block.2", "mid_block.resnets.1")
    block = 0
    for level, attends in enumerate(reversed(flags.attends)):
        for layer in range(flags.num_res_blocks + 1):
            resnet(f"output_blocks.{block}.0", f"up_blocks.{level}.resnets.{layer}")
            if attends:
                attention(f"output_blocks.{block}.1", f"up_blocks.{level}.attentions.{layer}")
            if level < levels - 1 and layer == flags.num_res_blocks:
                place = f"output_blocks.{block}.{2 if attends else 1}"
                resampled(place, f"up_blocks.{level}.upsamplers.0", "conv")
            block += 1
    moved("out.0", "conv_norm_out")
    moved("out.2", "conv_out")
    if left:
        raise KeyError(f"it has {next(iter(left))}, which the flags do not mention")
    return found


def _split(rows: Tensor, flags: Flags) -> tuple[Tensor, ...]:
    """Queries, keys and values of a joint projection, (3C, …): one after the other in the new order, head by
    head in the former."""
    rows = rows.squeeze(-1) if rows.ndim == 3 else rows
    if flags.use_new_attention_order:
        return rows.chunk(3)
    width = next(iter(_head_widths(flags)))
    heads = rows.reshape(len(rows) // (3 * width), 3, width, *rows.shape[1:])
    return tuple(heads[:, part].reshape(-1, *rows.shape[1:]) for part in range(3))
