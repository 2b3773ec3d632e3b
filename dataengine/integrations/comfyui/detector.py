"""The exported detector in ComfyUI, and its regions as the Impact Pack's detailers take them."""

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

FOLDER = Path(__file__).with_name("detector")
"""A detector in the layout of transformers."""
FACTS = "artifact_detector"


class SEG(NamedTuple):
    """A region with the fields that the Impact Pack's nodes read; boxes are left, top, right, bottom."""

    cropped_image: Any
    cropped_mask: np.ndarray
    """float32 HW in [0, 1], of the size of `crop_region`."""
    confidence: float
    crop_region: tuple[int, int, int, int]
    bbox: tuple[int, int, int, int]
    label: str
    control_net_wrapper: Any = None


SEGS = tuple[tuple[int, int], list[SEG]]
"""(height, width) of the image, and its regions."""


class ArtifactDetector:
    """Confidence maps of images, by transformers' SegFormer. ComfyUI's images are float BHWC in [0, 1]."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        from transformers import AutoModelForSemanticSegmentation

        about = json.loads((folder / "preprocessor_config.json").read_text())
        # Nodes run in inference mode, whose tensors take no part in a gradient.
        with torch.inference_mode(False):
            network: Any = AutoModelForSemanticSegmentation.from_pretrained(folder, local_files_only=True)
            self.network = network.float().eval().requires_grad_(False).to(device)
            self.mean = torch.tensor(about["image_mean"], device=device).view(1, 3, 1, 1)
            self.std = torch.tensor(about["image_std"], device=device).view(1, 3, 1, 1)
        self.device = device
        self.square = about["size"]["height"], about["size"]["width"]
        facts = facts_of(folder)
        self.antialias = bool(facts.get("antialias", True))

    def confidence(self, images: Tensor) -> Tensor:
        """Confidence, float32 BHW in [0, 1], of images, float B3HW; differentiable."""
        pixels = F.interpolate(
            images.float(), self.square, mode="bilinear", align_corners=False, antialias=self.antialias
        )
        logits = self.network(pixel_values=(pixels - self.mean) / self.std).logits
        logits = F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)
        return logits.softmax(dim=1)[:, 1]

    @torch.no_grad()
    def maps(self, image: Tensor, batch: int = 8) -> Tensor:
        """Confidence, float32 BHW on the CPU, of ComfyUI's images, BHWC with three channels or more."""
        found = [
            self.confidence(chunk[..., :3].movedim(-1, 1).to(self.device)).cpu()
            for chunk in image.split(batch)
        ]
        return torch.cat(found) if found else torch.zeros(image.shape[:3])


def facts_of(folder: Path = FOLDER) -> dict[str, Any]:
    """What the export says of the detector: its name, licence and operating point."""
    found: dict[str, Any] = json.loads((folder / "config.json").read_text()).get(FACTS, {})
    return found


@cache
def open_detector(folder: Path = FOLDER) -> ArtifactDetector:
    """The detector beside this file, loaded once, on ComfyUI's device."""
    return ArtifactDetector(folder, _device())


def _device() -> torch.device:
    try:
        from comfy.model_management import get_torch_device
    except ImportError:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device: torch.device = get_torch_device()
    return device


class SegmDetector:
    """The detector as a `SEGM_DETECTOR` of the Impact Pack."""

    def __init__(self, detector: ArtifactDetector) -> None:
        self._detector = detector

    def detect(
        self,
        image: Tensor,
        threshold: float,
        dilation: int,
        crop_factor: float,
        drop_size: int = 1,
        detailer_hook: Any = None,
    ) -> SEGS:
        """A region for each connected area from `threshold` on, of more than `drop_size` pixels in either
        direction; of a batch, those of the highest confidence over its images."""
        confidence = self._detector.maps(image).amax(dim=0)
        height, width = confidence.shape
        regions = []
        for mask in connected_areas((confidence >= threshold).numpy()):
            grown = dilated(torch.from_numpy(mask), dilation).numpy()
            rows, columns = np.flatnonzero(grown.any(axis=1)), np.flatnonzero(grown.any(axis=0))
            if rows.size <= drop_size or columns.size <= drop_size:
                continue
            box = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
            crop = crop_around(box, crop_factor, height, width)
            if detailer_hook is not None and hasattr(detailer_hook, "post_crop_region"):
                crop = detailer_hook.post_crop_region(width, height, box, crop)
            left, top, right, bottom = crop
            regions.append(
                SEG(
                    cropped_image=None,
                    cropped_mask=grown[top:bottom, left:right].astype(np.float32),
                    confidence=float(confidence.numpy()[mask].max()),
                    crop_region=crop,
                    bbox=box,
                    label="artifact",
                )
            )
        found: SEGS = (height, width), regions
        if detailer_hook is not None and hasattr(detailer_hook, "post_detection"):
            found = detailer_hook.post_detection(found)
        return found

    def detect_combined(self, image: Tensor, threshold: float, dilation: int) -> Tensor:
        """One mask, float32 HW of 0 and 1, of all regions."""
        confidence = self._detector.maps(image).amax(dim=0)
        return dilated(confidence >= threshold, dilation).float()

    def setAux(self, x: Any) -> None:
        """Part of the interface; texts do not change what an artifact is."""


def connected_areas(mask: np.ndarray) -> list[np.ndarray]:
    """A bool HW for each 8-connected area of a bool HW, in scan order."""
    height, _ = mask.shape
    runs: list[tuple[int, int, int]] = []
    parent: list[int] = []

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    above: list[int] = []
    for row in range(height):
        edges = np.flatnonzero(np.diff(np.pad(mask[row].astype(np.int8), 1)))
        current = []
        for left, right in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            number = len(runs)
            runs.append((row, left, right))
            parent.append(number)
            current.append(number)
            for other in above:
                if runs[other][1] <= right and left <= runs[other][2]:
                    a, b = sorted((root(other), root(number)))
                    parent[b] = a
        above = current
    areas: dict[int, np.ndarray] = {}
    for number, (row, left, right) in enumerate(runs):
        areas.setdefault(root(number), np.zeros_like(mask, dtype=bool))[row, left:right] = True
    return list(areas.values())


def dilated(mask: Tensor, pixels: int) -> Tensor:
    """A bool HW grown by half of `pixels` on each side; shrunk where `pixels` is negative."""
    radius = abs(pixels) // 2
    if radius == 0:
        return mask
    plane = (mask if pixels > 0 else ~mask)[None, None].float()
    grown = F.max_pool2d(plane, 2 * radius + 1, stride=1, padding=radius)[0, 0] > 0
    return grown if pixels > 0 else ~grown


def crop_around(
    box: tuple[int, int, int, int], factor: float, height: int, width: int
) -> tuple[int, int, int, int]:
    """The box scaled by `factor` about its centre, moved into the image, as large as the image at most."""
    sides = []
    for low, high, limit in ((box[0], box[2], width), (box[1], box[3], height)):
        length = min(limit, max(high - low, round((high - low) * factor)))
        start = min(max(0, round((low + high - length) / 2)), limit - length)
        sides.append((start, start + length))
    (left, right), (top, bottom) = sides
    return left, top, right, bottom


def with_gradient(network: Any) -> Any:
    """A copy of a network that a gradient can pass through, also where it was loaded in inference mode."""
    with torch.inference_mode(False):
        twin = copy.deepcopy(network).requires_grad_(False)
        for module in twin.modules():
            for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
                if tensor is not None and tensor.is_inference():
                    fresh = tensor.detach().clone()
                    kept = torch.nn.Parameter(fresh, False) if name in module._parameters else fresh
                    (module._parameters if name in module._parameters else module._buffers)[name] = kept
    return twin
