"""Evaluation of a detector on labelled examples: its metrics, and its operating point."""

from collections.abc import Iterator

import numpy as np

from dataengine.diagnosis.config import OperatingPointConfig
from dataengine.diagnosis.dataset import Sample, Samples, with_maps
from dataengine.diagnosis.detector import Detector, artifact_maps
from dataengine.diagnosis.image_metrics import ImageMetrics, image_metrics
from dataengine.diagnosis.metrics import DetectorMetrics, summarise
from dataengine.diagnosis.operating_point import operating_point_of
from dataengine.records import THRESHOLD, OperatingPoint, Report, no_report


def evaluate_detector(
    detector: Detector,
    samples: Samples,
    *,
    batch: int = 32,
    threshold: float = THRESHOLD,
    report: Report = no_report,
) -> DetectorMetrics:
    """Metrics over all examples, each at its own size. Raises `InputRefused` for an empty set."""
    return summarise(measure_detector(detector, samples, batch=batch, threshold=threshold, report=report))


def measure_detector(
    detector: Detector,
    samples: Samples,
    *,
    batch: int = 32,
    threshold: float = THRESHOLD,
    flagged: float | None = None,
    report: Report = no_report,
) -> list[ImageMetrics]:
    """The metrics of every example, in order, for paired comparisons and intervals.

    A pixel is predicted from `threshold`, and an image flagged from `flagged`, by default the same.
    """
    return [
        image_metrics(sample.target, map_, sample.category or "", threshold, sample.label_map, flagged)
        for sample, map_ in _predicted(detector, samples, batch, report)
    ]


def find_operating_point(
    detector: Detector,
    samples: Samples,
    config: OperatingPointConfig | None = None,
    *,
    batch: int = 32,
    report: Report = no_report,
) -> OperatingPoint:
    """The operating point that the rule chooses on these validation examples."""
    return operating_point_of(_predicted(detector, samples, batch, report), config)


def _predicted(
    detector: Detector, samples: Samples, batch: int, report: Report
) -> Iterator[tuple[Sample, np.ndarray]]:
    return with_maps(samples, lambda images: artifact_maps(detector, images, batch), batch, report)
