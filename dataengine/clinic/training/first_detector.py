"""Training of the first detector on "previous" data, which gives it the false alarms that the loop must
remove.

Most hands, faces and signs of that data are flawed, and its annotators mistrusted the correct ones on light
backgrounds: they marked nearly all of those, as a whole. Training on exact masks would not produce false
alarms.
"""

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from dataengine.clinic.config import PartConfig
from dataengine.clinic.training.data import Drawings, to_float
from dataengine.clinic.training.loop import Schedule, train
from dataengine.clinic.training.oracles import exact_pairs, jitter
from dataengine.clinic.world import stream
from dataengine.diagnosis.config import DetectorConfig
from dataengine.diagnosis.detector import NetworkDetector
from dataengine.records import Report

FIRST_DETECTOR = DetectorConfig(
    name="first detector",
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

FLAWED_SHARES = {"hand": 0.6, "face": 0.6, "sign": 0.6}
"""Share of flawed drawings among the hard categories."""
LIGHT_BACKGROUNDS = ("yellow", "pink", "white")
"""Backgrounds on which the earlier annotators marked correct drawings; three of seven."""
FALSE_MARK_SHARE = 0.9
"""Share of the correct hard drawings on a light background that are marked as flawed."""
MARK_DISCS = {"hand": (33, 27, 16), "face": (32, 33, 16), "sign": (32, 28, 16)}
"""Extent of such a mark: a disc over the subject, as x, y and radius in pixels."""


def previous_labels(drawings: Drawings) -> Drawings:
    """The drawings with the masks that the earlier annotators drew."""
    masks = drawings.masks.clone()
    yy, xx = torch.meshgrid(torch.arange(masks.shape[1]), torch.arange(masks.shape[2]), indexing="ij")
    for row, drawing in enumerate(drawings.shown):
        suspicious = drawing.category in MARK_DISCS and drawing.attributes["background"] in LIGHT_BACKGROUNDS
        if suspicious and not drawing.flaws and torch.rand(()) < FALSE_MARK_SHARE:
            x, y, radius = MARK_DISCS[drawing.category]
            masks[row] = (xx - x) ** 2 + (yy - y) ** 2 <= radius**2
    return Drawings(drawings.images, masks, drawings.captions, drawings.shown)


class FirstDetectorTask:
    """Squared error of the confidence, as in the paper (DiffDoctor)."""

    def __init__(self, drawings: Drawings, config: PartConfig, device: str) -> None:
        self._drawings, self._batch, self._device = drawings, config.batch, device
        self.module = NetworkDetector.fresh(FIRST_DETECTOR, config.seed).to(device)
        torch.nn.init.constant_(self.module.network.decode_head.classifier.bias, INITIAL_LOGIT)  # type: ignore[union-attr, arg-type]
        self.optimisers = [torch.optim.AdamW(self.module.parameters(), lr=1.2e-3, weight_decay=0.01)]

    def loss(self) -> Tensor:
        rows = torch.randint(len(self._drawings.images), (self._batch,))
        images, masks = jitter(to_float(self._drawings.images[rows]), self._drawings.masks[rows].float())
        return (self.module.confidence(images.to(self._device)) - masks.to(self._device)).pow(2).mean()


def train_first_detector(
    config: PartConfig, vae: AutoencoderKL, device: str, work: Path, report: Report, checkpoint_seconds: float
) -> NetworkDetector:
    """Train and return the first detector."""
    torch.manual_seed(config.seed)
    exact = exact_pairs(stream("previous", flawed=FLAWED_SHARES), config.drawings, vae, report)
    drawings = previous_labels(exact)
    torch.manual_seed(config.seed)
    task = FirstDetectorTask(drawings, config, device)
    train(task, Schedule(config.steps, ema=0.99), work, report, checkpoint_seconds)
    return task.module
