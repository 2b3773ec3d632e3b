"""How far a detector's maps move when it leaves: figures for `make bench-doors`."""

import tempfile
from pathlib import Path
from typing import Any

import torch

from dataengine.clinic.parts import materialise
from dataengine.diagnosis.config import DetectorConfig
from dataengine.diagnosis.detector import NetworkDetector, load_detector
from dataengine.diagnosis.exports import export_detector


def measure_exports(quick: bool = False) -> dict[str, Any]:
    """`transformers_max_difference` and `onnx_max_difference`: the largest over the clinic's detector, a
    SegFormer b0 at 512² and, for ONNX, a U-Net as recipe `photo` trains it, each compared on batches of
    several sizes as read back by transformers and onnxruntime. `quick` takes the clinic's alone."""
    with tempfile.TemporaryDirectory() as scratch:
        clinic = load_detector(materialise("first_doctor", Path(scratch) / "clinic"))
    found: dict[str, Any] = {}
    for format in ("transformers", "onnx"):
        detectors = [clinic] if quick else [clinic, *_random(format)]
        found[f"{format}_differences"] = {each.name: _difference(each, format) for each in detectors}
        found[f"{format}_max_difference"] = max(found[f"{format}_differences"].values())
    return found


def _random(format: str) -> list[NetworkDetector]:
    """Networks with random weights, scaled so that their confidences are spread."""
    configs = [DetectorConfig(name="b0 at 512", segformer="b0")]
    if format == "onnx":
        configs.append(
            DetectorConfig(name="U-Net", architecture="unet", encoder="tu-efficientnet_lite0", size=512)
        )
    detectors = []
    for config in configs:
        detector = NetworkDetector.fresh(config).eval().requires_grad_(False)
        last = [module for module in detector.modules() if isinstance(module, torch.nn.Conv2d)][-1]
        last.weight.mul_(2 / detector.confidence(torch.rand(2, 3, config.size, config.size)).logit().std())
        detectors.append(detector)
    return detectors


def _difference(detector: NetworkDetector, format: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        return export_detector(detector, Path(folder), format)
