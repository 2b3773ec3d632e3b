"""Segment anything: clicks, a box or a word to a mask, by a checkpoint of the SAM family.

SAM (Kirillov et al. 2023), SAM-HQ (Ke et al. 2023), SAM 2 and 2.1 (Ravi et al. 2024) and SAM 3 (Carion et al.
2025), each by its own class of transformers.
"""

import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dataengine.errors import InputRefused, ModelRefused
from dataengine.model_files import PICKLED, TENSORS_ONLY, check_model_folder

if TYPE_CHECKING:
    import torch


IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
KEPT_EMBEDDINGS = 8
MAX_POINTS = 64
MAX_WORD = 200
WORD_TOKENS = 32
"""The length of a prompt that SAM 3 was trained with."""
WORD_SCORE, WORD_PIXEL = 0.3, 0.5
"""Confidence from which a found object counts, and from which a pixel belongs to it, as in transformers."""

Click = tuple[float, float, bool]
"""x, y in pixels of the image, and whether the point is foreground (True) or background (False)."""


@dataclass(frozen=True, slots=True)
class SegmenterType:
    """How checkpoints of one `model_type` are opened and fed."""

    clicks: str = ""
    """The class of transformers that takes clicks and boxes; "" where the checkpoint has none."""
    words: str = ""
    """The class that takes a word; "" where the checkpoint takes none."""
    square: bool = True
    """Whether the image is stretched to a square, or scaled and padded."""
    normal: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET
    """Mean and standard deviation of the channels."""


TYPES = {
    "sam": SegmenterType("SamModel", square=False),
    "sam_hq": SegmenterType("SamHQModel", square=False),
    "sam2": SegmenterType("Sam2Model"),
    # The published SAM 2 and SAM 3 checkpoints are those of their video models, and hold the image models.
    "sam2_video": SegmenterType("Sam2Model"),
    "sam3_tracker": SegmenterType("Sam3TrackerModel", normal=HALF),
    "sam3": SegmenterType(words="Sam3Model", normal=HALF),
    "sam3_video": SegmenterType("Sam3TrackerModel", "Sam3Model", normal=HALF),
}


class Segmenter:
    """A loaded checkpoint. An image is embedded once; each further click on it runs the decoder only."""

    def __init__(self, folder: Path, type_: SegmenterType, device: str) -> None:
        self.type = type_
        self.device = device
        self.model = _open(folder, type_.clicks, device) if type_.clicks else None
        self.reader = _open(folder, type_.words, device) if type_.words else None
        self._tokenizer = _tokenizer(folder) if type_.words else None
        self._embeddings: OrderedDict[tuple[str, str], Any] = OrderedDict()

    def segment(
        self,
        name: str,
        image: np.ndarray,
        clicks: Sequence[Click],
        box: Sequence[float] | None = None,
        word: str = "",
    ) -> tuple[float, np.ndarray]:
        """The model's estimated IoU or confidence and a uint8 HW mask (0, 1), for an image uint8 HWC cached
        as `name`: of the object at the clicks or in the box (left, top, right, bottom), or of everything that
        the word names.

        Raises `InputRefused` without any of them, with a word and clicks at once, with a click or box
        outside, and for a prompt that the model does not take.
        """
        import torch

        if word and (clicks or box is not None):
            raise InputRefused("give a word, or clicks and a box, not both")
        if word:
            return self._find(name, image, word)
        height, width = image.shape[:2]
        given = prompts(clicks, box, height, width)
        if self.model is None:
            raise InputRefused("this segmenter takes a word, no clicks or boxes")
        scale = np.array(self._scale(self.model, height, width))
        tensors = {
            key: torch.tensor(
                value * np.resize(scale, value.shape[-1]), dtype=torch.float32, device=self.device
            )
            for key, value in given.items()
        }
        labels = torch.tensor([[[int(inside) for _, _, inside in clicks]]], device=self.device)
        with torch.inference_mode():
            output = self.model(
                **self._embedded(name, image),
                **tensors,
                **({"input_labels": labels} if clicks else {}),
                multimask_output=True,
            )
            best = int(output.iou_scores[0, 0].argmax())
            full = self._full_size(output.pred_masks[:, 0, best : best + 1].float(), height, width)
        score = float(output.iou_scores[0, 0, best].clamp(0, 1))
        return score, (full > 0).cpu().numpy().astype(np.uint8)

    def _find(self, name: str, image: np.ndarray, word: str) -> tuple[float, np.ndarray]:
        """Everything that the word names: the union of the objects found, and the highest confidence; nothing
        and 0 where none is found."""
        import torch
        from torch.nn.functional import interpolate

        if self.reader is None or self._tokenizer is None:
            raise InputRefused("this segmenter takes clicks and boxes, no word; SAM 3 does")
        if len(word) > MAX_WORD:
            raise InputRefused(f"the word has {len(word)} characters; at most {MAX_WORD} are read")
        text = self._tokenizer(
            [word], return_tensors="pt", padding="max_length", max_length=WORD_TOKENS, truncation=True
        )
        reader = self.reader
        with torch.inference_mode():
            vision = self._kept(
                "words", name, lambda: reader.get_vision_features(self._pixels(reader, image))
            )
            output = reader(
                vision_embeds=vision,
                input_ids=text.input_ids.to(self.device),
                attention_mask=text.attention_mask.to(self.device),
            )
            scores = output.pred_logits[0].sigmoid() * output.presence_logits[0].sigmoid()
            found = output.pred_masks[:, scores > WORD_SCORE].float().sigmoid()
            if not found.shape[1]:
                return 0.0, np.zeros(image.shape[:2], np.uint8)
            whole = found.amax(1, keepdim=True)
            full = interpolate(whole, image.shape[:2], mode="bilinear", align_corners=False)[0, 0]
        return float(scores.max()), (full > WORD_PIXEL).cpu().numpy().astype(np.uint8)

    def _embedded(self, name: str, image: np.ndarray) -> dict[str, Any]:
        """The embeddings as the model's own arguments."""
        model: Any = self.model
        found = self._kept("clicks", name, lambda: model.get_image_embeddings(self._pixels(model, image)))
        if isinstance(found, tuple):  # SAM-HQ
            return {"image_embeddings": found[0], "intermediate_embeddings": found[1]}
        return {"image_embeddings": found}

    def _kept(self, use: str, name: str, embed: Callable[[], Any]) -> Any:
        key = use, name
        if key not in self._embeddings:
            self._embeddings[key] = embed()
            while len(self._embeddings) > KEPT_EMBEDDINGS:
                self._embeddings.popitem(last=False)
        self._embeddings.move_to_end(key)
        return self._embeddings[key]

    def _scale(self, model: Any, height: int, width: int) -> tuple[float, float]:
        """What x and y are multiplied with on the model's square."""
        side = side_of(model)
        return (side / width, side / height) if self.type.square else (side / max(height, width),) * 2

    def _pixels(self, model: Any, image: np.ndarray) -> "torch.Tensor":
        """The image as the model expects it: scaled, normalised, and padded at the bottom and right if it is
        not stretched."""
        import torch
        from torch.nn.functional import interpolate, pad

        side, (height, width) = side_of(model), image.shape[:2]
        across, down = self._scale(model, height, width)
        size = max(1, round(height * down)), max(1, round(width * across))
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float().div(255)
        pixels = interpolate(pixels, size, mode="bilinear", antialias=True, align_corners=False)
        mean, deviation = (torch.tensor(values)[:, None, None] for values in self.type.normal)
        return pad((pixels - mean) / deviation, (0, side - size[1], 0, side - size[0])).to(self.device)

    def _full_size(self, logits: "torch.Tensor", height: int, width: int) -> "torch.Tensor":
        """Logits HW at the image's size of those 11hw on the model's square."""
        from torch.nn.functional import interpolate

        if not self.type.square:
            side = side_of(self.model)
            across, down = self._scale(self.model, height, width)
            logits = interpolate(logits, (side, side))
            logits = logits[..., : max(1, round(height * down)), : max(1, round(width * across))]
        return interpolate(logits, (height, width), mode="bilinear", align_corners=False)[0, 0]


def side_of(model: Any) -> int:
    """The side of the square that a model of the family takes, in pixels."""
    vision = model.config.vision_config
    size = getattr(vision, "image_size", None) or vision.backbone_config.image_size
    return int(size if isinstance(size, int) else size[0])


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


def segmenter_type(folder: str | Path) -> SegmenterType:
    """How to open the checkpoint in a folder, by the `model_type` of its config.json; loads nothing.

    Raises `ModelRefused` for a folder without one, and for models of other families.
    """
    folder = Path(folder)
    try:
        kind = str(json.loads((folder / "config.json").read_text())["model_type"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ModelRefused(
            f"{folder} holds no config.json with a model_type; expected a checkpoint that transformers saved"
        ) from None
    if kind not in TYPES:
        raise ModelRefused(f"{folder} holds a {kind!r} model; a segmenter is one of {', '.join(TYPES)}")
    return TYPES[kind]


def load_segmenter(folder: str | Path, device: str = "cpu") -> Segmenter:
    """Load a checkpoint folder (config.json, safetensors) of the SAM family.

    Raises `ModelRefused` for anything else, and where the installed transformers has no class for it.
    """
    folder = Path(folder)
    type_ = segmenter_type(folder)
    if not list(folder.glob("*.safetensors")):
        raise ModelRefused(f"{folder} holds no config.json with safetensors; download the checkpoint again")
    check_model_folder(folder, pickled=PICKLED - TENSORS_ONLY)
    return Segmenter(folder, type_, device)


def _open(folder: Path, name: str, device: str) -> Any:
    import transformers

    class_ = getattr(transformers, name, None)
    if class_ is None:
        raise ModelRefused(
            f"{folder} needs the class {name}, which transformers {transformers.__version__} does not have; "
            "install a newer transformers"
        )
    try:
        model, found = class_.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelRefused(f"{folder} does not load as {name}: {reason}") from error
    if found["missing_keys"]:
        missing = sorted(found["missing_keys"])
        raise ModelRefused(
            f"{folder} lacks {len(missing)} weights of {name}, such as {missing[0]}; download it again"
        )
    return model.to(device).eval()


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelRefused(f"{folder} has no tokenizer, which a word needs; download it again") from error
