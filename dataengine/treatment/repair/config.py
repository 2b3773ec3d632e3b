"""Settings of a repair."""

from typing import Self

from pydantic import Field, model_validator

from dataengine.config import Config


class RepairConfig(Config):
    """Which artifacts of an image are redrawn, and how."""

    least: float = Field(default=0.0005, ge=0, lt=1)
    """Smallest area of an artifact, as a share of the image; smaller ones are left alone."""

    largest: float = Field(default=0.6, gt=0, le=1)
    """Largest area of an artifact, and of all grown regions together, as a share of the image. Beyond it a
    repair would redraw the image: generate it again instead."""

    count: int = Field(default=8, ge=1)
    """Number of artifacts redrawn in an image, those with the most confidence first."""

    grow: float = Field(default=0.12, ge=0, le=0.5)
    """Margin around an artifact that is redrawn with it, as a share of the image's shorter side."""

    context: float = Field(default=3.0, ge=1)
    """Sides of the crop that the generator sees, as a factor of the region's."""

    zoom: float = Field(default=2.0, ge=1)
    """How many times a crop may be enlarged to the generator's own size: small regions get more detail, and
    beyond it the crop shows more of the image instead."""

    strength: float = Field(default=1.0, gt=0, le=1)
    """Noise from which a region is redrawn, from 0 for none to 1. Redraws from 0.48 came out flawed again in
    five of six, so the default is high, unlike other tools' 0.4."""

    repeats: int = Field(default=3, ge=1)
    """RePaint's repetitions of each step, which fit the redrawn part to its surroundings."""

    draws: int = Field(default=4, ge=1)
    """Candidates of each region; the one with the lowest confidence of both detectors is kept."""

    feather: float = Field(default=0.35, ge=0, le=1)
    """Width of the transition at a region's edge, as a share of `grow`'s margin."""

    blend: float = Field(default=1.0, ge=0)
    """Width in latents of the transition around a region while it is redrawn."""

    seed: int = Field(default=0, ge=0)
    """Random seed of the candidates."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.least >= self.largest:
            raise ValueError(f"least {self.least:g} must be below largest {self.largest:g}")
        return self
