"""Exports of detectors, opened by transformers, onnxruntime and torch where our packages are absent."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dataengine.clinic.parts import materialise
from dataengine.diagnosis import exports
from dataengine.diagnosis.calibration import apply_temperature
from dataengine.diagnosis.config import DetectorConfig
from dataengine.diagnosis.detector import NetworkDetector, load_detector
from dataengine.errors import ConfigRefused, ModelRefused
from dataengine.images import encode_png
from tests.dataengine.diagnosis.tiny import SEGFORMER, UNET
from tests.without_us import run_without_us

SIZES = ((64, 64), (96, 40), (130, 201))


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> NetworkDetector:
    """The shipped detector, a trained one, so that its maps hold high and low confidences."""
    return load_detector(materialise("first_doctor", tmp_path_factory.mktemp("clinic") / "detector"))


def varied(config: DetectorConfig, seed: int = 0) -> NetworkDetector:
    """A random network whose maps are far from one constant."""
    detector = NetworkDetector.fresh(config, seed).eval().requires_grad_(False)
    last = [module for module in detector.modules() if isinstance(module, torch.nn.Conv2d)][-1]
    logits = detector.confidence(torch.rand(4, 3, config.size, config.size)).logit()
    last.weight.mul_(3 / logits.std())
    return detector


def drawings(folder: Path) -> list[np.ndarray]:
    """Images of `SIZES` with gradients and edges, also written to the folder as 0.png, …"""
    found = []
    for number, (height, width) in enumerate(SIZES):
        rng = np.random.default_rng(number)
        image = np.linspace(0, 255, height * width * 3).reshape(height, width, 3).astype(np.uint8)
        image[height // 4 : height // 2, width // 3 : width // 2] = rng.integers(0, 255, 3)
        image[height // 2 :, : width // 4] = rng.integers(0, 255, (height - height // 2, width // 4, 3))
        (folder / f"{number}.png").write_bytes(encode_png(image))
        found.append(image)
    return found


TRANSFORMERS = """
import numpy as np, torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, pipeline

model = AutoModelForSemanticSegmentation.from_pretrained("out")
processor = AutoImageProcessor.from_pretrained("out")
segment = pipeline("image-segmentation", model="out")
for number in range(3):
    image = Image.open(f"{number}.png").convert("RGB")
    with torch.no_grad():
        # As floats, since the processor rounds what it resizes as bytes.
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
        inputs = processor(pixels, do_rescale=False, return_tensors="pt")["pixel_values"]
        logits = model(pixel_values=inputs).logits
    assert torch.equal(logits[:, 0], torch.zeros_like(logits[:, 0]))
    size = (image.height, image.width)
    logits = torch.nn.functional.interpolate(logits, size, mode="bilinear", align_corners=False)
    np.save(f"map{number}.npy", logits.softmax(1)[0, 1].numpy())
    masks = {one["label"]: np.array(one["mask"]) > 0 for one in segment(image)}
    np.save(f"mask{number}.npy", masks.get("artifact", np.zeros(size, bool)))
print(json.dumps([model.config.id2label, model.config.artifact_detector]))
"""


def test_transformers_opens_the_folder_without_us(clinic: NetworkDetector, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    exports.export_detector(clinic, tmp_path / "out", "transformers", facts={"flagged": 0.25})
    images = drawings(tmp_path)
    labels, facts = run_without_us(TRANSFORMERS, tmp_path)
    assert (labels, facts) == ({"0": "clean", "1": "artifact"}, {"flagged": 0.25})
    seen = []
    for number, image in enumerate(images):
        ours = clinic.find_artifacts(image)
        theirs = np.load(tmp_path / f"map{number}.npy")
        assert theirs.shape == ours.shape
        assert np.abs(theirs - ours).max() <= 1e-5
        # The pipeline resizes bytes, so a pixel near 0.5 may fall on the other side.
        differs = np.load(tmp_path / f"mask{number}.npy") != (ours > 0.5)
        assert np.abs(ours[differs] - 0.5).max(initial=0) < 0.05
        assert differs.mean() < 0.01
        seen.append(ours)
    assert min(each.min() for each in seen) < 0.4 < 0.6 < max(each.max() for each in seen)


def test_a_temperature_is_folded_into_the_logits(clinic: NetworkDetector, tmp_path: Path) -> None:
    exports.export_detector(clinic, tmp_path, "transformers", temperature=2.5)
    predict = exports.READERS["transformers"](tmp_path)
    image = drawings(tmp_path)[0]
    theirs = predict(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)[0].numpy()
    ours = clinic.find_artifacts(image)
    assert np.abs(theirs - apply_temperature(ours, 2.5)).max() < 1e-5
    assert np.abs(theirs - ours).max() > 0.05


def test_half_precision_is_stored_in_float16_and_is_near(clinic: NetworkDetector, tmp_path: Path) -> None:
    difference = exports.export_detector(clinic, tmp_path, "transformers", half=True)
    state = load_file(tmp_path / "model.safetensors")
    assert {tensor.dtype for tensor in state.values() if tensor.is_floating_point()} == {torch.float16}
    assert 0 < difference <= exports.CLOSE_IN_HALF


@pytest.mark.parametrize(
    ("changes", "format", "words"),
    [
        ({"fit": "tiles"}, "onnx", "overlapping tiles"),
        ({"fit": "tiles"}, "transformers", "overlapping tiles"),
        ({"architecture": "unet"}, "transformers", "--format onnx or --format torch"),
        ({"architecture": "smp-segformer"}, "transformers", "'smp-segformer' of segmentation-models-pytorch"),
        ({}, "coreml", "there is no export format 'coreml'; choose one of transformers, onnx, torch"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(changes: dict, format: str, words: str, tmp_path: Path) -> None:
    detector = NetworkDetector(SEGFORMER.model_copy(update=changes), torch.nn.Identity())
    with pytest.raises(ConfigRefused, match=words):
        exports.export_detector(detector, tmp_path, format)
    assert not list(tmp_path.iterdir())


def test_a_file_that_gives_other_maps_is_not_handed_out(
    clinic: NetworkDetector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = exports.READERS["transformers"]
    shifted = {"transformers": lambda folder: lambda images: right(folder)(images) + 2e-5}
    monkeypatch.setattr(exports, "READERS", shifted)
    with pytest.raises(ModelRefused, match="differs by 2e-05 from its own maps, more than 1e-05"):
        exports.export_detector(clinic, tmp_path, "transformers")


def test_without_the_extra_onnx_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConfigRefused, match=r"needs onnxscript; install the extra.*artifact-clinic\[onnx\]"):
        exports.export_detector(varied(SEGFORMER), tmp_path, "onnx")


ONNX = """
import numpy as np, onnxruntime

session = onnxruntime.InferenceSession("detector.onnx", providers=["CPUExecutionProvider"])
batches = np.load("images.npz")
np.savez("maps.npz", **{name: session.run(None, {"images": batches[name]})[0] for name in batches.files})
print(json.dumps([session.get_inputs()[0].shape, session.get_modelmeta().custom_metadata_map]))
"""
TORCH = """
import numpy as np, torch

detector = torch.export.load("detector.pt2").module()
batches = np.load("images.npz")
maps = {name: detector(torch.from_numpy(batches[name])).numpy() for name in batches.files}
np.savez("maps.npz", **maps)
assert not {"segmentation_models_pytorch", "transformers", "timm"} & sys.modules.keys()
print("null")
"""
BATCHES = ((1, 32, 32), (5, 64, 64), (2, 33, 130), (1, 300, 41), (3, 16, 16))


def compare(detector: NetworkDetector, program: str, folder: Path, limit: float) -> object:
    """What the program prints, once its maps of batches of many sizes were compared with the detector's."""
    rng = np.random.default_rng(1)
    batches = {
        f"b{number}": rng.random((count, 3, height, width), np.float32)
        for number, (count, height, width) in enumerate(BATCHES)
    }
    np.savez(folder / "images.npz", **batches)
    printed = run_without_us(program, folder)
    spread = 0.0
    with np.load(folder / "maps.npz") as maps:
        for name, batch in batches.items():
            with torch.no_grad():
                ours = detector.confidence(torch.from_numpy(batch)).numpy()
            assert maps[name].shape == ours.shape
            assert np.abs(maps[name] - ours).max() <= limit
            spread = max(spread, float(np.ptp(ours)))
    assert spread > 0.3
    return printed


def test_onnxruntime_gives_the_maps_of_every_size_and_batch(tmp_path: Path) -> None:
    detector = varied(SEGFORMER)
    exports.export_detector(detector, tmp_path, "onnx", facts={"flagged": 0.25, "name": "tiny"})
    shape, metadata = compare(detector, ONNX, tmp_path, 1e-4)  # type: ignore[misc]
    assert shape == ["batch", 3, "height", "width"]
    assert metadata["flagged"] == "0.25"


@pytest.mark.exports
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("config", [SEGFORMER, UNET, UNET.model_copy(update={"architecture": "fpn"})])
def test_every_kind_of_network_and_resizing_as_onnx(
    config: DetectorConfig, antialias: bool, tmp_path: Path
) -> None:
    options = {} if config.architecture != "fpn" else {"options": {}}
    detector = varied(config.model_copy(update={"antialias": antialias, **options}))
    exports.export_detector(detector, tmp_path, "onnx")
    compare(detector, ONNX, tmp_path, 1e-4)


@pytest.mark.exports
@pytest.mark.parametrize("config", [SEGFORMER, UNET])
def test_torch_alone_gives_the_maps(config: DetectorConfig, tmp_path: Path) -> None:
    detector = varied(config)
    exports.export_detector(detector, tmp_path, "torch")
    compare(detector, TORCH, tmp_path, 1e-5)


@pytest.mark.exports
@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_half_precision_in_a_single_file(format: str, clinic: NetworkDetector, tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    (tmp_path / "whole").mkdir()
    assert exports.export_detector(clinic, tmp_path / "half", format, half=True) <= exports.CLOSE_IN_HALF
    exports.export_detector(clinic, tmp_path / "whole", format)
    sizes = [sum(file.stat().st_size for file in (tmp_path / one).iterdir()) for one in ("half", "whole")]
    assert sizes[0] < 0.75 * sizes[1]
