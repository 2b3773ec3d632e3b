"""Settings of correction and guidance while sampling (torch-free)."""

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from dataengine.config import Config
from dataengine.diagnosis.config import DynamicsConfig
from dataengine.treatment.config import RegionConfig, RewardConfig

CORRECTION_WINDOW = DynamicsConfig(stop=0.48, dilation=5 / 256)
"""Score dynamics for correction: T_c = 0.48, and the released code's growth of regions, 5 pixels at 256."""


class CorrectionConfig(Config):
    """Correction during sampling (ASCED): artifacts in the predicted image are regenerated."""

    method: Literal["ttc", "replacement", "clipping", "sargd"] = "ttc"
    """Trajectory-aware targeted correction (TTC): the region restarts from x̂0 with added noise (Eq. 6).
    State replacement: from x̂0 of an earlier step. Score clipping: changes of the score are limited to the
    threshold. SARGD, adapted: from the start of the window, the region is held to the first x̂0."""

    regions: Literal["dynamics", "detector", "everywhere"] = "dynamics"
    """Source of the regions: score dynamics, the trained detector on x̂0, or the whole image, as a
    control."""

    dynamics: DynamicsConfig = CORRECTION_WINDOW
    """The window and the detection of regions in it. Its end is T_c, 0.48 by our reading of the paper: the
    last level at or above it is the one whose state is replaced, before the model is asked there."""

    repeated: bool = False
    """TTC and state replacement: correct at every step of the window but its first, not only at its end
    (ours). The window can then start early, while the content is still open, and end late, since remaining
    artifacts are corrected again."""

    gamma: float = Field(default=0.2, ge=0)
    """TTC: strength γ of the noise added to x̂0. 0.2 is ours; the released code has 0, and the paper's value
    is lost."""

    reverse_step: int = Field(default=1, ge=1)
    """TTC: number of steps back to the x̂0 that is used; 1, ours, is the step just done."""

    correct_eta: float = Field(default=0.0, ge=0, le=1)
    """TTC: DDIM's η of the step at T_c alone, as in the released code; all others have η = 0. 0 is ours;
    above it noise is added to images without regions too."""

    earlier: int = Field(default=2, ge=1)
    """State replacement: number of steps back to the x̂0 that is used; 2 is ours, 1 is the step just done."""

    threshold: float = Field(default=0.5, gt=0, lt=1)
    """Confidence of the detector from which a pixel belongs to a region."""

    cover: float = Field(default=0.5, gt=0, le=1)
    """Images whose regions cover more than this share are not corrected: the fault is not local, and
    regenerating everything gives as many artifacts as before. This limit is ours; 1 turns it off."""

    seed: int = Field(default=0, ge=0)
    """Varies the noise of the correction, which otherwise depends on each image's seed alone."""

    @field_validator("dynamics", mode="before")
    @classmethod
    def _for_correction(cls, given: Any) -> Any:
        """Settings of the window that are not given are those of a correction, not of a map."""
        return CORRECTION_WINDOW.model_dump() | given if isinstance(given, dict) else given

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.method == "clipping" and self.dynamics.space == "pixel":
            raise ValueError("score clipping works on changes of the latents: set dynamics.space=latent")
        if self.method == "sargd" and self.regions == "dynamics":
            raise ValueError("SARGD needs a trained detector: set regions=detector")
        if self.repeated and self.method in ("clipping", "sargd"):
            raise ValueError(f"{self.method} already works at every step of the window: set repeated=false")
        if self.repeated and self.regions == "dynamics":
            raise ValueError(
                "score dynamics would detect each correction as an artifact: to repeat, set regions=detector"
            )
        return self

    @property
    def needs_detector(self) -> bool:
        """Whether a trained detector is needed."""
        return self.regions == "detector"

    @property
    def every_step(self) -> bool:
        """Whether every step of the window after its first is corrected, not T_c alone."""
        return self.repeated or self.method == "sargd"

    @property
    def steps_back(self) -> int:
        """Number of steps from a correction back to the x̂0 that it starts from."""
        return {"ttc": self.reverse_step, "replacement": self.earlier}.get(self.method, 1)


class SafeConfig(Config):
    """Safe Latent Diffusion (Schramowski et al. 2023): sampling is guided away from a concept."""

    concept: str = Field(
        default="violence, blood, gore, nudity, sexual acts, hate, cruelty, self-harm, weapons, drugs",
        min_length=1,
        max_length=1000,
    )
    """The concept in words. The default list is ours."""

    scale: float = Field(default=500.0, ge=0)
    """Scale s_S of the element-wise weights (Focus-N-Fix: 500); 0 turns the guidance off."""

    threshold: float = Field(default=0.03, ge=0)
    """Threshold λ: values whose noise differs by more from the concept's stay (Focus-N-Fix: 0.03)."""

    warmup: int = Field(default=10, ge=0)
    """Steps before the guidance begins (the method's medium preset)."""

    momentum: float = Field(default=0.3, ge=0, le=1)
    """Scale of the momentum (the method's medium preset)."""

    decay: float = Field(default=0.4, ge=0, lt=1)
    """Decay of the momentum (the method's medium preset)."""


class GuidanceConfig(Config):
    """Guidance without training: a detector, a reward or a concept shifts the sampling steps."""

    kind: Literal["clean", "reward", "safe"] = "clean"
    """"clean": the gradient passes through VAE and detector only, and moves the next latents. "reward": it
    passes through the denoiser as well, and changes the predicted noise (Focus-N-Fix's baseline). "safe":
    Safe Latent Diffusion, away from a concept, for noise prediction with guidance above 1; needs no
    detector."""

    safe: SafeConfig | None = None
    """Settings of "safe"; null uses the defaults."""

    reward: RewardConfig | None = None
    """The reward to raise, for "reward"; without one the detector's mean squared confidence is lowered, as
    always for "clean"."""

    region: RegionConfig | None = None
    """Guide only inside the detector's regions of x̂0."""

    start: float = Field(default=0.8, gt=0, lt=1)
    """Start of guidance, from noise = 1 to image = 0 (the paper's step 10 of 50)."""

    stop: float = Field(default=0.0, ge=0, lt=1)
    """End of guidance on the same scale."""

    strength: float = Field(default=25.0, gt=0)
    """"clean": length λ of the shift at the first step, for FLUX latents at 1024 × 1024; scaled to the same
    shift per value for other sizes."""

    last_strength: float = Field(default=1.0, ge=0)
    """"clean": λ at the last step; in between λ falls quadratically."""

    scale: float = Field(default=2.0, gt=0)
    """"reward": λ of ε̂ = ε − λ·σ_t·∇r."""

    clip_norm: float = Field(default=2.0, gt=0)
    """"reward": each image's gradient is scaled down to this norm."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.start <= self.stop:
            raise ValueError(
                f"guidance runs from start {self.start} down to stop {self.stop}; stop must be lower"
            )
        if self.kind == "safe" and self.region is not None:
            raise ValueError("safe latent diffusion has no regions: remove region, or choose another kind")
        if self.safe is not None and self.kind != "safe":
            raise ValueError("the settings in safe are for safe latent diffusion: set kind=safe")
        if self.reward is not None and self.kind != "reward":
            raise ValueError("a reward guides through the denoiser: set kind=reward")
        if self.region is not None and self.region.map != "detector":
            raise ValueError("guidance takes its regions from the detector: set region.map=detector")
        return self

    @property
    def needs_detector(self) -> bool:
        """Whether a trained detector is needed."""
        return self.kind != "safe" and (self.reward is None or self.region is not None)
