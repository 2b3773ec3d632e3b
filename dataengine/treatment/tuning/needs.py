"""What a class of generators needs on a device, predicted from its settings alone: for people who choose a
model or a card before they download anything."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dataengine.diagnosis.config import DetectorConfig
from dataengine.treatment.config import SamplingConfig, TreatmentConfig
from dataengine.treatment.tuning.estimate import GIGABYTE, fake_tensors, size_of_weights, stored_weights
from dataengine.treatment.tuning.moments import JUDGING, Peak, moments_of, predicting_bytes
from dataengine.treatment.tuning.weightless import family_of_configs

SIDES = (512, 1024)
PRECISIONS: tuple[tuple[str, int | None], ...] = (("bf16", None), ("4-bit", 4))
"""Of the denoiser's weights; all else but the VAE is bfloat16."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """Peak bytes on the device at one size and precision, one image at a time."""

    side: int
    precision: str
    drawing: int
    """All networks of the generator, text encoders included; prompts are encoded in pieces, as always."""
    diagnosing: int
    """The same with the detector beside them."""
    treating: int
    """The largest moment of a treatment with gradient checkpointing and text encoders away in updates."""
    moment: str
    """Which one that is."""

    @property
    def text(self) -> str:
        """For people."""
        drawn, diagnosed, treated = (
            f"{size / GIGABYTE:.1f}" for size in (self.drawing, self.diagnosing, self.treating)
        )
        return (
            f"{self.side}² {self.precision}: {drawn} GB to draw, {diagnosed} GB to diagnose, {treated} GB to "
            f"treat (most in {self.moment})"
        )


def predict_needs(
    kind: str, folder: Path, detector: DetectorConfig, sides: Sequence[int] = SIDES
) -> list[Need]:
    """The needs of a pipeline class with the settings in `folder` (see `weightless.family_of_configs`), whose
    images a detector of those settings diagnoses.

    Raises `ModelRefused` for settings that are missing or of another class, `ConfigRefused` for a size that
    the class does not draw.
    """
    return [need for side in sides for need in _at(kind, folder, detector, side)]


def _at(kind: str, folder: Path, detector: DetectorConfig, side: int) -> list[Need]:
    from dataengine.diagnosis.detector import NetworkDetector

    # The regularisation on clean images needs less than the update beside it.
    config = TreatmentConfig(
        batch=1,
        offline=None,
        grad_steps=1,
        checkpointing=True,
        offload=("text",),
        sampling=SamplingConfig(batch=1, height=side, width=side),
    )
    with fake_tensors():
        family = family_of_configs(kind, folder, torch.bfloat16)
        network = NetworkDetector.fresh(detector).eval().requires_grad_(False)
        seen, beside = predicting_bytes(network, (1, side, side)), size_of_weights(network)
        bases = {
            bits: (0, stored_weights(family, (), bits), stored_weights(family, config.offload, bits))
            for _, bits in PRECISIONS
        }
        moments = moments_of(config, family, network, None, judging=1, on_cpu=False).moments
    drawn = next(each.activations_bytes for each in moments if each.name == JUDGING)
    found = []
    for precision, bits in PRECISIONS:
        # Fewer bits change the base's weights, and nothing else.
        base = dict(zip(bases[None], bases[bits], strict=True))
        peaks = [
            Peak(each.device_bytes - each.base_bytes + base[each.base_bytes], each.name) for each in moments
        ]
        treating = max(peaks)
        found.append(
            Need(
                side=side,
                precision=precision,
                drawing=bases[bits][1] + drawn,
                diagnosing=bases[bits][1] + beside + max(drawn, seen),
                treating=treating.size,
                moment=treating.moment,
            )
        )
    return found
