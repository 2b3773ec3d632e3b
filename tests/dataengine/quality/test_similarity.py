"""PSNR and SSIM against hand-computed values and known properties."""

import numpy as np
import pytest

from dataengine.errors import ImageRefused
from dataengine.quality.similarity import psnr, ssim

RNG = np.random.default_rng(1)
IMAGES = RNG.integers(0, 256, size=(3, 24, 24, 3), dtype=np.uint8)


def test_psnr_by_hand():
    black = np.zeros((2, 4, 4, 3), dtype=np.uint8)
    other = black.copy()
    other[1] = 51
    assert psnr(black, other)[0] == np.inf
    assert psnr(black, other)[1] == pytest.approx(-10 * np.log10(0.2**2))


def test_ssim_of_itself_is_one_and_of_its_negative_is_low():
    assert ssim(IMAGES, IMAGES) == pytest.approx(np.ones(3))
    assert (ssim(IMAGES, 255 - IMAGES) < 0).all()


def test_ssim_of_flat_images_by_hand():
    """Without variance only the luminance term is left."""
    a, b = np.full((1, 16, 16, 3), 51, np.uint8), np.full((1, 16, 16, 3), 102, np.uint8)
    assert ssim(a, b)[0] == pytest.approx((2 * 0.2 * 0.4 + 1e-4) / (0.04 + 0.16 + 1e-4))


def test_ssim_falls_with_noise():
    noisy = [
        np.clip(IMAGES + RNG.normal(scale=scale, size=IMAGES.shape), 0, 255).astype(np.uint8)
        for scale in (5, 20, 60)
    ]
    means = [ssim(IMAGES, other).mean() for other in noisy]
    assert means == sorted(means, reverse=True) and means[0] > 0.95


def test_unlike_shapes_and_tiny_images_are_refused():
    with pytest.raises(ImageRefused, match="equal"):
        psnr(IMAGES, IMAGES[:2])
    with pytest.raises(ImageRefused, match="window"):
        ssim(IMAGES[:, :8], IMAGES[:, :8])
