"""Similarity of image pairs: PSNR and SSIM, in NumPy."""

import numpy as np
from numpy.typing import NDArray

from dataengine.errors import ImageRefused

Scores = NDArray[np.float64]


def psnr(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> Scores:
    """Peak signal-to-noise ratio in dB of uint8 NHWC pairs, shape (N,); infinite for equal images."""
    a, b = _pairs(first, second)
    error = ((a - b) ** 2).mean(axis=(1, 2, 3))
    with np.errstate(divide="ignore"):
        return -10 * np.log10(error)


def ssim(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> Scores:
    """Structural similarity in [-1, 1] of uint8 NHWC pairs, shape (N,), averaged over channels.

    Wang et al. 2004: Gaussian window of 11 pixels with σ = 1.5, K1 = 0.01, K2 = 0.03; borders that the window
    does not cover are excluded. Raises `ImageRefused` for images smaller than the window.
    """
    from scipy import ndimage

    a, b = _pairs(first, second)
    if min(a.shape[1:3]) < 11:
        raise ImageRefused(f"images of {a.shape[1]}×{a.shape[2]} are smaller than SSIM's window of 11 pixels")

    def blur(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return ndimage.gaussian_filter(values, sigma=(0, 1.5, 1.5, 0), truncate=3.5)[:, 5:-5, 5:-5]

    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    scores = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    scores /= (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    return scores.mean(axis=(1, 2, 3))


def _pairs(
    first: NDArray[np.uint8], second: NDArray[np.uint8]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if first.shape != second.shape or first.ndim != 4:
        raise ImageRefused(f"expected pairs of equal NHWC shape, got {first.shape} and {second.shape}")
    return first / 255.0, second / 255.0
