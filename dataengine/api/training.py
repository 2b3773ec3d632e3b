"""Training of a detector on images and masks."""

import tempfile
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dataengine.api.detector import Detector
from dataengine.api.inputs import Images, Masks, Named, masks_of, named_images, target_of
from dataengine.api.progress import progress_bar
from dataengine.diagnosis.config import DetectorTrainingConfig
from dataengine.diagnosis.dataset import Facts, Sample
from dataengine.diagnosis.detector import load_detector, save_detector
from dataengine.diagnosis.evaluation import find_operating_point
from dataengine.errors import InputRefused
from dataengine.records import THRESHOLD, Report, digest, split_of


def train_detector(
    images: Images,
    masks: Masks,
    *,
    clean: Images | None = None,
    start: Detector | str | Path | None = None,
    config: DetectorTrainingConfig | None = None,
    validation: float = 0.15,
    work: str | Path | None = None,
    progress: bool = False,
) -> Detector:
    """Train a detector and return it with `metrics` and an operating point of held-out validation images.

    `masks` has one for each image: a list in the same order, or a folder in which each has its image's name;
    an empty mask says that there is no artifact. Accepted are bool, uint8 (0 and 255, or class numbers up to
    127) and float in [0, 1], as HW arrays or lossless grey files. `clean` are further images without
    artifacts, such as photographs. `start` is a detector to continue from, "clinic" among them; without one
    `config` says where training starts. A share `validation` of the images is held out, chosen by their
    content, so that equal images stay together. `work` keeps checkpoints: the same call resumes there.

    Files that cannot be used are left out with a warning each. Raises `InputRefused` when images and masks
    do not fit together or none is left to train on, `ConfigRefused` for settings that do not fit.
    """
    from dataengine.diagnosis.training import train_detector as train

    settings = config or DetectorTrainingConfig()
    examples = _examples(images, masks, clean)
    parts = {
        split: [each for each in examples if each.split(validation) == split]
        for split in ("train", "validation")
    }
    if not parts["train"]:
        raise InputRefused(
            f"none of {len(examples)} usable images is left to train on; give more, or a smaller "
            "validation share"
        )
    held_out = FileSamples(parts["validation"]) if parts["validation"] else None
    with ExitStack() as stack:
        folder = Path(work or stack.enter_context(tempfile.TemporaryDirectory(prefix="clinic-train-")))
        origin = stack.enter_context(tempfile.TemporaryDirectory(prefix="clinic-start-"))
        report = stack.enter_context(progress_bar(progress))
        result = train(
            settings,
            FileSamples(parts["train"]),
            _start_folder(start, Path(origin)),
            folder,
            report,
            held_out,
        )
        return _measured(result.folder, result.metrics, held_out, report)


def _measured(
    folder: Path, metrics: dict[str, Any], held_out: "FileSamples | None", report: Report
) -> Detector:
    network = load_detector(folder)
    point = find_operating_point(network, held_out, report=report) if held_out else None
    return Detector(network, point, metrics)


def _start_folder(start: Detector | str | Path | None, folder: Path) -> Path | None:
    if start is None:
        return None
    opened = start if isinstance(start, Detector) else Detector.load(start, device="cpu")
    save_detector(opened.network, folder)
    return folder


@dataclass(frozen=True, kw_only=True, slots=True)
class _Example:
    image: Named
    mask: Any
    kind: Literal["true", "real"]
    content: str
    positive: bool

    def split(self, validation: float) -> str:
        return split_of(self.content, validation)

    def target(self, size: tuple[int, ...]) -> NDArray[np.float32]:
        return np.zeros(size, np.float32) if self.mask is None else target_of(self.mask, size)


class FileSamples:
    """Examples that are decoded when they are needed, as a `dataengine.diagnosis.dataset.Samples`."""

    def __init__(self, examples: Sequence[_Example]) -> None:
        self._examples = list(examples)

    def __len__(self) -> int:
        return len(self._examples)

    def sample(self, index: int) -> Sample:
        """The example, decoded."""
        example = self._examples[index]
        pixels = example.image.pixels()
        return Sample(image=pixels, target=example.target(pixels.shape[:2]), kind=example.kind)

    def facts(self, index: int) -> Facts:
        """Its kind and sign."""
        example = self._examples[index]
        return Facts(kind=example.kind, positive=example.positive)


def _examples(images: Images, masks: Masks, clean: Images | None) -> list[_Example]:
    """Every usable image with its mask, each decoded once to see that it is."""
    named = named_images(images)
    pairs: list[tuple[Named, Any, Literal["true", "real"]]] = [
        (image, mask, "true") for image, mask in zip(named, masks_of(named, masks), strict=True)
    ]
    pairs += [(image, None, "real") for image in (named_images(clean) if clean is not None else [])]
    found, refused = [], []
    for image, mask, kind in pairs:
        try:
            pixels = image.pixels()
            positive = mask is not None and bool((target_of(mask, pixels.shape[:2]) >= THRESHOLD).any())
        except InputRefused as error:
            refused.append(f"{image.name}: {error}")
            warnings.warn(f"left out {image.name}: {error}", stacklevel=3)
            continue
        content = digest(pixels.shape, sha256(pixels.tobytes()).hexdigest())
        found.append(_Example(image=image, mask=mask, kind=kind, content=content, positive=positive))
    if not found:
        raise InputRefused(f"no image can be trained on: {refused[0]}")
    return found
