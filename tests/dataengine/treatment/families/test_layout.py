"""The arrangement of latents, learned from any path that is a permutation with scale and shift."""

import pytest
import torch

from dataengine.errors import ModelRefused
from dataengine.treatment.families.layout import Layout

SIDES = (4, 6)


def plain(latents):
    """NCHW with one scale and shift, as Stable Diffusion's."""
    return latents / 0.7 + 0.1


def packed(latents):
    """A sequence of 2 × 2 patches, with a mean and deviation for each channel."""
    n, _, channels = latents.shape
    rows, columns = SIDES[0] // 2, SIDES[1] // 2
    patches = latents.view(n, rows, columns, channels // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    flat = patches.reshape(n, channels // 4, *SIDES)
    return flat * torch.linspace(0.5, 2.0, channels // 4)[:, None, None] - 0.25


def frames(latents):
    """A video of one frame."""
    return plain(latents).unsqueeze(2)


def negated(latents):
    """A negative scale."""
    return -3.0 * latents


PATHS = {
    "plain": (plain, (1, 4, *SIDES)),
    "packed": (packed, (1, SIDES[0] * SIDES[1] // 4, 12)),
    "frames": (frames, (1, 4, *SIDES)),
    "negated": (negated, (1, 4, *SIDES)),
}


@pytest.mark.parametrize("name", list(PATHS))
def test_a_learned_layout_is_the_path(name):
    tail, shape = PATHS[name]
    layout = Layout.of(tail, torch.zeros(shape))
    inside = torch.randn(2, *shape[1:])
    assert torch.allclose(layout.for_vae(layout.outside(inside)), tail(inside), atol=1e-5)
    assert torch.equal(layout.inside(layout.outside(inside)), inside)
    assert layout.outside(inside).shape[2:] == SIDES
    ours = torch.randn(3, *layout.scale.shape)
    assert torch.allclose(layout.from_vae(layout.for_vae(ours)), ours, atol=1e-5)


def test_a_large_layout_is_exact():
    """Positions beyond what half of float32's digits hold."""
    swapped = torch.randperm(64 * 64 * 128, generator=torch.Generator().manual_seed(0))

    def tail(latents):
        return (latents.flatten(1)[:, swapped] * 0.3611 + 0.1159).view(1, 128, 64, 64)

    layout = Layout.of(tail, torch.zeros(1, 64 * 64, 128))
    assert torch.equal(layout.order.flatten(), swapped)


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        (lambda latents: latents.tanh(), "more than scale"),
        (lambda latents: latents + latents.flip(-1), "no permutation"),
        (lambda latents: latents.detach() * 2, "no permutation"),
        (lambda latents: latents[:, :2] * 2, "no permutation"),
        (lambda latents: latents * 0, "no permutation"),
    ],
    ids=["bent", "mixed", "detached", "cut", "lost"],
)
def test_another_path_is_refused(tail, message):
    with pytest.raises(ModelRefused, match=message):
        Layout.of(tail, torch.zeros(1, 4, *SIDES))
