"""CLIP as attribute reader, with a tiny model loaded through the real path."""

import numpy as np
import pytest
import torch

from dataengine.errors import ModelRefused
from dataengine.quality.attributes import ClipReader
from tests.dataengine.treatment.tiny import PROMPTS, clip_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    tokenizer, path = clip_tokenizer(), tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 16,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(path)
    tokenizer.save_pretrained(path)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(path)
    return path


def test_one_bounded_answer_per_image_whatever_the_batch(folder):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(18, 40, 40, 3), dtype=np.uint8)
    prompts = [PROMPTS[i % 4] for i in range(18)]
    reader = ClipReader(folder)
    scores = reader.match(images, prompts)
    assert scores.shape == (18,) and scores.min() >= 0 and scores.max() <= 1 and scores.std() > 0
    assert np.allclose(reader.match(images[16:], prompts[16:]), scores[16:], atol=1e-5)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ModelRefused, match="does not load as CLIP"):
        ClipReader(tmp_path)
