"""Calibration: are 7 of 10 pixels with confidence 0.7 truly flawed? (Guo et al. 2017)

One temperature is fitted on validation and recorded with the detector. It changes no map: treatment depends
on the detector's gradient, which a temperature would rescale.
"""

from dataclasses import dataclass

import numpy as np

from dataengine.diagnosis.dataset import Samples
from dataengine.diagnosis.detector import Detector, artifact_maps
from dataengine.errors import InputRefused
from dataengine.records import THRESHOLD, Report, no_report

BINS = 15
LEVELS = 1024
CLAMP = 1e-6
RANGE = (0.05, 20.0)
TOLERANCE = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class Reliability:
    """A reliability diagram: pixels by confidence, in `BINS` equal bins of [0, 1]."""

    pixels: list[int]
    confidence: list[float]
    """Mean confidence in each bin; the bin's centre where it is empty."""
    flawed: list[float]
    """Share of truly flawed pixels in each bin; 0 where it is empty."""
    error: float
    """Expected calibration error: mean over pixels of |confidence − share flawed| of their bin."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """A fitted temperature, and the reliability of a held-out set without and with it."""

    temperature: float
    before: Reliability
    after: Reliability


@dataclass(frozen=True, slots=True)
class Histogram:
    """Pixel counts by level of confidence, int64 (LEVELS,): truly flawed pixels and the others."""

    flawed: np.ndarray
    clean: np.ndarray

    @property
    def levels(self) -> np.ndarray:
        """The confidence at the centre of each level."""
        return (np.arange(LEVELS) + 0.5) / LEVELS


def calibrate(
    detector: Detector, validation: Samples, held_out: Samples | None = None, report: Report = no_report
) -> Calibration:
    """Fit on `validation`; the diagrams are of `held_out`, or of `validation` without one.

    Raises `InputRefused` for an empty set, and when validation has only flawed or only clean pixels.
    """
    fitted_on = count_levels(detector, validation, report)
    temperature = fit_temperature(fitted_on)
    shown = fitted_on if held_out is None else count_levels(detector, held_out, report)
    return Calibration(
        temperature=temperature,
        before=measure_reliability(shown),
        after=measure_reliability(shown, temperature),
    )


def count_levels(
    detector: Detector, samples: Samples, report: Report = no_report, batch: int = 32
) -> Histogram:
    """Count the pixels of all samples by confidence. A pixel is flawed if its target is at least
    `THRESHOLD`."""
    if len(samples) == 0:
        raise InputRefused("there are no images to calibrate on; label validation images first")
    counts = np.zeros((2, LEVELS), dtype=np.int64)
    for first in range(0, len(samples), batch):
        chunk = [samples.sample(index) for index in range(first, min(first + batch, len(samples)))]
        for sample, map_ in zip(
            chunk, artifact_maps(detector, [sample.image for sample in chunk], batch), strict=True
        ):
            level = np.minimum((map_ * LEVELS).astype(np.int64), LEVELS - 1)
            for row, pixels in enumerate(
                (level[sample.target < THRESHOLD], level[sample.target >= THRESHOLD])
            ):
                counts[row] += np.bincount(pixels, minlength=LEVELS)
        report(first + len(chunk), len(samples), "calibrating")
    return Histogram(flawed=counts[1], clean=counts[0])


def fit_temperature(histogram: Histogram) -> float:
    """The T that minimises the negative log-likelihood of σ(logit / T), by a bounded search over log T.

    Raises `InputRefused` when the pixels are all flawed or all clean: T is then undetermined.
    """
    from scipy.optimize import minimize_scalar

    if not histogram.flawed.any() or not histogram.clean.any():
        raise InputRefused(
            "calibration needs flawed and clean pixels; label validation images of both kinds first"
        )
    best = minimize_scalar(
        lambda log_temperature: _likelihood_loss(histogram, np.exp(log_temperature)),
        bounds=np.log(RANGE),
        method="bounded",
        options={"xatol": TOLERANCE},
    )
    return float(np.exp(best.x))


def apply_temperature(confidence: np.ndarray, temperature: float) -> np.ndarray:
    """σ(logit(confidence) / T), float64 in [0, 1]."""
    clipped = np.clip(np.asarray(confidence, dtype=np.float64), CLAMP, 1 - CLAMP)
    logits = np.log(clipped) - np.log1p(-clipped)
    return 1 / (1 + np.exp(-logits / temperature))


def measure_reliability(histogram: Histogram, temperature: float = 1.0) -> Reliability:
    """The diagram and its expected calibration error."""
    confidence = apply_temperature(histogram.levels, temperature) if temperature != 1 else histogram.levels
    pixels = histogram.flawed + histogram.clean
    number = np.minimum((confidence * BINS).astype(int), BINS - 1)
    totals = np.bincount(number, pixels, BINS)
    sums = np.bincount(number, pixels * confidence, BINS)
    flawed = np.bincount(number, histogram.flawed, BINS)
    middles = (np.arange(BINS) + 0.5) / BINS
    filled = np.maximum(totals, 1)
    return Reliability(
        pixels=[int(total) for total in totals],
        confidence=np.where(totals > 0, sums / filled, middles).tolist(),
        flawed=(flawed / filled).tolist(),
        error=float(np.abs(sums - flawed).sum() / max(totals.sum(), 1)),
    )


def reliability_svg(calibration: Calibration) -> str:
    """Both reliability diagrams as one SVG: the nearer to the diagonal, the better calibrated."""
    side, margin = 300, 40
    shapes = [
        f'<rect x="{margin}" y="{margin}" width="{side}" height="{side}" fill="none" stroke="#888"/>',
        f'<path d="M{margin} {margin + side}L{margin + side} {margin}" stroke="#888" stroke-dasharray="4"/>',
    ]
    for row, (name, bins, colour) in enumerate(
        (
            ("uncalibrated", calibration.before, "#c2410c"),
            (f"T = {calibration.temperature:.2f}", calibration.after, "#0369a1"),
        )
    ):
        points = [
            (margin + side * confidence, margin + side * (1 - flawed))
            for confidence, flawed, pixels in zip(bins.confidence, bins.flawed, bins.pixels, strict=True)
            if pixels
        ]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        shapes.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        shapes += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
        label = f"{name}: error {bins.error:.4f}"
        shapes.append(f'<text x="{margin + 8}" y="{margin + 18 + 16 * row}" fill="{colour}">{label}</text>')
    whole, middle = side + 2 * margin, margin + side / 2
    shapes += [
        f'<text x="{middle}" y="{whole - 12}" text-anchor="middle" fill="#888">confidence</text>',
        f'<text transform="translate(16 {middle}) rotate(-90)" text-anchor="middle" fill="#888">'
        "share of flawed pixels</text>",
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {whole} {whole}" font-family="sans-serif" '
        f'font-size="12">{"".join(shapes)}</svg>\n'
    )


def _likelihood_loss(histogram: Histogram, temperature: float) -> float:
    q = np.clip(apply_temperature(histogram.levels, temperature), 1e-12, 1 - 1e-12)
    return float(-(histogram.flawed * np.log(q) + histogram.clean * np.log1p(-q)).sum())
