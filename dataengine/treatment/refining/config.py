"""Settings of self-refining training (torch-free)."""

from typing import Literal

from pydantic import Field

from dataengine.config import Config
from dataengine.diagnosis.config import HighlighterConfig
from dataengine.treatment.config import Precision


class RefiningConfig(Config):
    """Self-refining training of a generator's whole denoiser."""

    steps: int = Field(default=500_000, ge=2)
    """Number of updates."""

    refinement: float = Field(default=0.5, ge=0, lt=1)
    """Share of the updates, at the end, that refine; 0 is ordinary training, for comparison."""

    forward: float | None = Field(default=None, ge=0)
    """λ of the noise, ε + λ·M; 0 turns it off. Defaults to 0.01 in pixels and 0 in latents, where the map
    does not apply."""

    reverse: float = Field(default=0.025, ge=0)
    """λ of keys and values, K·(1 + λ·M_emb); 0 turns it off."""

    form: Literal["both", "state", "target", "multiplied"] = "both"
    """Where the modulated noise is used: in x_t and the target (the paper), in the target only (the U-ViT
    repository), or in x_t only, as ε + λ·M ("state") or as ε·(1 + λ·M) ("multiplied", the Guided-Diffusion
    repository)."""

    cycle: int = Field(default=100, ge=1)
    """Updates between two mean flaw activation maps."""

    sample_steps: int = Field(default=250, ge=2)
    """DDIM steps of the images for the highlighter, the mean maps and the distances."""

    highlighted: int = Field(default=1000, ge=12)
    """Images of each class that the flaw highlighter is trained on when refinement begins."""

    highlighter: HighlighterConfig = HighlighterConfig()
    """Training of the flaw highlighter."""

    least_variation: float = Field(default=0.1, ge=0, le=1)
    """Share of the flaw maps' variance that lies between images, below which the result says that they mark
    the same place in every image."""

    measured: int = Field(default=200, ge=10)
    """Images of the model that are compared with held-out images, by KID."""

    measure_every: int = Field(default=1000, ge=1)
    """Updates of the refinement between two such measurements; the first is of the base phase."""

    patience: int = Field(default=3, ge=0)
    """Measurements in a row that may be worse than the best one before the training stops and the weights of
    the best are kept; 0 never stops."""

    batch: int = Field(default=64, ge=1, le=65_536)
    """Images per update, and per mean map."""

    lr: float = Field(default=1e-4, gt=0, le=1)
    """AdamW's learning rate."""

    dropped: float = Field(default=0.1, ge=0, lt=1)
    """Share of prompts dropped for classifier-free guidance; not used by unconditional models."""

    bound: float = Field(default=0.001, ge=0)
    """Weight of the variational bound if the network learns its variance (improved DDPM)."""

    precision: Precision = "float32"
    """Autocast of the denoiser; its weights stay in float32."""

    checkpointing: bool = False
    """Gradient checkpointing: recompute activations block by block. Saves memory, costs time."""

    ema: float = Field(default=0.9999, ge=0, lt=1)
    """Decay of the averaged weights, which are saved."""

    seed: int = Field(default=0, ge=0)
    """Random seed of order, noise, times and initial embedding weights."""

    checkpoint_every: int = Field(default=500, ge=1)
    """Updates between checkpoints: the most that a killed run repeats."""
