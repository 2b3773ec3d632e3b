"""`clinic retrain` outside rounds, in a workspace without any detector: real networks, small and for a few
updates."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dataengine.diagnosis.architectures import architecture_of
from dataengine.diagnosis.config import NVIDIA_LICENCE, DetectorConfig
from dataengine.diagnosis.detector import NetworkDetector
from dataengine.records import DetectorVersion, Image, Label, Split
from pipelines.recipes import photo_detector
from storage.opening import create_workspace, open_workspace
from storage.workspace import Workspace
from tests.pipelines.cli.test_commands import Console
from tests.pipelines.conftest import broken_picture, real_picture

SIZE = 32
TINY = DetectorConfig(
    architecture="unet",
    encoder="resnet18",
    size=SIZE,
    options={"encoder_depth": 3, "decoder_channels": (8, 8, 8)},
)
SMALL = (
    *("--set", f"training.detector={TINY.model_dump_json()}"),
    *("--set", "training.steps=3", "--set", "training.batch=4", "--set", "training.device=cpu"),
)


def fill(workspace: Workspace, licence: str = "") -> None:
    """Real pictures and labelled flawed ones, in training and validation."""
    images: list[Image] = []
    labels: list[Label] = []
    for number in range(12):
        split: Split = "validation" if number % 3 == 0 else "train"
        image, label = broken_picture(workspace, "a photo of a hand", 100 + number)
        images.append(replace(image, source="imported", split=split, licence=licence))
        labels.append(label)
        clean = real_picture(workspace, "a photo of a tree", number)
        images.append(replace(clean, split=split, licence="CC0-1.0"))
    with workspace.catalog() as catalog:
        catalog.images.add_many(images)
        for label in labels:
            catalog.labels.submit(label)
        catalog.commit()


@pytest.fixture
def console(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Console:
    console = Console(tmp_path / "w", capsys)
    with closing(create_workspace(console.path)) as workspace:
        fill(workspace)
    return console


def encoder_file(path: Path, config: DetectorConfig = TINY) -> Path:
    """Weights of a whole network of this configuration, as another tool might have saved them."""
    state = architecture_of(config).published(NetworkDetector.fresh(config, 7).network)
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    return path


def detectors(console: Console) -> list[DetectorVersion]:
    with closing(open_workspace(console.path)) as workspace, workspace.catalog(read_only=True) as catalog:
        return catalog.detectors.list()


def test_the_photo_recipe_makes_a_first_detector_with_an_operating_point(
    console: Console, tmp_path: Path
) -> None:
    weights = encoder_file(tmp_path / "imagenet.safetensors")
    result = console.json("retrain", "--recipe", "photo", "--start", str(weights), *SMALL)
    (made,) = detectors(console)
    assert made.id == result["detector"] and made.role == "candidate" and made.parent is None
    assert made.domain == "" and made.round_id is None and result["champion"] is None
    assert made.operating_point is not None
    assert made.operating_point.rule == "recall at 0.05 false alarms" and made.operating_point.flawed == 4
    assert made.metrics["training"]["pretrained"] == "imagenet.safetensors"
    assert made.metrics["training"]["images_by_licence"] == {"": 8, "CC0-1.0": 8}
    assert made.licence == "unstated" and made.config["augmentation"]["resave"] == 0.5
    assert result["samples"] == {"previous": 8, "real": 8}
    assert any("licence" in text or "unstated" in text for text in result["warnings"])
    # It starts from the encoder in the file: three updates at that rate hardly move its first layer.
    with closing(open_workspace(console.path)) as workspace:
        folder = workspace.checkpoints.fetch(made.checkpoint)
        trained = load_file(folder / "model.safetensors")["encoder.conv1.weight"]
    given = load_file(weights)["encoder.conv1.weight"]
    fresh = NetworkDetector.fresh(TINY, 0).network.state_dict()["encoder.conv1.weight"]
    assert (trained - given).abs().max() < 0.02 < (trained - fresh).abs().max()
    status, out, err = console("detectors", "--promote", made.id)
    assert status == 0 and "is champion" in out, err
    again = console.json("retrain", "--set", "training.steps=2")
    assert again["detector"] != made.id and again["champion"] == made.id
    second = next(one for one in detectors(console) if one.id == again["detector"])
    assert second.parent == made.id and second.licence == "unstated"
    assert second.metrics["training"]["pretrained"] == "imagenet.safetensors"
    assert second.config["encoder_weights"] == "" and second.config["steps"] == 2


def test_random_weights_and_a_network_of_nvidias_are_named_for_what_they_are(console: Console) -> None:
    status, out, err = console(
        "retrain", "--start", "random", "--recipe", "photo", "--name", "mine", *SMALL,
        "--set", f"training.detector.licence={NVIDIA_LICENCE}",
    )  # fmt: skip
    assert status == 0, err
    (made,) = detectors(console)
    assert made.name == "mine" and made.parent is None and made.licence == NVIDIA_LICENCE
    assert made.metrics["training"]["pretrained"] == "" and made.config["encoder_weights"] == ""
    assert "starts from random weights" in out and "Set encoder factor back to the default" in out
    assert "It forbids commercial use." in out and f"clinic detectors --promote {made.id}" in out
    assert f"mine: {NVIDIA_LICENCE} forbids commercial use" in console("detectors")[1]
    (row,) = console.json("detectors")["detectors"]
    assert row["licence"] == NVIDIA_LICENCE and row["pretrained"] == ""


def test_what_training_images_forbid_is_said_and_inherited(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console = Console(tmp_path / "w", capsys)
    with closing(create_workspace(console.path)) as workspace:
        fill(workspace, licence="CC-BY-NC-4.0")
    status, out, err = console("retrain", "--start", "random", "--recipe", "photo", *SMALL)
    assert status == 0, err
    assert "8 under CC-BY-NC-4.0 (no commercial use). The detector inherits that." in out
    (made,) = detectors(console)
    assert made.licence == "Apache-2.0; trained on images under CC-BY-NC-4.0"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--recipe", "demo"), "here is no detector to start from; choose a start: a registered"),
        (("--start", "no-such"), "here is neither a detector nor a file 'no-such' to start from; choose"),
        (("--recipe", "phto", "--start", "random"), "there is no recipe 'phto'; there are photo, demo,"),
        (
            ("--start", "imagenet", "--recipe", "paper"),
            "no ImageNet weights under a free licence for SegFormer",
        ),
        (("--start", "nvidia/mit-b2", "--recipe", "paper"), "of another size than this SegFormer; choose nv"),
        (("--start", "nvidia/mit-b2", "--recipe", "photo"), "an encoder of SegFormer; this network is unet"),
        (("--start", "{folder}", "--recipe", "photo"), "holds neither model.safetensors nor"),
        (("--start", "{head}", *SMALL), "fits 0 of the encoder's 100 tensors"),
        (("--start", "{evil}", *SMALL), "holds more than tensors and is not loaded"),
        (("--start", "{deeper}", *SMALL), "so it is of a deeper one"),
        (("--start", "random", "--set", "training.stps=3"), "--set training.stps=3: expected NAME=VALUE"),
        (("--start", "random", "--round", "r"), "--round and --engine belong to the stage of a round"),
    ],
)
def test_what_cannot_be_started_from_is_one_sentence(
    arguments: tuple[str, ...], sentence: str, console: Console, tmp_path: Path
) -> None:
    places = {
        name: tmp_path / name for name in ("folder", "head.safetensors", "evil.pth", "deeper.safetensors")
    }
    (tmp_path / "folder").mkdir()
    save_file({"decode_head.weight": torch.ones(3)}, places["head.safetensors"])
    torch.save({"model": object()}, places["evil.pth"])
    if "{deeper}" in arguments:
        encoder_file(places["deeper.safetensors"], TINY.model_copy(update={"encoder": "resnet34"}))
    named = {f"{{{name.partition('.')[0]}}}": str(path) for name, path in places.items()}
    status, _, err = console("retrain", *(named.get(one, one) for one in arguments))
    assert status == 1 and sentence in err and err.count("\n") == 1, err
    assert detectors(console) == []


def test_weights_of_the_hub_that_cannot_be_fetched_are_one_sentence(console: Console) -> None:
    status, _, err = console("retrain", "--recipe", "photo", *SMALL)
    assert status == 1 and "cannot be fetched from the hub" in err and "give a file of weights" in err
    assert detectors(console) == []


def test_a_training_is_queued_with_its_start_fixed(console: Console, tmp_path: Path) -> None:
    weights = encoder_file(tmp_path / "imagenet.safetensors")
    queued = console.json("retrain", "--recipe", "photo", "--start", str(weights), "--detach", *SMALL)
    with closing(open_workspace(console.path)) as workspace, workspace.catalog(read_only=True) as catalog:
        settings = catalog.jobs.get(queued["job"]).args["settings"]
    assert settings["start"] == settings["training"]["encoder_weights"] == str(weights)
    assert settings["training"]["encoder_factor"] == photo_detector().encoder_factor


def test_the_next_training_after_a_finished_one_is_another(console: Console) -> None:
    arguments = ("retrain", "--start", "random", "--recipe", "photo", *SMALL)
    one, two = console.json(*arguments)["detector"], console.json(*arguments)["detector"]
    assert one != two and len(detectors(console)) == 2
