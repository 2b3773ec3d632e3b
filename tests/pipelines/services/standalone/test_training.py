"""`clinic train IMAGES --masks MASKS`: what is trained on, what is refused, and what is written."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

import app
from dataengine.diagnosis.config import DetectorConfig
from dataengine.diagnosis.detector import load_detector
from dataengine.errors import ConfigRefused, InputRefused, NotFound
from dataengine.records import Split
from pipelines.recipes import photo
from pipelines.services import preflight
from pipelines.services.preflight import Check
from pipelines.services.standalone import training
from pipelines.services.standalone.training import MaskTraining, draw_splits, train_on_masks
from storage.opening import open_workspace

SIDE = 32
TINY = DetectorConfig(
    architecture="unet",
    encoder="resnet18",
    size=SIDE,
    options={"encoder_depth": 3, "decoder_channels": (8, 8, 8)},
)


def picture(seed: int, spot: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """A noisy picture with a red square, uint8 HW3, and where that is, bool HW."""
    rng = np.random.default_rng(seed)
    pixels = rng.normal(120, 40, (SIDE, SIDE, 3)).clip(0, 255).astype(np.uint8)
    mask = np.zeros((SIDE, SIDE), bool)
    if spot:
        top, left = rng.integers(2, SIDE - 12, 2)
        mask[top : top + 10, left : left + 10] = True
        pixels[mask] = (250, 5, 5)
    return pixels, mask


def save(path: Path, pixels: np.ndarray, **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Picture.fromarray(pixels).save(path, **how)
    return path


def fill(folder: Path, count: int = 12) -> tuple[Path, Path]:
    """Images with masks; every third mask is empty."""
    for number in range(count):
        pixels, mask = picture(number, spot=number % 3 > 0)
        save(folder / f"images/{number}.jpg", pixels, quality=95)
        save(folder / f"masks/{number}_mask.png", mask.astype(np.uint8) * 255)
    return folder / "images", folder / "masks"


def request(folder: Path, steps: int = 3, **changed: Any) -> MaskTraining:
    plan = photo(seed=changed.pop("seed", 0))
    tiny = {"detector": TINY, "steps": steps, "batch": 4, "device": "cpu", "checkpoint_every": 2}
    plan = plan.model_copy(
        update={"start": changed.pop("start", "random"), "training": plan.training.model_copy(update=tiny)}
    )
    given: dict[str, Any] = {
        "images": folder / "images",
        "masks": folder / "masks",
        "out": folder / "out",
        "validation": 0.34,
        "plan": plan,
    }
    return MaskTraining(**given | changed)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[str]]:
    """One training on a folder with everything that may be wrong with one."""
    folder = tmp_path_factory.mktemp("training")
    images, masks = fill(folder)
    save(images / "unmasked.png", picture(90)[0])
    save(images / "other.png", picture(91)[0])
    save(masks / "other.png", np.zeros((SIDE, SIDE + 1), np.uint8))
    save(masks / "nobody.png", np.zeros((SIDE, SIDE), np.uint8))
    save(images / "colours.png", picture(92)[0])
    colours = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    save(masks / "colours.png", colours)
    (images / "broken.png").write_bytes(b"\x89PNG broken")
    save(masks / "broken.png", np.zeros((SIDE, SIDE), np.uint8))
    save(images / "classes.png", picture(93)[0])
    save(masks / "classes.png", np.where(picture(93)[1], 2, 0).astype(np.uint8))
    for number in range(5):
        save(folder / f"real/{number}.png", picture(200 + number, spot=False)[0])
    said: list[str] = []
    result = train_on_masks(
        request(folder, real=folder / "real", track="tensorboard"), "cpu", say=said.append
    )
    return folder, result, said


def test_what_is_refused_is_counted_and_never_clean(
    trained: tuple[Path, dict[str, Any], list[str]],
) -> None:
    folder, result, said = trained
    data = result["data"]
    assert (data["images"], data["masked"], data["unmasked"], data["real"]) == (17, 16, 1, 5)
    assert data["lost_masks"] == 1 and data["refused"] == 3
    sets = data["sets"]
    assert sum(sets[name]["flawed"] for name in sets) == 8 + 1, "and the mask of class numbers"
    assert sum(sets[name]["clean"] for name in sets) == 4 + 5, "empty masks and real photos alone"
    assert all(sets[name]["flawed"] and sets[name]["clean"] for name in ("training", "validation"))
    assert said[0] == (
        "16 of 17 images with a mask; 1 without one, left out (--clean takes such as free of artifacts); "
        "1 mask without an image; 5 real images without artifacts; 3 files refused, never counted as "
        "clean; problems.csv lists all"
    )
    with (folder / "out/problems.csv").open(newline="") as file:
        reasons = {row["name"]: row["reason"] for row in csv.DictReader(file) if row["what"] == "refused"}
    assert reasons["nobody.png"] == "a label without an image"
    assert "the mask is (32, 33) (height, width), its image is (32, 32)" in reasons["other.png"]
    assert "the mask has colours" in reasons["colours.png"]
    assert "not a PNG" in reasons["broken.png"] or "damaged" in reasons["broken.png"]
    assert set(reasons) == {"nobody.png", "other.png", "colours.png", "broken.png"}


def test_the_output_holds_detector_card_figures_curves_and_sheet(
    trained: tuple[Path, dict[str, Any], list[str]],
) -> None:
    folder, result, _ = trained
    out = folder / "out"
    assert json.loads((out / "report.json").read_text()) == json.loads(json.dumps(result))
    figures = result["figures"]["validation"]
    assert 0 <= figures["pixel_ap"] <= 1 and len(figures["intervals"]["mse"]) == 2
    real = result["figures"]["validation_real"]["images"]
    assert figures["images"] + real == sum(result["data"]["sets"]["validation"].values())
    assert result["operating_point"]["rule"].startswith("recall at 0.05")
    detector = load_detector(out / "detector")
    assert detector.config.architecture == "unet" and detector.config.pretrained == ""
    card = (out / "detector/README.md").read_text()
    assert "| training |" in card and "| validation |" in card and "average precision of pixels" in card
    assert f"license: {result['detector']['licence'].lower()}" in card and "random" in card
    steps = [step for step, _ in result["curves"]["loss"]]
    assert steps == [1, 2, 3] and "validation_mse" in result["curves"]
    assert (out / "loss.svg").read_text().startswith("<svg") and (out / "validation.svg").is_file()
    width, height = Picture.open(out / "contact_sheet.jpg").size
    assert width > 6 * 220 and height > 220


def test_the_figures_are_logged_to_a_tracker(trained: tuple[Path, dict[str, Any], list[str]]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (logged,) = (trained[0] / "out/tracking").iterdir()
    events = EventAccumulator(str(logged))
    events.Reload()
    assert logged.name == "train-out" and [one.step for one in events.Scalars("loss")] == [1, 2, 3]


def test_the_same_call_writes_again_without_training(
    trained: tuple[Path, dict[str, Any], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, result, _ = trained

    def fail(*_: object) -> None:
        raise AssertionError("it is trained already")

    monkeypatch.setattr(training.here, "train_detector", fail)
    (folder / "out/report.json").unlink()
    again = train_on_masks(request(folder, real=folder / "real"), "cpu")
    assert again["detector"] == result["detector"] and again["figures"] == result["figures"]
    assert (folder / "out/report.json").is_file()
    for changed in ({"seed": 1}, {"steps": 4}, {"validation": 0.3}, {"clean": True}):
        with pytest.raises(InputRefused, match="holds the output of another call"):
            train_on_masks(request(folder, real=folder / "real", **changed), "cpu")


def test_the_detector_flags_at_its_operating_point_elsewhere(
    trained: tuple[Path, dict[str, Any], list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, result, _ = trained
    detector = str(folder / "out/detector")
    command = ["diagnose", str(folder / "real"), "--detector", detector, "--out", str(tmp_path / "o")]
    assert app.main(command) == 0
    assert result["operating_point"]["text"] in capsys.readouterr().out
    command = ["--workspace", str(tmp_path / "w"), "detectors", "--json", "--add", detector]
    create = ["--workspace", str(tmp_path / "w"), "import", str(folder / "real")]
    assert app.main(create) == 0 and app.main(command) == 0
    workspace = open_workspace(tmp_path / "w")
    with workspace.catalog(read_only=True) as catalog:
        (version,) = catalog.detectors.list()
    workspace.close()
    assert version.operating_point is not None
    assert version.operating_point.flagged == result["operating_point"]["flagged"]


def test_an_interrupted_training_resumes_with_the_same_result(
    trained: tuple[Path, dict[str, Any], list[str]], tmp_path: Path
) -> None:
    fill(tmp_path)
    stopped = False

    def stop(done: int, total: int, message: str = "", **figures: float) -> None:
        nonlocal stopped
        if message == "training" and done == 3 and not stopped:
            stopped = True
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_on_masks(request(tmp_path, steps=4), "cpu", report=stop)
    resumed = train_on_masks(request(tmp_path, steps=4), "cpu", report=stop)
    whole = train_on_masks(request(tmp_path, steps=4, out=tmp_path / "whole"), "cpu")
    assert resumed["curves"]["loss"] == whole["curves"]["loss"]
    assert resumed["figures"]["validation"] == whole["figures"]["validation"]


def test_clean_takes_unmasked_images_only_where_every_mask_has_its_image(tmp_path: Path) -> None:
    images, masks = fill(tmp_path, 6)
    save(images / "extra.png", picture(50, spot=False)[0])
    both = request(tmp_path, clean=True)
    found = training._read(both)
    assert found.masked == 6 and sum(row.answers is not None for row in found.labelled.rows) == 7
    save(masks / "nobody.png", np.zeros((SIDE, SIDE), np.uint8))
    found = training._read(both)
    assert sum(row.answers is not None for row in found.labelled.rows) == 6


def test_masks_inside_the_images_folder_are_no_images(tmp_path: Path) -> None:
    images, masks = fill(tmp_path, 4)
    inside = masks.rename(images / "marks")
    found = training._read(request(tmp_path, masks=inside))
    assert found.labelled.total == found.masked == 4
    outside = images.rename(tmp_path / "all")
    (outside / "marks").rename(tmp_path / "masks")
    held = outside.rename(tmp_path / "masks/pictures")
    found = training._read(request(tmp_path, images=held))
    assert found.labelled.total == found.masked == 4 and not found.labelled.refused


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"masks": "images"}, "is the folder of images and of masks"),
        ({"masks": "gone"}, "there is no folder of masks"),
        ({"images": "gone"}, "there is no folder or image"),
        ({"masks": "real"}, "no mask in .* belongs to an image"),
        ({"real": "gone"}, "there is no folder or image"),
        ({"validation": 0.0}, "must lie above 0"),
        ({"validation": 0.9}, "must lie above 0"),
    ],
)
def test_folders_that_do_not_fit_are_refused_before_anything_is_written(
    change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    fill(tmp_path, 3)
    save(tmp_path / "real/x.png", picture(1)[0])
    given: dict[str, Any] = {
        key: tmp_path / value if isinstance(value, str) else value for key, value in change.items()
    }
    with pytest.raises(InputRefused, match=said):
        train_on_masks(request(tmp_path, **given), "cpu")
    assert not (tmp_path / "out").exists()


def test_masks_that_mark_nothing_and_unknown_starts_are_one_sentence(tmp_path: Path) -> None:
    for number in range(4):
        save(tmp_path / f"images/{number}.png", picture(number, spot=False)[0])
        save(tmp_path / f"masks/{number}.png", np.zeros((SIDE, SIDE), np.uint8))
    (tmp_path / "images/broken.png").write_bytes(b"no image")
    save(tmp_path / "masks/broken.png", np.zeros((SIDE, SIDE), np.uint8))
    refused = "no mask of a training image marks an artifact .*; 1 file refused, the first is broken.png: "
    with pytest.raises(InputRefused, match=refused):
        train_on_masks(request(tmp_path), "cpu")
    assert not (tmp_path / "out").exists(), "the corrected call may name it again"
    fill(tmp_path / "good", 6)
    (tmp_path / "good/out").mkdir()
    with pytest.raises((NotFound, ConfigRefused), match="neither a detector nor a file"):
        train_on_masks(request(tmp_path / "good", start="nowhere.bin"), "cpu")
    assert not list((tmp_path / "good/out").iterdir())


def test_a_start_that_a_check_refuses_leaves_the_output_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, 6)
    full = Check(name="disk", verdict="bad", text="the disk is full")
    monkeypatch.setattr(preflight, "disk_check", lambda workspace: full)
    with pytest.raises(ConfigRefused, match="the disk is full"):
        train_on_masks(request(tmp_path), "cpu")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("seed", range(4))
def test_splits_are_drawn_by_seed_and_name(seed: int) -> None:
    names = [name for number in range(20) for name in (f"a/{number}.png", f"b/{number}.jpg")]
    plain = dict.fromkeys(names, False)
    splits = draw_splits(plain, 0.15, seed)
    held: set[Split] = set(splits.values())
    assert held == {"train", "validation"}
    assert sum(split == "validation" for split in splits.values()) == 2 * 3
    assert all(splits[f"a/{number}.png"] == splits[f"b/{number}.jpg"] for number in range(20))
    assert draw_splits(dict(reversed(plain.items())), 0.15, seed) == splits
    assert splits != draw_splits(plain, 0.15, seed + 1)
    assert draw_splits({"one.png": True}, 0.3, seed) == {"one.png": "train"}
    assert sorted(draw_splits({"1": True, "2": True}, 0.1, seed).values()) == ["train", "validation"]


@pytest.mark.parametrize("seed", range(4))
def test_both_sides_are_held_back_however_few(seed: int) -> None:
    flawed = {f"{number}.png": number < 3 for number in range(40)}
    splits = draw_splits(flawed, 0.1, seed)
    held = [name for name, split in splits.items() if split == "validation"]
    assert [sum(flawed[name] is mark for name in held) for mark in (True, False)] == [1, 4]


def test_the_command_reads_its_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    taken: list[MaskTraining] = []

    def keep(request: MaskTraining, *_: object) -> None:
        taken.append(request)
        raise InputRefused("that is enough")

    monkeypatch.setattr(training, "train_on_masks", keep)
    command = ["train", "i", "--masks", "m", "--out", "o", "--recipe", "paper", "--start", "nvidia/mit-b5"]
    command += ["--track", "tensorboard"]
    assert app.main([*command, "--seed", "3", "--set", "training.steps=7", "--name", "mine"]) == 1
    plan = taken[0].plan
    assert taken[0].track == "tensorboard"
    assert (plan.start, plan.training.steps, plan.training.seed, plan.training.name) == (
        "nvidia/mit-b5",
        7,
        3,
        "mine",
    )
    assert plan.training.detector.segformer["depths"] == [3, 6, 40, 3]
    assert app.main(["train", "i", "--masks", "m", "--out", "o", "--recipe", "gone"]) == 1
    assert "there is no recipe 'gone'; there are photo" in capsys.readouterr().err
