"""Which features find similar images: precision at 10 of several kinds on the clinic and on real images.

`make bench-similarity` writes `build/bench/similarity.json`. Three retrievals: the clinic's drawings of the
same category, Stable Diffusion's samples of the same prompt among photographs, and five altered copies of
photographs among others (`DATA`: a folder with `generated/` and `photographs/`; without it only the clinic).
`CLIP=FOLDER` adds the image features of that CLIP or DINO checkpoint.
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dataengine.clinic.parts import materialise
from dataengine.clinic.world import stream
from dataengine.curation.appearance import COLOURS, appearance, centred
from dataengine.curation.mining import thumbnail_features
from dataengine.images import recompress
from tests.bench.harness import ROOT, Figure, mean, quick, write

Images = Sequence[np.ndarray]
Features = Callable[[Images], np.ndarray]
SIDE = 256
FIRST = 10
DATA = Path(os.environ.get("DATA", ROOT.parent / "shared" / "data"))


def main() -> None:
    """Measure and write."""
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        kinds = kinds_of_features(Path(folder))
        for name, (images, groups) in retrievals().items():
            for kind, features in kinds.items():
                found = precisions(features(images), groups)
                note = f"{len(images)} images; chance {chance(groups):.3f}"
                figures.append(mean(f"{name}_{kind}", found, "precision at 10", note))
    write("similarity", figures, seeds=[0])


def kinds_of_features(folder: Path) -> dict[str, Features]:
    """Functions from uint8 HW3 images to float N×D, compared by cosine, by name."""
    from dataengine.diagnosis.detector import load_detector
    from dataengine.diagnosis.uncertainty import encoder_features

    detector = load_detector(materialise("first_doctor", folder / "doctor"), "cpu")
    described = lambda images: np.stack([appearance(image) for image in images])  # noqa: E731
    kinds: dict[str, Features] = {
        "appearance": lambda images: centred(described(images)),
        "colours": lambda images: _less_mean(described(images)[:, :COLOURS]),
        "edges": lambda images: _less_mean(described(images)[:, COLOURS:]),
        "pixels": lambda images: _less_mean(
            np.concatenate([thumbnail_features(image[None]) for image in images])
        ),
        "encoder": lambda images: encoder_features(detector, images, 32),
        "encoder_centred": lambda images: _less_mean(encoder_features(detector, images, 32)),
    }
    if clip := os.environ.get("CLIP"):
        kinds["clip"] = _image_encoder(clip)
    return kinds


def retrievals() -> dict[str, tuple[list[np.ndarray], list[str | None]]]:
    """Images and their groups, by name; those without a group only distract."""
    some = 120 if quick() else 600
    drawings = [stream("validation")[index] for index in range(some)]
    found: dict[str, tuple[list[np.ndarray], list[str | None]]] = {
        "category": ([one.image for one in drawings], [one.category for one in drawings])
    }
    photographs = sorted((DATA / "photographs").glob("bsds_*.jpg"))[: 60 if quick() else 300]
    samples = sorted((DATA / "generated").glob("sd1_*.png"))
    if photographs and samples:
        others = photographs[: len(photographs) // 2]
        found["prompt"] = (
            [_opened(file) for file in [*samples, *others]],
            [*(file.stem.rpartition("_")[0] for file in samples), *(None for _ in others)],
        )
        plain = [_opened(file) for file in photographs]
        altered = [(copy, str(at)) for at in range(len(plain) // 5) for copy in copies(plain[at])]
        found["near_duplicate"] = (
            [*plain, *(copy for copy, _ in altered)],
            [*map(str, range(len(plain))), *(group for _, group in altered)],
        )
    return found


def copies(image: np.ndarray) -> list[np.ndarray]:
    """Recompressed, cropped, halved, brightened and mirrored."""
    height, width = image.shape[:2]
    down, across = round(0.06 * height), round(0.06 * width)
    return [
        recompress(image, "JPEG", 30),
        image[down : height - down, across : width - across],
        np.asarray(Image.fromarray(image).resize((width // 2, height // 2))),
        np.clip(image * 1.25, 0, 255).astype(np.uint8),
        image[:, ::-1],
    ]


def precisions(features: np.ndarray, groups: Sequence[str | None]) -> list[float]:
    """For every image of a group: the share of its ten nearest (or as many as its group has others) that are
    of its group."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / np.where(length > 0, length, 1)
    closeness = unit @ unit.T
    np.fill_diagonal(closeness, -np.inf)
    order = np.argsort(-closeness, axis=1)
    names = np.array([group or "" for group in groups])
    found = []
    for row, name in enumerate(names):
        most = min(FIRST, int((names == name).sum()) - 1)
        if name and most > 0:
            found.append(float((names[order[row, :most]] == name).mean()))
    return found


def chance(groups: Sequence[str | None]) -> float:
    """The precision of a random order."""
    names = np.array([group or "" for group in groups])
    shares = [((names == name).sum() - 1) / (len(names) - 1) for name in names if name]
    return float(np.mean([share for share in shares if share > 0]))


def _less_mean(features: np.ndarray) -> np.ndarray:
    return features - features.mean(axis=0, dtype=np.float64)


def _image_encoder(location: str) -> Features:
    """Image features of a CLIP or DINO checkpoint, less their mean."""
    import torch
    from transformers import AutoImageProcessor, AutoModel

    processor = AutoImageProcessor.from_pretrained(location, local_files_only=True)
    model = AutoModel.from_pretrained(location, local_files_only=True, use_safetensors=True).eval()

    def features(images: Images) -> np.ndarray:
        rows = []
        for image in images:
            prepared = processor(images=image, return_tensors="pt")
            with torch.inference_mode():
                if hasattr(model, "get_image_features"):
                    output = model.get_image_features(**prepared)
                    output = getattr(output, "pooler_output", output)
                else:
                    output = model(**prepared).pooler_output
            rows.append(output[0].float().numpy())
        return _less_mean(np.stack(rows))

    return features


def _opened(file: Path) -> np.ndarray:
    image = Image.open(file).convert("RGB")
    image.thumbnail((SIDE, SIDE))
    return np.asarray(image)


if __name__ == "__main__":
    main()
