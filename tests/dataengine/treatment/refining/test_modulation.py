"""Keys and values are weighed in every self-attention, by every processor, only while the map is attached."""

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0, SlicedAttnProcessor

from dataengine.errors import ConfigRefused
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.refining.modulation import KeyValueModulation, self_attentions, token_grid
from tests.dataengine.treatment import tiny

MAKERS = {
    "ddpm": (tiny.ddpm, 4),
    "stable diffusion": (tiny.stable_diffusion, 4),
    "dit": (tiny.dit, 2),
}


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    return {name: load_family(make(tmp_path_factory.mktemp("m"))) for name, (make, _) in MAKERS.items()}


def answer(family):
    state, times = family.initial_latents([1], family.size), torch.tensor([10])
    return family.raw_output(state, times, family.encode_prompts([""]))


@pytest.mark.parametrize("kind", MAKERS)
def test_keys_and_values_are_weighed_only_while_attached(families, kind):
    family, mfam = families[kind], torch.rand(32, 32)
    modulation = KeyValueModulation(family.denoiser, 2.0, seed=0)
    assert len(modulation.embeddings) == MAKERS[kind][1]
    family.denoiser.requires_grad_(True)
    before, plain = set(family.denoiser.state_dict()), answer(family)
    with modulation.attached(mfam):
        changed = answer(family)
        changed.sum().backward()
    assert (changed - plain).abs().max() > 1e-6
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in modulation.parameters())
    assert torch.equal(answer(family), plain)
    with modulation.attached(None):
        assert torch.equal(answer(family), plain)
    assert set(family.denoiser.state_dict()) == before


@pytest.mark.parametrize("processor", [AttnProcessor(), AttnProcessor2_0(), SlicedAttnProcessor(1)])
def test_every_processor_is_reached_and_agrees(families, processor):
    family, mfam = families["stable diffusion"], torch.rand(32, 32)
    family.denoiser.set_attn_processor(AttnProcessor2_0())
    modulation = KeyValueModulation(family.denoiser, 2.0, seed=0)
    with torch.no_grad(), modulation.attached(mfam):
        expected = answer(family)
        family.denoiser.set_attn_processor(processor)
        assert torch.allclose(answer(family), expected, atol=1e-5)
    family.denoiser.set_attn_processor(AttnProcessor2_0())


def test_what_is_weighed_is_k_and_v_of_self_attention_alone(families):
    network, mfam = families["stable diffusion"].denoiser, torch.rand(32, 32)
    layers = self_attentions(network)
    cross = [layer for name, layer in network.named_modules() if name.endswith("attn2")]
    assert layers and cross and not {id(layer) for layer in layers} & {id(layer) for layer in cross}
    modulation = KeyValueModulation(network, 0.5, seed=0)
    tokens = torch.randn(1, 16, layers[0].to_k.in_features)
    plain = layers[0].to_k(tokens), layers[0].to_q(tokens)
    with modulation.attached(mfam):
        weighed = layers[0].to_k(tokens), layers[0].to_q(tokens)
    embedded = torch.nn.functional.interpolate(
        modulation.embeddings[0](mfam[None, None]), (4, 4), mode="bilinear"
    )
    assert torch.allclose(weighed[0], plain[0] * (1 + 0.5 * embedded.flatten()[None, :, None]), atol=1e-6)
    assert torch.equal(weighed[1], plain[1])


def test_networks_without_open_self_attention_are_refused(families):
    from diffusers import UNet2DModel

    bare = UNet2DModel(
        sample_size=8,
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        norm_num_groups=4,
        add_attention=False,
    )
    with pytest.raises(ConfigRefused, match="reverse=0"):
        KeyValueModulation(bare, 0.1, seed=0)
    assert not len(KeyValueModulation(bare, 0.0, seed=0).embeddings)
    network = families["dit"].denoiser
    self_attentions(network)[0].fused_projections = True
    with pytest.raises(ConfigRefused, match="unfuse"):
        KeyValueModulation(network, 0.1, seed=0)
    self_attentions(network)[0].fused_projections = False


def test_tokens_lie_on_the_images_grid():
    assert token_grid(16, 32, 32) == (4, 4) and token_grid(8, 64, 32) == (4, 2)
    with pytest.raises(ConfigRefused, match="17 tokens"):
        token_grid(17, 32, 32)
