"""Checkpoints of the SAM family with random weights, a few thousand parameters each, as transformers saves
them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

SIDE, SIDE_3 = 64, 56
"""Sides of the squares that the models take: SAM-HQ and SAM 2, and SAM 3."""
WORDS = ("hand", "sixth", "finger", "a", "of")


def tiny_sam_hq(folder: Path) -> Path:
    """SAM-HQ."""
    from transformers import (
        SamHQConfig,
        SamHQMaskDecoderConfig,
        SamHQModel,
        SamHQPromptEncoderConfig,
        SamHQVisionConfig,
    )

    vision = SamHQVisionConfig(
        hidden_size=16,
        output_channels=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=8,
        window_size=4,
        global_attn_indexes=[1],
        mlp_dim=32,
        num_pos_feats=8,
    )
    prompt = SamHQPromptEncoderConfig(hidden_size=16, image_size=SIDE, patch_size=8, mask_input_channels=4)
    decoder = SamHQMaskDecoderConfig(
        hidden_size=16,
        mlp_dim=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        iou_head_hidden_dim=16,
        vit_dim=16,
    )
    return _saved(SamHQModel, SamHQConfig(**_parts(vision, prompt, decoder)), folder)


def tiny_sam2(folder: Path) -> Path:
    """SAM 2 as its image model saves itself."""
    from transformers import Sam2Config, Sam2Model

    return _saved(Sam2Model, Sam2Config(**_sam2_parts()), folder)


def tiny_sam2_video(folder: Path) -> Path:
    """SAM 2 as its authors publish it: the video model."""
    from transformers import Sam2VideoConfig, Sam2VideoModel

    config = Sam2VideoConfig(
        **_sam2_parts(), **_memory(16), image_size=SIDE, memory_attention_rope_feat_sizes=[4, 4]
    )
    return _saved(Sam2VideoModel, config, folder)


def tiny_sam3_tracker(folder: Path) -> Path:
    """SAM 3's model for clicks."""
    from transformers import Sam3TrackerModel

    return _saved(Sam3TrackerModel, _tracker_config(), folder)


def tiny_sam3(folder: Path) -> Path:
    """SAM 3's model for words."""
    from transformers import Sam3Model

    return _with_tokenizer(_saved(Sam3Model, _sam3_config(), folder))


def tiny_sam3_video(folder: Path, as_published: bool = True) -> Path:
    """SAM 3 as its authors publish it: both models in one. transformers 5.23 saves the tracker's weights
    under a doubled prefix, which the published checkpoint does not have."""
    from safetensors.torch import load_file, save_file
    from transformers import Sam3TrackerVideoConfig, Sam3VideoConfig, Sam3VideoModel

    tracker = _tracker_config().to_dict()
    parts = {name: tracker[f"{name}_config"] for name in ("vision", "prompt_encoder", "mask_decoder")}
    video = Sam3TrackerVideoConfig(
        **{f"{name}_config": part for name, part in parts.items()},
        **_memory(32),
        image_size=SIDE_3,
        memory_attention_rope_feat_sizes=[4, 4],
    )
    config = Sam3VideoConfig(detector_config=_sam3_config().to_dict(), tracker_config=video.to_dict())
    _with_tokenizer(_saved(Sam3VideoModel, config, folder))
    if as_published:
        path = folder / "model.safetensors"
        weights = load_file(path)
        doubled = "tracker_model.tracker_model."
        named = {name.replace(doubled, "tracker_model."): value for name, value in weights.items()}
        save_file(named, path, {"format": "pt"})
    return folder


CLICKS: dict[str, Callable[[Path], Path]] = {
    "sam_hq": tiny_sam_hq,
    "sam2": tiny_sam2,
    "sam2_video": tiny_sam2_video,
    "sam3_tracker": tiny_sam3_tracker,
    "sam3_video": tiny_sam3_video,
}
"""Checkpoints that take clicks and boxes, by `model_type`."""


def _saved(class_: Any, config: Any, folder: Path) -> Path:
    import torch

    torch.manual_seed(0)
    class_(config).save_pretrained(folder)
    return folder


def _parts(vision: Any, prompt: Any, decoder: Any) -> dict[str, Any]:
    return {
        "vision_config": vision.to_dict(),
        "prompt_encoder_config": prompt.to_dict(),
        "mask_decoder_config": decoder.to_dict(),
    }


def _sam2_parts() -> dict[str, Any]:
    from transformers import (
        Sam2HieraDetConfig,
        Sam2MaskDecoderConfig,
        Sam2PromptEncoderConfig,
        Sam2VisionConfig,
    )

    backbone = Sam2HieraDetConfig(
        hidden_size=8,
        num_attention_heads=1,
        image_size=[SIDE, SIDE],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 1, 1],
        window_size_per_stage=[4, 4, 4, 4],
        global_attention_blocks=[3],
        window_positional_embedding_background_size=[4, 4],
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone.to_dict(),
        backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
        fpn_hidden_size=16,
    )
    prompt = Sam2PromptEncoderConfig(hidden_size=16, image_size=SIDE, patch_size=16, mask_input_channels=4)
    decoder = Sam2MaskDecoderConfig(hidden_size=16, mlp_dim=16, num_attention_heads=2, iou_head_hidden_dim=16)
    return _parts(vision, prompt, decoder)


def _memory(size: int) -> dict[str, int]:
    return {
        "memory_attention_hidden_size": size,
        "memory_encoder_hidden_size": size,
        "memory_encoder_output_channels": 8,
        "memory_attention_feed_forward_hidden_size": 16,
        "mask_downsampler_embed_dim": 16,
        "memory_fuser_embed_dim": size,
        "memory_fuser_intermediate_dim": 16,
        "memory_attention_num_layers": 1,
        "memory_attention_downsample_rate": 1,
    }


def _vision_3() -> Any:
    from transformers import Sam3VisionConfig, Sam3ViTConfig

    backbone = Sam3ViTConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIDE_3,
        patch_size=14,
        window_size=2,
        global_attn_indexes=[1],
        pretrain_image_size=28,
    )
    sizes = [[16, 16], [8, 8], [4, 4]]
    return Sam3VisionConfig(
        backbone_config=backbone.to_dict(), fpn_hidden_size=32, backbone_feature_sizes=sizes
    )


def _sam3_config() -> Any:
    from transformers import CLIPTextConfig, Sam3Config

    text = CLIPTextConfig(
        vocab_size=len(WORDS) + 2,
        hidden_size=32,
        intermediate_size=32,
        projection_dim=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=1,
    )
    layers = {"hidden_size": 32, "num_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return Sam3Config(
        vision_config=_vision_3().to_dict(),
        text_config=text.to_dict(),
        geometry_encoder_config=layers,
        detr_encoder_config=layers,
        detr_decoder_config={**layers, "num_queries": 4},
        mask_decoder_config={"hidden_size": 32, "num_attention_heads": 2},
    )


def _tracker_config() -> Any:
    from transformers import Sam3TrackerConfig

    return Sam3TrackerConfig(
        vision_config=_vision_3().to_dict(),
        prompt_encoder_config={
            "hidden_size": 32,
            "image_size": SIDE_3,
            "patch_size": 14,
            "mask_input_channels": 4,
        },
        mask_decoder_config={
            "hidden_size": 32,
            "mlp_dim": 32,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
    )


def _with_tokenizer(folder: Path) -> Path:
    """A tokenizer of whole words beside the model."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: at for at, word in enumerate(("[UNK]", "[PAD]", *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(
        folder
    )
    return folder
