"""Every tiny pipeline draws through its own call, and opens again as it was saved."""

import inspect
import warnings

import numpy as np
import pytest
import torch

from tests.dataengine.treatment.families.tiny_pipelines import TINY, save_tiny, tiny_pipeline
from tests.dataengine.treatment.tiny import PROMPTS, SIDE


def drawn(pipeline, prompt=PROMPTS[0], seed=3) -> np.ndarray:
    """One image, float HW3 in [0, 1], of two steps."""
    known = inspect.signature(type(pipeline).__call__).parameters
    pipeline.default_sample_size = SIDE / pipeline.vae_scale_factor  # HiDream draws no other area
    extra = {"use_resolution_binning": False, "negative_prompt": " "}
    return pipeline(
        prompt=prompt,
        height=SIDE,
        width=SIDE,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(seed),
        output_type="np",
        **{name: value for name, value in extra.items() if name in known},
    ).images[0]


@pytest.mark.parametrize("name", TINY)
def test_a_tiny_pipeline_draws_and_opens_again(name, tmp_path):
    from diffusers import DiffusionPipeline

    pipeline = tiny_pipeline(name)
    assert type(pipeline).__name__ == name.partition("-")[0]
    image = drawn(pipeline)
    assert image.shape == (SIDE, SIDE, 3) and image.std() > 0.02
    assert np.abs(image - drawn(pipeline, seed=4)).max() > 0.01
    assert np.abs(image - drawn(pipeline, prompt=PROMPTS[2])).max() > 1e-4
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = DiffusionPipeline.from_pretrained(save_tiny(name, tmp_path), use_safetensors=True)
    again.set_progress_bar_config(disable=True)
    assert np.abs(image - drawn(again)).max() < 1e-5
