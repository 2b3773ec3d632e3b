"""Self-refining training: what the map changes, what it leaves, and that a killed run goes on."""

import numpy as np
import pytest
import torch

from dataengine.diagnosis.config import HighlighterConfig
from dataengine.errors import Cancelled, ConfigRefused
from dataengine.treatment.config import RefiningConfig
from dataengine.treatment.refining import KeyValueModulation, noises, refine, refining_noise, token_grid

CONFIG = RefiningConfig(
    steps=6,
    cycle=2,
    batch=2,
    sample_steps=2,
    highlighted=12,
    highlighter=HighlighterConfig(epochs=1, batch=12),
    lr=1e-3,
    checkpoint_every=2,
)


def unet():
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=8,
    )


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def refined(images, tmp_path_factory):
    return refine(CONFIG, unet(), images, tmp_path_factory.mktemp("refined"))


def test_noise_is_raised_where_the_map_is():
    noise, mfam = torch.zeros(2, 3, 2, 2), torch.tensor([[0.0, 1.0], [0.5, 0.0]])
    raised = refining_noise(noise, mfam, 0.1)
    assert torch.allclose(raised, 0.1 * mfam.expand(2, 3, 2, 2))
    for form, expected in {"both": (True, True), "state": (True, False), "target": (False, True)}.items():
        found = noises(noise, mfam, CONFIG.model_copy(update={"form": form}))
        assert tuple(bool(each.any()) for each in found) == expected
    assert all(each is noise for each in noises(noise, None, CONFIG))


def test_keys_and_values_are_weighed_only_while_attached():
    network, mfam = unet().eval(), torch.rand(32, 32)
    modulation = KeyValueModulation(network, 2.0, seed=0)
    assert len(modulation.embeddings) == 4, "one down, one in the middle, two up"
    state, time = torch.randn(1, 3, 32, 32), torch.tensor([10])
    plain = network(state, time).sample
    with modulation.attached(mfam):
        changed = network(state, time).sample
        changed.sum().backward()
    assert not torch.allclose(changed, plain)
    assert all(weight.grad is not None for weight in modulation.parameters())
    assert torch.equal(network(state, time).sample, plain)
    with modulation.attached(None):
        assert torch.equal(network(state, time).sample, plain)
    assert not any("embedding" in name for name in network.state_dict() if "time" not in name)


def test_tokens_lie_on_the_images_grid():
    assert token_grid(16, 32, 32) == (4, 4) and token_grid(8, 64, 32) == (4, 2)
    with pytest.raises(ConfigRefused, match="17 tokens"):
        token_grid(17, 32, 32)


def test_the_result_is_a_stock_pipeline(refined):
    from diffusers import DDIMPipeline, DDPMPipeline

    assert len(refined.losses) == 6 and refined.maps == 2 and np.isfinite(refined.losses).all()
    pipeline = DDPMPipeline.from_pretrained(refined.folder)
    assert type(pipeline.unet).__name__ == "UNet2DModel"
    assert set(pipeline.unet.state_dict()) == set(unet().state_dict())
    fast = DDIMPipeline.from_pretrained(refined.folder)
    fast.set_progress_bar_config(disable=True)
    drawn = fast(generator=torch.Generator().manual_seed(1), num_inference_steps=2, output_type="np").images
    assert drawn.shape == (1, 32, 32, 3)


def test_a_killed_run_goes_on_as_if_undisturbed(images, tmp_path, refined):
    def stop(done, total, message="", **figures):
        if message == "refining" and done == 5:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        refine(CONFIG, unet(), images, tmp_path, stop)
    again = refine(CONFIG, unet(), images, tmp_path)
    assert again.losses == pytest.approx(refined.losses, rel=1e-6) and again.maps == refined.maps
    with pytest.raises(ConfigRefused, match="other settings"):
        refine(CONFIG.model_copy(update={"forward": 0.5}), unet(), images, tmp_path)


def test_the_base_phase_is_ordinary_training(images, tmp_path, refined):
    base = refine(CONFIG.model_copy(update={"refinement": 0.0}), unet(), images, tmp_path)
    assert base.losses[:3] == pytest.approx(refined.losses[:3], rel=1e-6) and base.maps == 0
    assert base.losses[3:] != pytest.approx(refined.losses[3:], rel=1e-6)
    with pytest.raises(ConfigRefused, match=r"\(16, 16, 3\)"):
        refine(CONFIG, unet(), images[:, :16, :16], tmp_path / "other")
