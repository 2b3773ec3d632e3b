"""The README's strip: the same prompts and seeds before and after a treatment, with the map between them.

`make bench-strip` trains the shipped detector further on exact masks, treats the tiny FLUX with it, and draws
held-out prompts. Shown are the first images in which the judge, which nothing was trained against, finds a
flaw: a rule that looks at no result. About ten minutes on two cores; `QUICK=1` only proves that it works.
"""

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dataengine import (
    Detector,
    DetectorTrainingConfig,
    Generator,
    SamplingConfig,
    TreatmentConfig,
    train_detector,
    treat,
)
from dataengine.clinic.config import JUDGE_THRESHOLD
from dataengine.clinic.oracles import load_judge
from dataengine.clinic.parts import materialise
from dataengine.clinic.world import HARD, prompts, stream
from dataengine.diagnosis.detector import as_images
from dataengine.quality.config import GuardConfig
from dataengine.treatment.config import LoraSettings
from tests.bench.harness import RESULTS, quick, share, write

SHOWN, SIDE, GAP, LABEL = 8, 96, 4, 52
PAPER, INK, CLEAN, FLAWED = (250, 249, 246), (32, 34, 40), (225, 222, 214), (200, 30, 30)
SAMPLING = SamplingConfig(steps=5, batch=16)


def main() -> None:
    """Write `build/bench/strip.png` and the shares of flawed images that belong to it."""
    detector, generator = trained_detector(), Generator.load("clinic-flux", device="cpu")
    treated = treat(generator, detector, texts("treatment", 150), config=config(), work=work("treatment"))
    held_out = texts("evaluation", 24 if quick() else 120)
    with generator.untreated():
        before = generator.generate(held_out, sampling=SAMPLING)
    after = generator.generate(held_out, sampling=SAMPLING)
    judged = [flawed(before), flawed(after)]
    chosen = np.flatnonzero(judged[0])[:SHOWN]
    RESULTS.mkdir(parents=True, exist_ok=True)
    picture = strip(before[chosen], detector.predict(before[chosen]), after[chosen], judged[1][chosen])
    picture.save(RESULTS / "strip.png", optimize=True)
    note = f"{len(held_out)} held-out images, one seed, update {treated.kept_step} of {treated.updates} kept"
    write(
        "strip",
        [
            share(f"flawed_{name}", int(each.sum()), len(each), note)
            for name, each in zip(("before", "after"), judged, strict=True)
        ],
    )


def trained_detector() -> Detector:
    """The shipped detector, trained further on exact masks of drawings."""
    drawings = [stream("loop")[index] for index in range(48 if quick() else 1200)]
    config = DetectorTrainingConfig(
        steps=4 if quick() else 250, batch=16, lr=5e-4, head_factor=2.0, ema=0.98, device="cpu", workers=1
    )
    masks = [drawing.label_map > 0 for drawing in drawings]
    images = [drawing.image for drawing in drawings]
    return train_detector(images, masks, start="clinic", config=config, validation=0.1, work=work("detector"))


def work(part: str) -> Path:
    """Where a stopped run resumes; `make clean` empties it."""
    return RESULTS / "kept" / "strip" / f"{part}{'-quick' if quick() else ''}"


def texts(use: str, count: int) -> list[str]:
    """Prompts of the categories that the tiny FLUX draws badly."""
    return [prompt.text for prompt in prompts(use, count, HARD)]


def config() -> TreatmentConfig:
    """As the demo's recipe, on attention and feed-forward layers."""
    return TreatmentConfig(
        updates=2 if quick() else 60,
        batch=8,
        grad_steps=3,
        learning_rate=5e-4,
        lora=LoraSettings(targets="all"),
        sampling=SAMPLING,
        offline=None,
        guard=GuardConfig(every=1 if quick() else 20, prompts=12, seeds=2),
    )


def flawed(images: np.ndarray) -> np.ndarray:
    """Whether the judge finds a flaw in each image, bool (N,)."""
    with tempfile.TemporaryDirectory() as folder:
        judge = load_judge(materialise("judge", Path(folder) / "judge"))
        return judge.confidence(as_images(list(images))).detach().amax((1, 2)).numpy() >= JUDGE_THRESHOLD


def strip(before: np.ndarray, maps: list[np.ndarray], after: np.ndarray, still: np.ndarray) -> Image.Image:
    """Three rows of images: before, the maps, after; a red frame is a flaw by the judge."""
    rows = (("before", before), ("map", [heat(each) for each in maps]), ("after", after))
    cell = SIDE + 2 * GAP
    paper = Image.new("RGB", (LABEL + len(before) * cell, len(rows) * cell), PAPER)
    pen = ImageDraw.Draw(paper)
    for down, (name, images) in enumerate(rows):
        pen.text((GAP, down * cell + cell // 2 - 8), name, fill=INK, font=ImageFont.load_default(14))
        for across, image in enumerate(images):
            left, top = LABEL + across * cell, down * cell
            red = name == "before" or (name == "after" and still[across])
            pen.rectangle((left + 1, top + 1, left + cell - 2, top + cell - 2), fill=FLAWED if red else CLEAN)
            tile = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            paper.paste(tile, (left + GAP, top + GAP))
    return paper


def heat(confidence: np.ndarray) -> np.ndarray:
    """A map float HW in [0, 1] from black over red to yellow, uint8 HW3."""
    red, green = np.clip(confidence * 2, 0, 1), np.clip(confidence * 2 - 1, 0, 1)
    return np.uint8(np.stack([red, green * 0.85, np.zeros_like(red)], axis=-1) * 255)


if __name__ == "__main__":
    main()
