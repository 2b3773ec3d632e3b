"""The paper's weak spots (ASCED, Sec. 4.2 and 5), for `bench-trainingfree`: low contrast, and what passes.

Twice each: on the generator's own flaws as the judge marks them, and on discs of exact contrast and duration
that are added to the 8-bit frames of clean images.
"""

from functools import partial
from pathlib import Path

import numpy as np
from scipy import ndimage

from dataengine.diagnosis.config import DynamicsConfig
from dataengine.diagnosis.dynamics import Dynamics, compute_dynamics
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.sampling.sampler import Stepper, generate
from dataengine.treatment.sampling.trajectory import Recorder
from tests.bench.detection_rows import generate_with_dynamics, threshold_of
from tests.bench.guided_sampling import (
    KEEPER,
    SAMPLING,
    SEED,
    SIZES,
    Generator,
    ImageRow,
    judge_confidence,
    prompts_of_row,
)
from tests.bench.harness import Figure, bootstrap, curve, device, figure, full, mean, quick, share
from tests.bench.treatment_rows import FLAWED, ClinicModels

FRAMES = 8 if quick() else 300 if full() else 100
"""Images whose frames are kept."""
PART = 8 if quick() else 50
PIXELS = DynamicsConfig(space="pixel")
"""The released rule, on 8-bit images."""
LATENT = "released"
RULES = ("released", "released, on 8-bit images")
CONTRASTS = (0, 4, 8, 16, 32, 64, 128)
"""Levels of 255 by which a disc is lighter or darker than what it covers."""
DURATIONS = (1, 2, 3)
"""Frames for which a transient disc is there."""
RADIUS = 6
"""Pixels of 64; its area of 113 lies within the rule's bounds."""
RING = 4
"""Pixels around a flaw that its colour is compared with."""
PARTS = ("low", "middle", "high")


def contrast_of(image: np.ndarray, flaw: np.ndarray) -> float:
    """Distance of the mean colours (RGB, 0 to 1) inside a flaw and in a ring around it; NaN without one."""
    ring = ndimage.binary_dilation(flaw, iterations=RING) & ~flaw
    if not flaw.any() or not ring.any():
        return float("nan")
    return float(np.linalg.norm(image[flaw].mean(0) - image[ring].mean(0)) / 255)


def contrasts(row: ImageRow) -> np.ndarray:
    """The contrast of each image's flaws by the judge, NaN for clean images."""
    masks = row.judged >= round(255 * FLAWED)
    return np.array([contrast_of(image, mask) for image, mask in zip(row.images, masks, strict=True)])


def low_contrast_figures(clinic: ClinicModels, name: str, base: Path) -> list[Figure]:
    """Recall of flawed images and of their pixels by the contrast of the flaws; thirds, and thresholds of all
    images, come from validation."""
    known = generate_with_dynamics(clinic, name, base, "validation", SIZES.validation)
    test = generate_with_dynamics(clinic, name, base, "evaluation", SIZES.accuracy)
    figures, (before, after) = [], (contrasts(row) for row in (known, test))
    if np.isnan(before).all():
        return [figure(f"recall_contrast_{name}", "not measured", note="no flawed validation image")]
    bounds = np.nanquantile(before, [1 / 3, 2 / 3])
    level, _ = threshold_of(known.extras[f"{LATENT}|strength"], known.flawed)
    marked = test.extras[f"{LATENT}|strength"] >= level
    masks = test.judged >= round(255 * FLAWED)
    for third, part in enumerate(PARTS):
        rows = ~np.isnan(after) & (np.digitize(after, bounds) == third)
        if not rows.any():
            continue
        note = (
            f"contrast {'below' if third < 2 else 'from'} {bounds[min(third, 1)]:.3f}; by strength, {LATENT}"
        )
        figures.append(
            share(f"recall_{part}_contrast_{name}", int(marked[rows].sum()), int(rows.sum()), note)
        )
        for number, rule in enumerate(RULES):
            inside = test.extras[f"{rule}|map"][rows] >= 128
            hits = (inside & masks[rows]).sum((1, 2)) / masks[rows].sum((1, 2))
            note = (
                f"share of the judge's pixels in regions; {rule}; they cover {inside.mean():.3f} of an image"
            )
            figures.append(mean(f"pixel_recall_{part}_contrast_{name}_{number}", hits, "share", note))
    return figures


def frames_of_row(clinic: ClinicModels) -> dict[str, np.ndarray]:
    """8-bit frames (images, steps, 3, H, W) of FLUX's window, and the judge's confidence in the end."""
    asked, sampling = (
        prompts_of_row("evaluation", FRAMES),
        SAMPLING["flux"].model_copy(update={"batch": PART}),
    )
    family = load_family(clinic.flux, device=device())

    def make(rows: range) -> dict[str, np.ndarray]:
        kept: list[KeepingFrames] = []

        def steppers(batch: slice) -> Stepper:
            kept.append(KeepingFrames(PIXELS))
            return kept[-1]

        texts, seeds = [asked[i].text for i in rows], [SEED["evaluation"] + i for i in rows]
        images = generate(family, texts, seeds, sampling, steppers=steppers)
        return {
            "frames": np.concatenate([each.frames() for each in kept]),
            "judged": judge_confidence(clinic, images),
        }

    parts = []
    for start in range(0, FRAMES, PART):
        rows = range(start, min(start + PART, FRAMES))
        settings = {"sampling": sampling, "dynamics": PIXELS, "base": Generator(clinic.flux).facts}
        parts.append(KEEPER.arrays(f"frames/{start}-{len(rows)}", partial(make, rows), settings))
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


class KeepingFrames(Recorder):
    """A recorder whose frames can be had."""

    def frames(self) -> np.ndarray:
        """(images, steps, channels, H, W)."""
        return np.stack(self._frames, axis=1)


def with_disc(
    frames: np.ndarray, centre: tuple[int, int], contrast: int, first: int, last: int
) -> tuple[np.ndarray, np.ndarray]:
    """Frames TCHW uint8 with a disc in the frames `first` to `last` - 1, and its mask HW.

    It is lighter than what it covers where that is dark on average, else darker.
    """
    rows, columns = np.indices(frames.shape[-2:])
    disc = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= RADIUS**2
    sign = 1 if frames[first][:, disc].mean() < 128 else -1
    changed = frames.astype(np.int16)
    changed[first:last, :, disc] += sign * contrast
    return changed.clip(0, 255).astype(np.uint8), disc


def disc_figures(clinic: ClinicModels) -> list[Figure]:
    """Share of discs that the regions hold by half or more, by contrast, and by the frames that they last."""
    row = frames_of_row(clinic)
    clean = row["frames"][row["judged"].max((1, 2)) < round(255 * FLAWED)]
    steps, side = clean.shape[1], clean.shape[-1]
    rng = np.random.default_rng(7)
    places = rng.integers(RADIUS + 2, side - RADIUS - 2, (len(clean), 2))
    # From the second frame on, so that its appearance is a change, and early enough for the longest to pass.
    starts = rng.integers(1, max(steps - max(DURATIONS), 2), len(clean))

    def found(contrast: int, duration: int | None) -> tuple[np.ndarray, np.ndarray]:
        """For each image: share of the disc in regions, and of the regions in the disc (NaN without)."""
        inside, right = [], []
        for frames, place, start in zip(clean, places, starts, strict=True):
            last = steps if duration is None else min(int(start) + duration, steps)
            changed, disc = with_disc(frames, (int(place[0]), int(place[1])), contrast, int(start), last)
            regions = compute_dynamics(changed, PIXELS).regions
            inside.append(regions[disc].mean())
            right.append(disc[regions].mean() if regions.any() else np.nan)
        return np.array(inside), np.array(right)

    figures, table = [], []
    for contrast in CONTRASTS:
        inside, right = found(contrast, None)
        hits = int((inside >= 0.5).sum())
        note = (
            f"stays to the end; precision of the regions {np.nanmean(right):.3f}"
            if not np.isnan(right).all()
            else "stays to the end; no regions"
        )
        figures.append(share(f"disc_found_{contrast}", hits, len(clean), note))
        table.append((contrast, "end", hits / len(clean), float(np.nanmean([0, *right]))))
    for duration in DURATIONS:
        inside, _ = found(64, duration)
        hits = int((inside >= 0.5).sum())
        note = (
            f"contrast 64, gone after {duration} frames, so that the final image has none: a false positive"
        )
        figures.append(share(f"disc_transient_{duration}", hits, len(clean), note))
        table.append((64, str(duration), hits / len(clean), float("nan")))
    names = ("contrast", "frames", "found", "precision")
    curve("trainingfree-discs", dict(zip(names, zip(*table, strict=True), strict=True)))
    return figures


def persistence_figures(clinic: ClinicModels) -> list[Figure]:
    """Precision, by the judge's pixels, of places that are abnormal in one step, in two and in more, and of
    those that still are in the window's last third."""
    row = frames_of_row(clinic)
    truth = row["judged"] >= round(255 * FLAWED)
    found: list[Dynamics] = [compute_dynamics(frames, PIXELS) for frames in row["frames"]]
    times = np.stack([each.abnormal.sum(0) for each in found])
    late = np.stack([each.abnormal[-max(len(each.abnormal) // 3, 1) :].any(0) for each in found])
    groups = {
        "one_step": times == 1,
        "two_steps": times == 2,
        "three_or_more": times >= 3,
        "late": late,
        "early_only": (times > 0) & ~late,
    }
    figures = []
    for name, places in groups.items():
        counts = np.stack([(places & truth).sum((1, 2)), places.sum((1, 2))], 1)
        if not counts[:, 1].sum():
            continue
        ratio = lambda rows: rows[:, 0].sum() / max(rows[:, 1].sum(), 1)  # noqa: E731
        note = f"{places.mean():.3f} of all places; chance {truth.mean():.3f}"
        figures.append(
            figure(
                f"abnormal_{name}_precision",
                ratio(counts),
                bootstrap(counts, ratio),
                "share",
                len(truth),
                note,
            )
        )
    return figures
