"""Training of the readers: one classifier with a softmax for each question and a sigmoid for plausibility."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F
from transformers import ResNetForImageClassification

from dataengine.clinic.config import PartConfig
from dataengine.clinic.models import reader_network
from dataengine.clinic.readers import PLAUSIBLE, label_columns, normalise, output_labels
from dataengine.clinic.training.data import Drawings, to_float
from dataengine.clinic.training.loop import Schedule, train
from dataengine.clinic.training.oracles import exact_pairs, jitter
from dataengine.clinic.world import Drawing, stream
from dataengine.records import Report

NOT_ASKED = -100


def target_row(drawing: Drawing, names: list[str]) -> list[int]:
    """For each question of `groups(names)` the index of the right answer; NOT_ASKED where it does not
    apply."""
    shown = {"category": drawing.category, **drawing.attributes}
    row = []
    for group, columns in label_columns(names).items():
        if group == PLAUSIBLE:
            row.append(int(not drawing.flaws))
        else:
            row.append(names[columns].index(f"{group}:{shown[group]}") if group in shown else NOT_ASKED)
    return row


class ReaderTask:
    """The sum of all questions' cross-entropies."""

    def __init__(self, drawings: Drawings, batch: int, device: str) -> None:
        names = output_labels()
        self._groups = label_columns(names)
        self._images = drawings.images
        self._targets = torch.tensor([target_row(drawing, names) for drawing in drawings.shown])
        self._batch, self._device = batch, device
        self.module: ResNetForImageClassification = reader_network(names).to(
            device, memory_format=torch.channels_last
        )
        self.optimisers = [torch.optim.AdamW(self.module.parameters(), lr=2e-3, weight_decay=0.02)]

    def loss(self) -> Tensor:
        rows = torch.randint(len(self._images), (self._batch,))
        images = to_float(self._images[rows])
        images, _ = jitter(images, torch.zeros_like(images[:, 0]))
        with torch.autocast(torch.device(self._device).type, torch.bfloat16):
            logits = self.module(pixel_values=normalise(images).to(self._device)).logits
        logits, targets = logits.float(), self._targets[rows].to(self._device)
        total = torch.zeros((), device=logits.device)
        for column, (group, outputs) in enumerate(self._groups.items()):
            total = total + question_loss(logits[:, outputs], targets[:, column], single=group == PLAUSIBLE)
        return total


def question_loss(logits: Tensor, targets: Tensor, single: bool) -> Tensor:
    """Cross-entropy of one question, averaged over the whole batch; 0 where it does not apply."""
    if single:
        return F.binary_cross_entropy_with_logits(logits[:, 0], targets.float())
    return F.cross_entropy(logits, targets, ignore_index=NOT_ASKED, reduction="sum") / len(targets)


def train_readers(
    config: PartConfig, vae: AutoencoderKL, device: str, work: Path, report: Report, checkpoint_seconds: float
) -> ResNetForImageClassification:
    """The trained classifier."""
    torch.manual_seed(config.seed)
    drawings = exact_pairs(stream("readers"), config.drawings, vae, report)
    torch.manual_seed(config.seed)
    task = ReaderTask(drawings, config.batch, device)
    train(task, Schedule(config.steps, ema=0.99), work, report, checkpoint_seconds)
    return task.module.to(memory_format=torch.contiguous_format)
