"""Settings of injected artifacts."""

from typing import Self

from pydantic import Field, model_validator

from dataengine.config import Config
from dataengine.records import INJECTION_KINDS, InjectionKind


class InjectionConfig(Config):
    """Which artifacts are injected into a clean image, and how large they are."""

    kinds: tuple[InjectionKind, ...] = Field(default=INJECTION_KINDS, min_length=1)
    """Kinds of artifacts: "warp" (locally bent), "double" and "fuse" (a part repeated or grown into its
    neighbour), "tear" (shuffled texture), "glyphs" (strokes that are no writing), "watermark", "seam" (a
    shifted part with a visible edge), "smooth" (locally without detail). Each image gets one.
    Only operations on pixels have kinds."""

    least: float = Field(default=0.1, gt=0, le=1)
    """Shortest side of a region, as a share of the image's shorter side."""

    most: float = Field(default=0.5, gt=0, le=1)
    """Longest side of a region, as a share of the image's shorter side."""

    visible: float = Field(default=0.3, ge=0, le=1)
    """Share of the region's pixels that must change by more than 4 of 255 levels; otherwise another place is
    tried, and after ten the image is left out."""

    seed: int = Field(default=0, ge=0)
    """Random seed; an image's artifact depends on it and on the image's id, not on the order."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.least > self.most:
            raise ValueError(f"least {self.least:g} must not be above most {self.most:g}")
        if len(set(self.kinds)) < len(self.kinds):
            raise ValueError(f"kinds {', '.join(self.kinds)} repeat one another; name each once")
        return self


class RedrawConfig(Config):
    """How a generator redraws a region of a clean image: short and noisy, so that it comes out flawed (arXiv
    2509.19589)."""

    steps: int = Field(default=6, ge=1)
    """Denoising steps of a whole chain; few leave flaws."""

    strength: float = Field(default=1.0, gt=0, le=1)
    """Noise from which the region is redrawn, from 0 for none to 1 for noise alone: the lower, the closer to
    the clean image."""

    excess: float = Field(default=2.0, ge=0)
    """Noise added after each step beyond what its level says, as a multiple of that level's. With 0 the
    generator redraws as well as it can, and most regions come out without a flaw."""

    guidance: float | None = Field(default=None, ge=0)
    """Guidance scale; null for the generator's own."""

    batch: int = Field(default=8, ge=1)
    """Images per batch."""

    @model_validator(mode="after")
    def _some_step(self) -> Self:
        if self.steps * self.strength < 1:
            raise ValueError(
                f"strength {self.strength:g} leaves none of {self.steps} steps; raise one of them until "
                "their product is 1 or more"
            )
        return self
