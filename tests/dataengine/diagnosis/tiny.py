"""Detectors small enough for tests, and examples with an artifact that is easy to see."""

import numpy as np

from dataengine.diagnosis.config import DetectorConfig
from dataengine.diagnosis.dataset import MemorySamples, Sample
from dataengine.records import SampleKind

SIDE = 32
KINDS: tuple[SampleKind, ...] = ("true", "pseudo", "real", "previous")

SEGFORMER = DetectorConfig(
    name="tiny segformer",
    size=SIDE,
    segformer={
        "hidden_sizes": [8, 8, 16, 16],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 1, 2, 2],
        "patch_sizes": [5, 3, 3, 3],
        "strides": [2, 2, 2, 2],
        "mlp_ratios": [2, 2, 2, 2],
        "decoder_hidden_size": 16,
        "classifier_dropout_prob": 0.1,
    },
)
UNET = DetectorConfig(
    name="tiny unet",
    architecture="unet",
    encoder="resnet18",
    size=SIDE,
    options={"encoder_depth": 3, "decoder_channels": (8, 8, 8)},
)


def example(index: int, side: int = SIDE) -> Sample:
    """Grey noise; every other one carries a red square that its target marks."""
    rng = np.random.default_rng(index)
    image = rng.integers(60, 120, (side, side, 3), dtype=np.uint8)
    target = np.zeros((side, side), np.float32)
    kind = KINDS[index // 2 % 4]
    if index % 2 and kind != "real":
        y, x = rng.integers(0, side // 2, 2)
        image[y : y + side // 2, x : x + side // 2] = (230, 40, 40)
        target[y : y + side // 2, x : x + side // 2] = 1
    return Sample(
        image=image,
        target=target,
        kind=kind,
        category="hand" if index % 3 else "tree",
        max_confidence=0.9 if target.any() else 0.1,
    )


def examples(count: int = 48) -> MemorySamples:
    """The first `count` examples."""
    return MemorySamples([example(index) for index in range(count)])
