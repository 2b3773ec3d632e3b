"""Segment anything: clicks or a box to a mask, by a SAM checkpoint (Kirillov et al. 2023)."""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dataengine.errors import InputRefused, ModelRefused

if TYPE_CHECKING:
    import torch


MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
KEPT_EMBEDDINGS = 8
MAX_POINTS = 64

Click = tuple[float, float, bool]
"""x, y in pixels of the image, and whether the point is foreground (True) or background (False)."""


class Segmenter:
    """A loaded SAM. An image is embedded once; each further click on it runs the small decoder only."""

    def __init__(self, model: Any, device: str) -> None:
        self.model = model.to(device).eval()
        self.device = device
        self.side = int(model.config.vision_config.image_size)
        self._embeddings: OrderedDict[str, torch.Tensor] = OrderedDict()

    def segment(
        self, name: str, image: np.ndarray, clicks: Sequence[Click], box: Sequence[float] | None = None
    ) -> tuple[float, np.ndarray]:
        """The model's estimated IoU and a uint8 HW mask (0, 1), for an image uint8 HWC cached as `name`.

        `box` is left, top, right, bottom. Raises `InputRefused` without a click or box, or with one outside.
        """
        import torch
        from torch.nn.functional import interpolate

        height, width = image.shape[:2]
        scale = self.side / max(height, width)
        inputs = {key: value * scale for key, value in prompts(clicks, box, height, width).items()}
        labels = torch.tensor([[[int(inside) for _, _, inside in clicks]]], device=self.device)
        tensors = {
            key: torch.tensor(value, dtype=torch.float32, device=self.device) for key, value in inputs.items()
        }
        with torch.inference_mode():
            output = self.model(
                image_embeddings=self._embed(name, image),
                **tensors,
                **({"input_labels": labels} if clicks else {}),
                multimask_output=True,
            )
            best = int(output.iou_scores[0, 0].argmax())
            logits = interpolate(output.pred_masks[:, 0, best : best + 1].float(), (self.side, self.side))
            logits = logits[..., : max(1, round(height * scale)), : max(1, round(width * scale))]
            full = interpolate(logits, (height, width), mode="bilinear", align_corners=False)[0, 0]
        score = float(output.iou_scores[0, 0, best].clamp(0, 1))
        return score, (full > 0).cpu().numpy().astype(np.uint8)

    def _embed(self, name: str, image: np.ndarray) -> "torch.Tensor":
        if name not in self._embeddings:
            self._embeddings[name] = self.model.get_image_embeddings(self._pixels(image))
            while len(self._embeddings) > KEPT_EMBEDDINGS:
                self._embeddings.popitem(last=False)
        self._embeddings.move_to_end(name)
        return self._embeddings[name]

    def _pixels(self, image: np.ndarray) -> "torch.Tensor":
        """The image as SAM expects it: longest side scaled, normalised, padded at the bottom and right."""
        import torch
        from torch.nn.functional import interpolate, pad

        height, width = image.shape[:2]
        scale = self.side / max(height, width)
        size = max(1, round(height * scale)), max(1, round(width * scale))
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float().div(255)
        pixels = interpolate(pixels, size, mode="bilinear", antialias=True, align_corners=False)
        pixels = (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(DEVIATION)[:, None, None]
        return pad(pixels, (0, self.side - size[1], 0, self.side - size[0])).to(self.device)


def prompts(
    clicks: Sequence[Click], box: Sequence[float] | None, height: int, width: int
) -> dict[str, np.ndarray]:
    """Validate the clicks, (1, 1, n, 2), and the box, (1, 1, 4). Raises `InputRefused`."""
    xs, ys = [x for x, _, _ in clicks], [y for _, y, _ in clicks]
    if box is not None:
        xs, ys = [*xs, box[0], box[2]], [*ys, box[1], box[3]]
    if not xs or len(clicks) > MAX_POINTS:
        raise InputRefused(f"got {len(clicks)} clicks and no box; give a box, or 1 to {MAX_POINTS} clicks")
    if min(xs) < 0 or max(xs) > width or min(ys) < 0 or max(ys) > height:
        raise InputRefused(f"a click or box lies outside the image of {height}×{width} pixels")
    inputs = {}
    if clicks:
        inputs["input_points"] = np.array([[[(x, y) for x, y, _ in clicks]]])
    if box is not None:
        inputs["input_boxes"] = np.array([[list(box)]])
    return inputs


def load_segmenter(folder: str | Path, device: str = "cpu") -> Segmenter:
    """Load a SAM checkpoint folder (config.json, safetensors). Raises `ModelRefused` for anything else."""
    from transformers import AutoConfig, SamModel

    folder = Path(folder)
    if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
        raise ModelRefused(f"{folder} holds no config.json with safetensors; expected a saved SamModel")
    kind = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False).model_type
    if kind != "sam":
        raise ModelRefused(f"{folder} holds a {kind!r} model; expected one of type 'sam'")
    model = SamModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    return Segmenter(model, device)
