"""Settings of the recipe that trains the embedded clinic's models (torch-free)."""

from typing import Literal

from pydantic import Field

from dataengine.config import Config
from dataengine.records import OperatingPoint

Part = Literal[
    "autoencoder",
    "trunk",
    "generator",
    "twin",
    "judge",
    "teacher",
    "first_doctor",
    "readers",
    "stable_diffusion",
]
JUDGE_THRESHOLD = 0.5
"""Confidence of the judge from which an image truly shows an artifact."""
FIRST_POINT = OperatingPoint(
    flagged=0.47414253652095795,
    component=0.4372549019607843,
    rule="false alarms at 0.9 recall",
    flawed=153,
    clean=247,
    interval=(0.16609597206115723, 0.6333064138889313),
)
"""The shipped detector's, as the demo's data computes it: half a minute that nobody needs to spend."""
PARTS: tuple[Part, ...] = (
    "autoencoder",
    "trunk",
    "generator",
    "twin",
    "judge",
    "teacher",
    "first_doctor",
    "readers",
    "stable_diffusion",
)


class PartConfig(Config):
    """The training schedule and data of one model."""

    steps: int = Field(gt=0)
    """Number of updates. A part that continues another (`generator`, `twin`) counts from the other's last
    update."""
    batch: int = Field(gt=0)
    """Drawings per update."""
    drawings: int = Field(gt=0)
    """Number of drawings rendered for training, from the start of the stream; batches are sampled from
    them."""
    seed: int
    """Seed of the weights, the batches and the noise."""


class BuildConfig(Config):
    """The whole recipe. The defaults made the shipped weights on two CPU cores."""

    device: str = "cpu"
    """`cpu`, or a CUDA device such as `cuda:0`."""
    parts: tuple[Part, ...] = PARTS
    """Models to train, in this order. A model that they build on must be trained already or come earlier in
    the list.
    """
    checkpoint_seconds: float = Field(default=120.0, gt=0)
    """Seconds between checkpoints: the most work that a kill can lose."""
    autoencoder: PartConfig = PartConfig(steps=1500, batch=16, drawings=16000, seed=1)
    """The VAE that both generator families share."""
    trunk: PartConfig = PartConfig(steps=1900, batch=24, drawings=30000, seed=2)
    """The tiny FLUX on clean drawings, before it branches."""
    generator: PartConfig = PartConfig(steps=1500, batch=24, drawings=30000, seed=3)
    """The shipped tiny FLUX: the trunk, continued on drawings with artifacts."""
    twin: PartConfig = PartConfig(steps=1500, batch=24, drawings=30000, seed=3)
    """The clean twin: the trunk, continued for as long on the same drawings without artifacts."""
    judge: PartConfig = PartConfig(steps=2400, batch=32, drawings=16000, seed=4)
    """The oracle that measures the true artifact frequency."""
    teacher: PartConfig = PartConfig(steps=1900, batch=32, drawings=9000, seed=5)
    """The oracle that stands in for people."""
    first_doctor: PartConfig = PartConfig(steps=3000, batch=32, drawings=8000, seed=6)
    """The first detector, trained on imbalanced data."""
    readers: PartConfig = PartConfig(steps=900, batch=32, drawings=9000, seed=7)
    """The classifier behind categories, attributes and plausibility."""
    stable_diffusion: PartConfig = PartConfig(steps=3300, batch=16, drawings=30000, seed=8)
    """The tiny Stable Diffusion's UNet."""
