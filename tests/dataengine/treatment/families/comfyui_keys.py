"""Which names of a LoRA's layers ComfyUI maps to a layer of its model, for every class that has a row.

Facts of ComfyUI's `comfy/lora.py` and `comfy/utils.py` (github.com/Comfy-Org/ComfyUI, read in November 2026)
in our own words; it is under the GPL, and none of its code is here. A pair of matrices is read as
`NAME.lora_down.weight` and `NAME.lora_up.weight`, or as `NAME.lora_A.weight` and `NAME.lora_B.weight`, with
`NAME.alpha` where the scale is not 1.
"""

import re

ATTENTION = r"attn\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)"
UNET = (
    r"lora_unet_(down_blocks_\d+|mid_block|up_blocks_\d+)_attentions_\d+_transformer_blocks_\d+_"
    r"(attn[12]_to_([qkv]|out_0)|ff_net_(0_proj|2))"
)
FLUX = (
    rf"transformer\.(transformer_blocks\.\d+\.({ATTENTION}|ff(_context)?\.(net\.(0\.proj|2)|linear_(in|out)))"
    r"|single_transformer_blocks\.\d+\.(attn\.(to_[qkv]|to_qkv_mlp_proj|to_out)|proj_mlp|proj_out))"
)

MAPPED: dict[str, str | None] = {
    "FluxPipeline": FLUX,
    "Flux2Pipeline": FLUX,
    "Flux2KleinPipeline": FLUX,
    "ChromaPipeline": FLUX,
    # Its model keeps the names of diffusers.
    "QwenImagePipeline": rf"transformer\.transformer_blocks\.\d+\.({ATTENTION}"
    r"|(img|txt)_mlp\.net\.(0\.proj|2))",
    "HiDreamImagePipeline": r"transformer\.(double|single)_stream_blocks\.\d+\.block\.attn1\."
    r"to_(q|k|v|out)(_t)?",
    "ZImagePipeline": r"transformer\.(layers|context_refiner|noise_refiner)\.\d+\."
    r"(attention\.(to_[qkv]|to_out\.0)|feed_forward\.w[123])",
    "StableDiffusionPipeline": UNET,
    "StableDiffusionPipeline-2": UNET,
    "StableDiffusionXLPipeline": UNET,
    "StableDiffusion3Pipeline": rf"transformer\.transformer_blocks\.\d+\.({ATTENTION}"
    r"|attn2\.(to_[qkv]|to_out\.0)|ff(_context)?\.net\.(0\.proj|2))",
    "PixArtSigmaPipeline": r"transformer\.transformer_blocks\.\d+\.(attn[12]\.(to_[qkv]|to_out\.0)"
    r"|ff\.net\.(0\.proj|2))",
    "AuraFlowPipeline": rf"transformer\.(joint|single)_transformer_blocks\.\d+\.({ATTENTION}"
    r"|ff(_context)?\.(linear_[12]|out_projection))",
    "Krea2Pipeline": r"transformer\.(transformer_blocks|text_fusion\.(layerwise|refiner)_blocks)\.\d+\."
    r"(attn\.(to_[qkv]|to_gate|to_out\.0)|ff\.(gate|up|down))",
    # It has the model, with fused projections, and maps no names of diffusers to it.
    "Lumina2Pipeline": None,
    # It has no such model.
    "SanaPipeline": None,
}
"""The names by the keys of `tiny_pipelines.TINY`; None where ComfyUI has no map for diffusers' layers."""


def unread(kind: str, keys: set[str]) -> list[str]:
    """The keys of a file that ComfyUI would leave out, with a line in its log. Of a class in `MAPPED` with a
    map."""
    pattern = MAPPED[kind]
    assert pattern is not None
    ends = (".lora_down.weight", ".lora_up.weight", ".lora_A.weight", ".lora_B.weight", ".alpha")
    end = {key: next((each for each in ends if key.endswith(each)), "") for key in keys}
    return sorted(
        key for key in keys if not end[key] or not re.fullmatch(pattern, key.removesuffix(end[key]))
    )
