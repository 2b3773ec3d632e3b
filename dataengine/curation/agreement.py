"""Agreement between annotators' masks of one image, and the merging of several masks. NumPy only."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from dataengine.errors import MaskRefused


@dataclass(frozen=True, kw_only=True, slots=True)
class PairAgreement:
    """Overlap of two annotations, named by their positions; both figures are 1 when both are "clean"."""

    first: int
    second: int
    iou: float
    dice: float


def pairwise(label_maps: Sequence[NDArray[np.uint8]]) -> list[PairAgreement]:
    """Overlap of every pair of uint8 HW label maps; any class counts as artifact.

    Raises `MaskRefused` when sizes differ.
    """
    masks = [label_map > 0 for label_map in _alike(label_maps)]
    return [
        PairAgreement(first=i, second=j, iou=iou(masks[i], masks[j]), dice=dice(masks[i], masks[j]))
        for i, j in combinations(range(len(masks)), 2)
    ]


def iou(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Intersection over union; 1 when both are empty."""
    union = np.count_nonzero(first | second)
    return 1.0 if union == 0 else float(np.count_nonzero(first & second) / union)


def dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Twice the intersection over the sum of areas; 1 when both are empty."""
    areas = np.count_nonzero(first) + np.count_nonzero(second)
    return 1.0 if areas == 0 else float(2 * np.count_nonzero(first & second) / areas)


def majority(label_maps: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Merge label maps by majority: marked where more than half of the annotations mark, with the most
    frequent class.

    Ties between classes go to the lower number. Raises `MaskRefused` without annotations or when sizes
    differ.
    """
    stacked = np.stack(_alike(label_maps))
    marked = 2 * np.count_nonzero(stacked, axis=0) > len(stacked)
    classes = np.unique(stacked[stacked > 0])
    if len(classes) == 0:
        return np.zeros_like(stacked[0])
    votes = np.stack([np.count_nonzero(stacked == each, axis=0) for each in classes])
    return np.where(marked, classes[votes.argmax(axis=0)], 0).astype(np.uint8)


def soft_mean(label_maps: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Float32 HW in [0, 1]: the share of annotations that mark each pixel, with any class.

    Raises `MaskRefused` without annotations or when sizes differ.
    """
    return np.mean([label_map > 0 for label_map in _alike(label_maps)], axis=0, dtype=np.float32)


def _alike(label_maps: Sequence[NDArray[np.uint8]]) -> Sequence[NDArray[np.uint8]]:
    sizes = {label_map.shape for label_map in label_maps}
    if len(sizes) != 1 or len(next(iter(sizes))) != 2:
        raise MaskRefused(
            f"label maps of sizes {sorted(map(str, sizes))} cannot be compared; pass label maps of one size"
        )
    return label_maps


def coincidences(label_maps: Sequence[NDArray[np.uint8]], classes: int) -> NDArray[np.float64]:
    """Krippendorff's coincidence matrix of two or more uint8 HW label maps, (classes + 1) square, symmetric.

    Every pixel is a unit and "none" a value of its own. Matrices of several images add up. Krippendorff,
    "Computing Krippendorff's Alpha-Reliability" (2011), nominal data: o_ck = Σ_u pairs_ck(u) / (m_u − 1).
    Raises `MaskRefused` when sizes differ.
    """
    maps, values = _alike(label_maps), classes + 1
    together = np.zeros((values, values))
    for first, second in combinations(maps, 2):
        pairs = first.astype(np.int64).ravel() * values + second.ravel()
        counts = np.bincount(pairs, minlength=values * values).reshape(values, values)
        together += counts + counts.T
    return together / (len(maps) - 1)


def krippendorff_alpha(together: NDArray[np.float64]) -> float | None:
    """Agreement beyond chance from a coincidence matrix (ibid., nominal): 1 is perfect, 0 is chance.

    None where it is not defined: nothing was compared, or only one value occurs.
    """
    totals = together.sum(axis=1)
    count = float(totals.sum())
    expected = count**2 - float((totals**2).sum())
    if expected <= 0:
        return None
    disagreeing = count - float(np.trace(together))
    return 1.0 - (count - 1) * disagreeing / expected
