"""The segmenter on a tiny SAM made from its configuration: clicks, boxes, sizes, refusals."""

from pathlib import Path

import numpy as np
import pytest

from dataengine.diagnosis.segmenter import Segmenter, load_segmenter
from dataengine.errors import InputRefused, ModelRefused


def tiny_sam(folder: Path) -> Path:
    """A SAM of 64² with random weights, saved as transformers saves it."""
    import torch
    from transformers import (
        SamConfig,
        SamMaskDecoderConfig,
        SamModel,
        SamPromptEncoderConfig,
        SamVisionConfig,
    )

    torch.manual_seed(0)
    vision = SamVisionConfig(
        hidden_size=16,
        output_channels=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=64,
        patch_size=8,
        window_size=4,
        global_attn_indexes=[1],
        mlp_dim=32,
        num_pos_feats=8,
    )
    prompt = SamPromptEncoderConfig(
        hidden_size=16, image_size=64, patch_size=8, mask_input_channels=4, image_embedding_size=8
    )
    decoder = SamMaskDecoderConfig(
        hidden_size=16, mlp_dim=32, num_hidden_layers=2, num_attention_heads=2, iou_head_hidden_dim=16
    )
    config = SamConfig(
        vision_config=vision.to_dict(),
        prompt_encoder_config=prompt.to_dict(),
        mask_decoder_config=decoder.to_dict(),
    )
    SamModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    return load_segmenter(tiny_sam(tmp_path_factory.mktemp("sam")))


@pytest.mark.parametrize("size", [(64, 64), (48, 96), (130, 70)])
def test_a_click_gives_a_mask_of_the_images_own_size(segmenter: Segmenter, size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    score, mask = segmenter.segment(f"image {size}", image, [(20.0, 30.0, True), (5.0, 5.0, False)])
    assert mask.shape == size and mask.dtype == np.uint8 and set(np.unique(mask)) <= {0, 1}
    assert 0 <= score <= 1
    _, boxed = segmenter.segment(f"image {size}", image, [], [5, 5, 40, 40])
    assert boxed.shape == size


def test_an_image_is_embedded_once(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    embed = segmenter.model.get_image_embeddings
    monkeypatch.setattr(
        segmenter.model, "get_image_embeddings", lambda pixels: calls.append(1) or embed(pixels)
    )
    image = np.zeros((64, 64, 3), np.uint8)
    for x in (1.0, 2.0, 3.0):
        segmenter.segment("the same", image, [(x, x, True)])
    assert len(calls) == 1


def test_what_cannot_be_asked_is_refused(segmenter: Segmenter, tmp_path: Path) -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    for clicks, box in (([], None), ([(65.0, 2.0, True)], None), ([], [0, 0, 70, 10])):
        with pytest.raises(InputRefused):
            segmenter.segment("x", image, clicks, box)
    with pytest.raises(ModelRefused, match=r"config\.json"):
        load_segmenter(tmp_path)
