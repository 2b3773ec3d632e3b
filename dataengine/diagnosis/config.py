"""Settings of the artifact detector and of its training (METHODS 1)."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from dataengine.config import Config

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

MIT: dict[str, dict[str, Any]] = {
    "b0": {"hidden_sizes": [32, 64, 160, 256], "depths": [2, 2, 2, 2], "decoder_hidden_size": 256},
    "b1": {"hidden_sizes": [64, 128, 320, 512], "depths": [2, 2, 2, 2], "decoder_hidden_size": 256},
    "b2": {"hidden_sizes": [64, 128, 320, 512], "depths": [3, 4, 6, 3], "decoder_hidden_size": 768},
    "b3": {"hidden_sizes": [64, 128, 320, 512], "depths": [3, 4, 18, 3], "decoder_hidden_size": 768},
    "b4": {"hidden_sizes": [64, 128, 320, 512], "depths": [3, 8, 27, 3], "decoder_hidden_size": 768},
    "b5": {"hidden_sizes": [64, 128, 320, 512], "depths": [3, 6, 40, 3], "decoder_hidden_size": 768},
}
"""SegFormer sizes (Xie et al. 2021, Table 6) as keyword arguments of transformers' `SegformerConfig`."""


class DetectorConfig(Config):
    """What a detector is made of; kept as `detector.json` beside its weights."""

    name: str = "detector"
    """Name shown to people."""

    architecture: str = "segformer"
    """"segformer" (transformers), or an architecture of segmentation-models-pytorch ("unet", "fpn",
    "deeplabv3plus", …; its own SegFormer is "smp-segformer")."""

    segformer: dict[str, Any] = Field(default_factory=lambda: dict(MIT["b5"]))
    """Keyword arguments of transformers' `SegformerConfig`; used by architecture "segformer" only."""

    encoder: str = "resnet34"
    """Encoder of a segmentation-models-pytorch architecture. Its `mit_*` encoders are under NVIDIA's
    non-commercial licence."""

    options: dict[str, Any] = Field(default_factory=dict)
    """Further keyword arguments of a segmentation-models-pytorch architecture."""

    classes: Literal[1] = 1
    """Output channels. The detector is class-agnostic: one confidence per pixel."""

    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Per-channel mean subtracted from RGB in [0, 1]."""

    std: tuple[float, float, float] = IMAGENET_STD
    """Per-channel deviation that RGB in [0, 1] is divided by."""

    size: int = Field(default=512, ge=16, le=2048)
    """Side in pixels of the square that the network sees, in training and in use."""

    fit: Literal["resize", "tiles"] = "resize"
    """How another size reaches the network: "resize" squeezes the whole image into the square, as the
    authors do; "tiles" keeps its scale and blends overlapping squares. The map has the image's size."""

    overlap: float = Field(default=0.25, ge=0, le=0.5)
    """Share of a tile's side that it has in common with its neighbour."""

    antialias: bool = True
    """Smooth before shrinking. The authors' inference does not, so the published checkpoint turns it off."""

    licence: str = "Apache-2.0"
    """Licence of the weights."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if min(self.std) <= 0:
            raise ValueError(f"std {self.std} must be positive")
        if self.architecture != "segformer" and self.size % 32:
            raise ValueError(
                f"size {self.size} must be a multiple of 32 for architecture {self.architecture!r}, "
                f"for example {-(-self.size // 32) * 32}"
            )
        return self


def published_config(variant: str = "b5") -> DetectorConfig:
    """The authors' detector: SegFormer of that variant at 512², ImageNet statistics (METHODS 1, C)."""
    return DetectorConfig(
        name=f"DiffDoctor mit-{variant}", segformer=dict(MIT[variant]), antialias=False, licence="unstated"
    )
