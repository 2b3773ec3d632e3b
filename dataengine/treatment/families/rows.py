"""What is known of a pipeline class beyond what its own call tells; one short entry per class.

A class without a row opens with the defaults if it passes its check (see `stock`). To add one: an entry here
with what the defaults get wrong, and a tiny pipeline of the class for the contract tests.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ATTENTION = r".*\.(to_[qkv]|to_out\.0)"
FLUX2 = r".*\.attn\.(to_[qkv]|to_out\.0|to_qkv_mlp_proj)|single_transformer_blocks\.\d+\.attn\.to_out"
MLP = r".*\.(to_[qkv]|to_out\.0|net\.0\.proj|net\.2)"


SWITCHES: Mapping[str, Any] = {
    "use_resolution_binning": False,
    "enable_prompt_rewrite": False,
    "use_pe": False,
    "use_kv_cache": False,
}
"""Arguments of every call that takes them: images of the size that is asked for, by the prompt as it is
written, with the prompt's keys computed in every step, so that they get a gradient."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One class of diffusers' text-to-image pipelines."""

    steps: int | None = None
    """Usual number of steps; None is the call's own default, as for the next two."""
    guidance: float | None = None
    """Usual guidance scale."""
    size: int | None = None
    """Usual side of a square image in pixels."""
    source: str = "the default of its call in diffusers"
    """Where these three come from."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of its call, beside `SWITCHES`."""
    negative: str | None = None
    """The negative prompt, for calls that guide only with one."""
    guidance_argument: str = "guidance_scale"
    unguided: float = 1.0
    """The guidance scale at which the denoiser's answer is taken as it is."""
    attention: str = ATTENTION
    """The layers of the denoiser that carry a LoRA with `targets` "attention", a regular expression."""
    layers: str = MLP
    """Those with `targets` "all": layers whose answer does not reach the image are left out."""
    train_modules: str | None = None
    """Modules that must be in training mode to pass their gradient on, a regular expression."""
    checkpointing: bool = True
    """Whether its denoiser's gradient checkpointing works."""
    one_area: bool = False
    """Whether its call scales every size to the area of its `default_sample_size`, which is then set to
    it."""
    area_argument: str | None = None
    """The argument of a call that scales every size to the area that it names."""
    one_by_one: bool = False
    """Whether prompts must be encoded one at a time."""
    few: tuple[int, float] | None = None
    """Usual steps and guidance scale of distilled weights."""
    distilled: str | None = None
    """Which weights of the class are distilled to few steps; None if none are known."""
    told: bool = False
    """Whether the settings in their files say that they are."""
    licence: str
    """Licence of the usual weights."""
    tested: str | None = None
    """The version of diffusers that the contract tests ran with."""


TESTED = "0.42.1"

ROWS: dict[str, Row] = {
    "FluxPipeline": Row(
        attention=ATTENTION,
        layers=r".*\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out|proj_mlp|net\.0\.proj|net\.2)"
        r"|single_transformer_blocks\.\d+\.proj_out",
        few=(4, 0.0),
        distilled="schnell, to 4 steps without guidance",
        told=True,
        licence="schnell Apache-2.0; dev FLUX.1 [dev] Non-Commercial",
        tested=TESTED,
    ),
    "Flux2Pipeline": Row(
        attention=FLUX2,
        layers=rf"{FLUX2}|.*\.ff\.linear_(in|out)",
        licence="FLUX.2 [dev] Non-Commercial",
        tested=TESTED,
    ),
    "Flux2KleinPipeline": Row(
        attention=FLUX2,
        layers=rf"{FLUX2}|.*\.ff\.linear_(in|out)",
        few=(4, 1.0),
        distilled="klein 4B and 9B, to 4 steps (is_distilled in model_index.json); the base models are not",
        told=True,
        licence="4B Apache-2.0; 9B FLUX Non-Commercial",
        tested=TESTED,
    ),
    "QwenImagePipeline": Row(
        guidance_argument="true_cfg_scale",
        negative=" ",
        layers=r".*\.(to_[qkv]|to_out\.0|img_mlp\.net\.0\.proj|img_mlp\.net\.2)",
        licence="Apache-2.0",
        tested=TESTED,
    ),
    "ZImagePipeline": Row(
        unguided=0.0,
        layers=r".*\.(to_[qkv]|to_out\.0|feed_forward\.w[123])",
        few=(8, 0.0),
        distilled="Turbo, to 8 steps with guidance_scale 0",
        licence="Apache-2.0",
        tested=TESTED,
    ),
    "StableDiffusionPipeline": Row(
        attention=r".*attn[12]\.(to_[qkv]|to_out\.0)",
        layers=r".*(attn[12]\.(to_[qkv]|to_out\.0)|ff\.net\.0\.proj|ff\.net\.2)",
        licence="1.x CreativeML Open RAIL-M; 2 CreativeML Open RAIL++-M",
        tested=TESTED,
    ),
    "StableDiffusionXLPipeline": Row(
        attention=r".*attn[12]\.(to_[qkv]|to_out\.0)",
        layers=r".*(attn[12]\.(to_[qkv]|to_out\.0)|ff\.net\.0\.proj|ff\.net\.2)",
        few=(4, 0.0),
        distilled="Turbo and Lightning, to 1–8 steps",
        licence="CreativeML Open RAIL++-M",
        tested=TESTED,
    ),
    "StableDiffusion3Pipeline": Row(
        layers=r".*\.(to_[qkv]|to_out\.0|ff\.net\.0\.proj|ff\.net\.2)",
        few=(4, 0.0),
        distilled="3.5 Large Turbo, to 4 steps without guidance",
        licence="Stability AI Community",
        tested=TESTED,
    ),
    "SanaPipeline": Row(
        attention=r".*attn[12]\.(to_[qkv]|to_out\.0)",
        layers=r".*attn[12]\.(to_[qkv]|to_out\.0)",
        licence="NVIDIA Open Model; its text encoder Gemma Terms of Use",
        tested=TESTED,
    ),
    "PixArtSigmaPipeline": Row(
        attention=r".*attn[12]\.(to_[qkv]|to_out\.0)",
        layers=r".*(attn[12]\.(to_[qkv]|to_out\.0)|ff\.net\.0\.proj|ff\.net\.2)",
        licence="CreativeML Open RAIL++-M",
        tested=TESTED,
    ),
    "ChromaPipeline": Row(
        checkpointing=False,
        layers=r".*\.(to_[qkv]|to_out\.0|proj_mlp|ff\.net\.0\.proj|ff\.net\.2)"
        r"|single_transformer_blocks\.\d+\.proj_out",
        licence="Apache-2.0",
        tested=TESTED,
    ),
    "Lumina2Pipeline": Row(
        layers=r"layers\..*\.(to_[qkv]|to_out\.0|linear_[123])",
        licence="Apache-2.0; its text encoder Gemma Terms of Use",
        tested=TESTED,
    ),
    "HiDreamImagePipeline": Row(
        size=1024,
        one_area=True,
        train_modules=r".*\.ff_i",
        layers=r".*\.(to_[qkv]|to_out)",
        attention=r".*\.(to_[qkv]|to_out)",
        few=(28, 0.0),
        distilled="Dev and Fast, to 28 and 16 steps without guidance",
        licence="MIT; its text encoder Llama 3.1 Community",
        tested=TESTED,
    ),
    "Krea2Pipeline": Row(
        unguided=0.0,
        layers=r".*\.(to_[qkv]|to_out\.0|ff\.(gate|up|down))",
        few=(8, 0.0),
        distilled="Turbo, to 8 steps (is_distilled in model_index.json)",
        told=True,
        licence="Krea 2 Community",
        tested=TESTED,
    ),
    "AuraFlowPipeline": Row(
        layers=r".*\.(to_[qkv]|to_out\.0|ff\.linear_1|ff\.linear_2|ff\.out_projection)",
        licence="Apache-2.0",
        tested=TESTED,
    ),
    "FluxKontextPipeline": Row(
        arguments={"image": None, "_auto_resize": False},
        area_argument="max_area",
        layers=r".*\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out|proj_mlp|net\.0\.proj|net\.2)"
        r"|single_transformer_blocks\.\d+\.proj_out",
        licence="FLUX.1 [dev] Non-Commercial",
        tested=TESTED,
    ),
    "LongCatImagePipeline": Row(
        negative="",
        licence="Apache-2.0",
        tested=TESTED,
    ),
}
"""The rows by class name in `model_index.json`."""

UNTESTED = Row(licence="see its publisher")
"""Any other class."""


def row_of(kind: str) -> Row:
    """The row of a pipeline class."""
    return ROWS.get(kind, UNTESTED)
