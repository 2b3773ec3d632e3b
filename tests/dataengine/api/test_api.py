"""The Python interface end to end on the clinic's small models: each part's result is what the algorithms
under it give."""

import warnings
from pathlib import Path

import numpy as np
import pytest

from dataengine import (
    ClinicError,
    Detector,
    DetectorTrainingConfig,
    Generator,
    OperatingPoint,
    RepairConfig,
    SamplingConfig,
    TreatmentConfig,
    diagnose,
    repair,
    train_detector,
    treat,
)
from dataengine.clinic.world import prompts, stream
from dataengine.images import encode_png
from dataengine.quality.config import GuardConfig

STEPS = SamplingConfig(steps=2, batch=8)
LOOSE = GuardConfig(every=1, prompts=2, seeds=2, change=(0, 1), detail=(0, 9), diversity=(0, 9))
CONFIG = TreatmentConfig(
    updates=2, batch=2, grad_steps=1, offline=None, learning_rate=5e-3, sampling=STEPS, guard=LOOSE, seed=1
)
DRAWN = [stream("benchmark")[index] for index in range(12)]
IMAGES = [drawing.image for drawing in DRAWN]
PROMPTS = [prompt.text for prompt in prompts("treatment", 6, ("hand", "face"))]


def difference(first: np.ndarray, second: np.ndarray) -> float:
    """Mean difference of 255; equal computations may round differently."""
    return float(np.abs(first.astype(int) - second).mean())


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector.load("clinic", device="cpu")


@pytest.fixture(scope="module")
def generator() -> Generator:
    """The generator as shipped; tests that treat it load their own."""
    return Generator.load("clinic-flux", device="cpu")


def test_a_detector_predicts_maps_and_is_saved_with_its_operating_point(
    detector: Detector, tmp_path: Path
) -> None:
    maps = detector.predict([IMAGES[0], IMAGES[1][:40]])
    assert [each.shape for each in maps] == [(64, 64), (40, 64)]
    assert all(each.dtype == np.float32 and 0 <= each.min() <= each.max() <= 1 for each in maps)
    assert np.allclose(maps[0], detector.network.find_artifacts(IMAGES[0]), atol=1e-6)
    again = Detector.load(detector.save(tmp_path / "saved"), device="cpu")
    assert again.operating_point == detector.operating_point != OperatingPoint()
    assert np.array_equal(again.predict(IMAGES[0])[0], detector.predict(IMAGES[0])[0])
    with pytest.raises(ClinicError, match="holds something"):
        detector.save(tmp_path / "saved")


@pytest.mark.parametrize(("location", "said"), [("absent", "no detector"), ("diffdoctor", "not shipped")])
def test_a_detector_that_is_not_there_is_refused(location: str, said: str) -> None:
    with pytest.raises(ClinicError, match=said):
        Detector.load(location)


def test_a_diagnosis_has_a_row_for_every_file_and_goes_on(detector: Detector, tmp_path: Path) -> None:
    for number, image in enumerate(IMAGES[:3]):
        (tmp_path / f"{number}.png").write_bytes(encode_png(image))
    (tmp_path / "1b.png").write_bytes(b"no image")
    (tmp_path / "notes.txt").write_text("not an image")
    table = diagnose(tmp_path, detector, batch=2)
    assert list(table.columns) == ["file", "mean", "max", "flagged", "refused"]
    assert [Path(file).name for file in table["file"]] == ["0.png", "1.png", "1b.png", "2.png", "notes.txt"]
    good, bad = table[table["refused"] == ""], table[table["refused"] != ""]
    maps = detector.predict(IMAGES[:3])
    assert np.allclose(good["max"], [each.max() for each in maps], atol=1e-6)
    assert np.allclose(good["mean"], [each.mean() for each in maps], atol=1e-6)
    point = detector.operating_point.flagged
    assert good["flagged"].tolist() == [bool(each.max() >= point) for each in maps]
    assert bad["max"].isna().all() and bad["flagged"].isna().all()
    assert bad["refused"].str.contains("not a PNG").all()
    with pytest.raises(ClinicError, match=r"1b\.png: not a PNG"):
        detector.predict(tmp_path)


def test_a_detector_is_trained_from_arrays_and_from_folders_alike(tmp_path: Path) -> None:
    config = DetectorTrainingConfig(name="mine", steps=1, batch=2, device="cpu", workers=1)
    masks = [drawing.label_map > 0 for drawing in DRAWN]
    trained = train_detector(IMAGES, masks, start="clinic", config=config, validation=0.4)
    assert trained.name == "mine" and 0 < trained.metrics["images"] < len(IMAGES)
    point = trained.operating_point
    assert point.flawed + point.clean == trained.metrics["images"]
    for number, (image, mask) in enumerate(zip(IMAGES, masks, strict=True)):
        for folder, array in (("images", image), ("masks", mask.astype(np.uint8) * 255)):
            (tmp_path / folder).mkdir(exist_ok=True)
            from PIL import Image

            Image.fromarray(array).save(tmp_path / folder / f"{number:02}.png")
    again = train_detector(
        tmp_path / "images", tmp_path / "masks", start="clinic", config=config, validation=0.4
    )
    assert again.operating_point == point
    assert np.allclose(again.predict(IMAGES[0])[0], trained.predict(IMAGES[0])[0], atol=1e-5)


def test_an_unusable_example_is_left_out_with_a_warning() -> None:
    config = DetectorTrainingConfig(steps=1, batch=2, device="cpu", workers=1)
    masks = [drawing.label_map > 0 for drawing in DRAWN[:4]]
    with pytest.warns(UserWarning, match="left out 1: the mask is"):
        train_detector(
            IMAGES[:4], [masks[0], masks[1][:5], *masks[2:]], start="clinic", config=config, validation=0
        )
    with warnings.catch_warnings(), pytest.raises(ClinicError, match="no image can be trained on: 0"):
        warnings.simplefilter("ignore")
        train_detector(IMAGES[:1], [masks[0][:5]], config=config)
    with pytest.raises(ClinicError, match="smaller validation share"):
        train_detector(IMAGES[:1], masks[:1], start="clinic", config=config, validation=0.999999)


def test_a_generator_is_treated_saved_and_loaded(detector: Detector, tmp_path: Path) -> None:
    generator = Generator.load("clinic-flux", device="cpu")
    before = generator.generate(PROMPTS[:2], sampling=STEPS)
    assert before.dtype == np.uint8 and before.shape == (2, 64, 64, 3)
    with pytest.raises(ClinicError, match="has no LoRA"), generator.untreated():
        pass
    treated = treat(generator, detector, PROMPTS, config=CONFIG)
    assert treated.updates == 2 and len(treated.history) == 2
    assert {"update", "loss", "grad_norm", "mean_confidence", "guard_change"} <= set(treated.history.columns)
    assert treated.kept_step in treated.history["update"].tolist()
    after = treated.generator.generate(PROMPTS[:2], sampling=STEPS)
    changed = difference(before, after)
    assert changed > 0
    with generator.untreated():
        assert difference(generator.generate(PROMPTS[:2], sampling=STEPS), before) < changed / 2
    folder = treated.save(tmp_path / "lora")
    loaded = Generator.load("clinic-flux", lora=folder, device="cpu")
    assert difference(loaded.generate(PROMPTS[:2], sampling=STEPS), after) < changed / 2
    weaker = Generator.load("clinic-flux", lora=folder, strength=0, device="cpu")
    assert difference(weaker.generate(PROMPTS[:2], sampling=STEPS), before) < changed / 2
    with pytest.raises(ClinicError, match="holds something"):
        treated.save(folder)


def test_what_was_not_better_is_not_saved(detector: Detector, tmp_path: Path) -> None:
    generator = Generator.load("clinic-flux", device="cpu")
    strict = LOOSE.model_copy(update={"change": (0.0, 1e-9)})
    treated = treat(
        generator, detector, PROMPTS, config=CONFIG.model_copy(update={"guard": strict, "updates": 1})
    )
    assert treated.kept_step == 0
    with pytest.raises(ClinicError, match="no update was better"):
        treated.save(tmp_path / "lora")
    assert not (tmp_path / "lora").exists()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("a single text", "a list of texts"),
        (["one prompt"], "too few to hold one out"),
        ([], "too few"),
    ],
)
def test_prompts_that_cannot_be_treated_on_are_refused(
    detector: Detector, generator: Generator, wrong: list[str], said: str
) -> None:
    with pytest.raises(ClinicError, match=said):
        treat(generator, detector, wrong, config=CONFIG)


def test_a_repair_is_taken_only_if_it_is_better(detector: Detector, generator: Generator) -> None:
    flawed = max(IMAGES, key=lambda image: float(detector.predict(image)[0].max()))
    result = repair(
        flawed, detector, generator, "a hand", config=RepairConfig(draws=1, repeats=1), sampling=STEPS
    )
    assert result.pixels.shape == flawed.shape and result.outcomes
    assert result.changed == bool((result.pixels != flawed).any())
    with pytest.raises(ClinicError, match="one image, got 2"):
        repair(IMAGES[:2], detector, generator)  # type: ignore[arg-type]
