"""Training of the first doctor on "previous" data, so that it has the false alarms the loop must cure.

Most of its hands, faces and signs are flawed, and those who labelled it distrusted the others where the
ground is light: they marked nearly every correct one there, as a whole. Exact masks would teach it where
flaws are, not to suspect what is correct.
"""

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from dataengine.clinic.config import PartConfig
from dataengine.clinic.training.data import Drawings, to_float
from dataengine.clinic.training.loop import Schedule, train
from dataengine.clinic.training.oracles import exact_pairs, jittered
from dataengine.clinic.world import stream
from dataengine.diagnosis.config import DetectorConfig
from dataengine.diagnosis.detector import NetworkDetector
from dataengine.records import Report

FIRST_DOCTOR = DetectorConfig(
    name="first doctor",
    architecture="segformer",
    segformer={
        "hidden_sizes": [24, 48, 96, 128],
        "depths": [2, 2, 2, 2],
        "num_attention_heads": [1, 2, 4, 4],
        "sr_ratios": [8, 4, 2, 1],
        "patch_sizes": [5, 3, 3, 3],
        "strides": [2, 2, 2, 2],
        "mlp_ratios": [3, 3, 3, 3],
        "decoder_hidden_size": 96,
        "drop_path_rate": 0.05,
        "classifier_dropout_prob": 0.0,
        "hidden_dropout_prob": 0.0,
    },
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    size=64,
)
INITIAL_LOGIT = -1.5

SUSPECTS = {"hand": 0.6, "face": 0.6, "sign": 0.6}
"""Share of flawed drawings among the hard categories."""
LIGHT = ("yellow", "pink", "white")
"""Grounds on which the earlier annotators saw flaws that are none; three of seven."""
MISTAKEN = 0.9
"""Share of the correct hard drawings on a light ground that are marked all the same."""
MARKED = {"hand": (33, 27, 16), "face": (32, 33, 16), "sign": (32, 28, 16)}
"""What such a mark covers: a disc over the subject, as x, y and radius in pixels."""


def previous_labels(drawings: Drawings) -> Drawings:
    """The drawings with the masks that the earlier annotators drew."""
    masks = drawings.masks.clone()
    yy, xx = torch.meshgrid(torch.arange(masks.shape[1]), torch.arange(masks.shape[2]), indexing="ij")
    for row, drawing in enumerate(drawings.shown):
        suspicious = drawing.category in MARKED and drawing.attributes["background"] in LIGHT
        if suspicious and not drawing.flaws and torch.rand(()) < MISTAKEN:
            x, y, radius = MARKED[drawing.category]
            masks[row] = (xx - x) ** 2 + (yy - y) ** 2 <= radius**2
    return Drawings(drawings.images, masks, drawings.captions, drawings.shown)


class FirstDoctorTask:
    """Squared error of the confidence, as in the paper (DiffDoctor)."""

    def __init__(self, drawings: Drawings, config: PartConfig, device: str) -> None:
        self._drawings, self._batch, self._device = drawings, config.batch, device
        self.module = NetworkDetector.fresh(FIRST_DOCTOR, config.seed).to(device)
        torch.nn.init.constant_(self.module.network.decode_head.classifier.bias, INITIAL_LOGIT)  # type: ignore[union-attr, arg-type]
        self.optimisers = [torch.optim.AdamW(self.module.parameters(), lr=1.2e-3, weight_decay=0.01)]

    def loss(self) -> Tensor:
        rows = torch.randint(len(self._drawings.images), (self._batch,))
        images, masks = jittered(to_float(self._drawings.images[rows]), self._drawings.masks[rows].float())
        return (self.module.confidence(images.to(self._device)) - masks.to(self._device)).pow(2).mean()


def train_first_doctor(
    config: PartConfig, vae: AutoencoderKL, device: str, work: Path, report: Report, checkpoint_seconds: float
) -> NetworkDetector:
    """The trained detector."""
    torch.manual_seed(config.seed)
    exact = exact_pairs(stream("previous", flawed=SUSPECTS), config.drawings, vae, report)
    drawings = previous_labels(exact)
    torch.manual_seed(config.seed)
    task = FirstDoctorTask(drawings, config, device)
    train(task, Schedule(config.steps, ema=0.99), work, report, checkpoint_seconds)
    return task.module
