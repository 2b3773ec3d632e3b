import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from dataengine.diagnosis.architectures import architecture_of, mit_variant
from dataengine.diagnosis.config import IMAGENET_MEAN, IMAGENET_STD, MIT, DetectorConfig, published_config
from dataengine.diagnosis.detector import (
    NetworkDetector,
    antialiased,
    artifact_maps,
    load_detector,
    save_detector,
    tile_starts,
    tile_weight,
)
from dataengine.errors import ConfigRefused, ImageRefused, ModelRefused
from tests.dataengine.diagnosis.detector_contract import DetectorContract
from tests.dataengine.diagnosis.tiny import SEGFORMER, UNET
from tests.dataengine.treatment.tiny import ToyDetector


class SavedContract(DetectorContract):
    """The contract for detectors that live in a folder."""

    config: DetectorConfig

    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("detector")
        save_detector(NetworkDetector.fresh(self.config, seed=1), folder)
        return folder

    @pytest.fixture
    def detector(self, folder: Path) -> NetworkDetector:
        return load_detector(folder)

    def test_saved_and_loaded_it_gives_the_same_map(self, detector: NetworkDetector, tmp_path: Path) -> None:
        save_detector(detector, tmp_path / "again")
        images = torch.rand((2, 3, 41, 32))
        assert torch.equal(load_detector(tmp_path / "again").confidence(images), detector.confidence(images))

    def test_loaded_it_is_frozen_and_evaluating(self, detector: NetworkDetector) -> None:
        assert not any(parameter.requires_grad for parameter in detector.parameters())
        assert not any(module.training for module in detector.modules())

    def test_it_accepts_half_precision(self, detector: NetworkDetector) -> None:
        image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        exact = detector.find_artifacts(image)
        rough = detector.to(torch.bfloat16).find_artifacts(image)
        assert rough.dtype == np.float32 and np.allclose(rough, exact, atol=0.05)


class TestSegformer(SavedContract):
    config = SEGFORMER


class TestUnet(SavedContract):
    config = UNET


class TestTiles(SavedContract):
    config = SEGFORMER.model_copy(update={"fit": "tiles"})


class TestSmpSegformer(SavedContract):
    config = UNET.model_copy(update={"architecture": "smp-segformer", "options": {}})


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SegformerForSemanticSegmentation]:
    """A one-channel mit-b0 with random weights as the authors publish theirs, and the network itself."""
    torch.manual_seed(0)
    network = SegformerForSemanticSegmentation(SegformerConfig(num_labels=1, **MIT["b0"])).eval()
    folder = tmp_path_factory.mktemp("published")
    network.save_pretrained(folder)
    return folder / "model.safetensors", network


@pytest.mark.parametrize("size", [(512, 512), (300, 420)])
def test_the_published_form_gives_the_authors_map(
    published: tuple[Path, SegformerForSemanticSegmentation], tmp_path: Path, size: tuple[int, int]
) -> None:
    from safetensors.torch import load_file

    file, network = published
    plain = tmp_path / "ad_pytorch_model.bin"
    torch.save(load_file(file), plain)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255

    square = F.interpolate(tensor, (512, 512), mode="bilinear", align_corners=False)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        logits = network(pixel_values=(square - mean) / std).logits
    assert logits.shape[-2:] == (128, 128)
    expected = F.interpolate(logits, size, mode="bilinear", align_corners=False)[0, 0].sigmoid().numpy()

    for path in (file, plain):
        detector = load_detector(path)
        assert detector.config == published_config("b0")
        assert np.abs(detector.find_artifacts(image) - expected).max() < 1e-5
        assert np.abs(detector.confidence(tensor)[0].numpy() - expected).max() < 1e-5


def test_treatment_antialiases_and_inference_does_as_the_detector_says() -> None:
    """As the authors do; the network is the same, and neither way changes the other."""
    detector = NetworkDetector.fresh(SEGFORMER.model_copy(update={"antialias": False}), seed=1).eval()
    images = torch.rand((2, 3, 100, 84), generator=torch.Generator().manual_seed(0))
    treating = antialiased(detector)
    square = (SEGFORMER.size, SEGFORMER.size)
    for which, antialias in ((detector, False), (treating, True), (detector, False)):
        small = F.interpolate(images, square, mode="bilinear", align_corners=False, antialias=antialias)
        normal = (small - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[
            :, None, None
        ]
        logits = architecture_of(SEGFORMER).logits(detector.network, normal)
        expected = F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)[
            :, 0
        ].sigmoid()
        assert torch.allclose(which.confidence(images), expected, atol=1e-5)
    assert not torch.allclose(treating.confidence(images), detector.confidence(images), atol=1e-4)
    assert treating.network is detector.network and not treating.training
    assert not detector.config.antialias and antialiased(treating) is treating
    half = antialiased(detector.to(torch.bfloat16))
    assert half.mean.dtype == torch.bfloat16


def test_a_detector_without_that_setting_treats_as_it_is() -> None:
    toy = ToyDetector()
    assert antialiased(toy) is toy


def test_weights_travel_under_their_published_names(
    published: tuple[Path, SegformerForSemanticSegmentation], tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    save_detector(load_detector(published[0]), tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert {
        "segformer.encoder.block.0.0.attention.self.query.weight",
        "decode_head.linear_c.0.proj.weight",
    } <= set(saved)
    assert set(saved) == set(load_file(published[0]))


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    class Planted:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save({"decode_head.classifier.weight": Planted()}, tmp_path / "bad.bin")
    with pytest.raises(ModelRefused, match="more than tensors"):
        load_detector(tmp_path / "bad.bin")
    assert not (tmp_path / "executed").exists()


def test_what_is_no_detector_is_refused_by_name(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "foreign.bin")
    with pytest.raises(ModelRefused, match="not a one-channel SegFormer"):
        load_detector(tmp_path / "foreign.bin")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00")
    with pytest.raises(ModelRefused, match="cannot be read"):
        load_detector(tmp_path / "cut.safetensors")
    with pytest.raises(ModelRefused, match=r"detector\.json"):
        load_detector(tmp_path)
    (tmp_path / "detector.json").write_text('{"size": "large"}')
    with pytest.raises(ModelRefused, match="no detector configuration"):
        load_detector(tmp_path)


@pytest.mark.parametrize("config", [SEGFORMER, UNET], ids=["segformer", "unet"])
def test_weights_of_other_shapes_are_refused(config: DetectorConfig, tmp_path: Path) -> None:
    save_detector(NetworkDetector.fresh(config), tmp_path)
    other = json.loads((tmp_path / "detector.json").read_text())
    other["segformer"]["decoder_hidden_size"] = 8
    other["options"]["decoder_channels"] = [4, 4, 4]
    (tmp_path / "detector.json").write_text(json.dumps(other))
    with pytest.raises(ModelRefused, match="do not fit"):
        load_detector(tmp_path)


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(ConfigRefused, match="no architecture 'nonesuch'"):
        NetworkDetector.fresh(UNET.model_copy(update={"architecture": "nonesuch"}))


def test_sizes_that_a_network_cannot_take_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 32"):
        DetectorConfig(architecture="unet", size=48)


def test_what_is_no_picture_is_refused() -> None:
    detector = NetworkDetector.fresh(SEGFORMER).eval()
    for wrong in (np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3), np.float32)):
        with pytest.raises(ImageRefused, match="expected"):
            detector.find_artifacts(wrong)
    with pytest.raises(ImageRefused, match="N3HW"):
        detector.confidence(torch.zeros(3, 32, 32))


def test_many_maps_come_back_in_order_and_at_their_own_size() -> None:
    detector = NetworkDetector.fresh(SEGFORMER, seed=1).eval()
    rng = np.random.default_rng(0)
    sizes = [(32, 32), (20, 45), (32, 32), (20, 45), (32, 32)]
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    maps = artifact_maps(detector, images, batch=2)
    assert [found.shape for found in maps] == sizes
    for image, found in zip(images, maps, strict=True):
        assert np.allclose(found, detector.find_artifacts(image), atol=1e-5)
    assert artifact_maps(detector, []) == []


def test_a_map_that_is_no_number_is_one_clear_error() -> None:
    detector = NetworkDetector.fresh(SEGFORMER, seed=1).eval()
    with torch.no_grad():
        next(detector.parameters()).fill_(float("nan"))
    with pytest.raises(ModelRefused, match="tiny segformer predicts NaN confidences"):
        artifact_maps(detector, [np.zeros((8, 8, 3), np.uint8)])


@pytest.mark.parametrize(("length", "overlap"), [(32, 0.25), (33, 0.25), (100, 0.25), (100, 0.0), (97, 0.5)])
def test_tiles_cover_everything_and_overlap_enough(length: int, overlap: float) -> None:
    starts = tile_starts(length, 32, overlap)
    assert starts[0] == 0 and starts[-1] + 32 == length
    steps = np.diff(starts)
    assert (steps > 0).all() and (steps <= np.ceil(32 * (1 - overlap))).all()


def test_the_blend_of_tiles_has_no_holes() -> None:
    weight = tile_weight(32, 0.25)
    assert weight.shape == (32, 32) and weight.min() > 0 and weight.max() == 1
    assert weight[0, 16] < weight[4, 16] < weight[16, 16]


def test_a_picture_of_one_tile_is_seen_the_same_in_both_ways_of_fitting() -> None:
    squeezing = NetworkDetector.fresh(SEGFORMER, seed=1).eval()
    tiling = NetworkDetector(SEGFORMER.model_copy(update={"fit": "tiles"}), squeezing.network).eval()
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(squeezing.confidence(images), tiling.confidence(images))
    wide = torch.cat([images, images], dim=3)
    assert not torch.allclose(squeezing.confidence(wide), tiling.confidence(wide), atol=1e-6)


def test_a_picture_of_2048_stays_within_bounded_memory(tmp_path: Path) -> None:
    quick = SEGFORMER.segformer | {"strides": [4, 2, 2, 2]}
    for fit in ("resize", "tiles"):
        config = SEGFORMER.model_copy(update={"fit": fit, "size": 256, "segformer": quick})
        save_detector(NetworkDetector.fresh(config), tmp_path / fit)
    program = f"""
import resource, numpy as np
from pathlib import Path
from dataengine.diagnosis.detector import load_detector
detectors = [load_detector(Path({str(tmp_path)!r}) / fit) for fit in ("resize", "tiles")]
for detector in detectors:
    detector.find_artifacts(np.zeros((256, 256, 3), np.uint8))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
image = np.random.default_rng(0).integers(0, 256, (2048, 2048, 3), dtype=np.uint8)
for detector in detectors:
    assert detector.find_artifacts(image).shape == (2048, 2048)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 400, f"grew by {done.stdout.strip()} MiB"


@pytest.mark.parametrize("variant", list(MIT))
def test_a_published_state_dict_names_its_variant(variant: str) -> None:
    sizes = MIT[variant]
    state = {"decode_head.classifier.weight": torch.empty(1, sizes["decoder_hidden_size"], 1, 1)}
    for stage, (width, depth) in enumerate(zip(sizes["hidden_sizes"], sizes["depths"], strict=True)):
        state[f"segformer.encoder.patch_embeddings.{stage}.proj.weight"] = torch.empty(width, 3, 3, 3)
        for block in range(depth):
            state[f"segformer.encoder.block.{stage}.{block}.layer_norm_1.weight"] = torch.empty(width)
    assert mit_variant(state) == variant
    block = re.compile(r"encoder\.block\.(\d)")
    renamed = {
        block.sub(r"stages.\1.blocks", key.replace("encoder.patch_embeddings.", "stages.")).replace(
            ".proj.", ".patch_embeddings.proj."
        ): value
        for key, value in state.items()
    }
    assert mit_variant(renamed) == variant, "transformers 5 calls them otherwise"
    with pytest.raises(ModelRefused):
        mit_variant(
            state | {"decode_head.classifier.weight": torch.empty(150, sizes["decoder_hidden_size"], 1, 1)}
        )


@pytest.mark.parametrize("config", [SEGFORMER, UNET], ids=["segformer", "unet"])
@pytest.mark.parametrize("change", ["foreign", "absent"])
def test_foreign_and_absent_keys_are_refused(config: DetectorConfig, change: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_detector(NetworkDetector.fresh(config), tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    if change == "foreign":
        state["somebody.elses.weight"] = torch.zeros(3)
    else:
        state.pop(next(key for key in sorted(state) if key.endswith("weight")))
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelRefused, match="do not fit"):
        load_detector(tmp_path)


def expect_weights_of(network: torch.nn.Module, detector: NetworkDetector) -> None:
    expected, found = network.state_dict(), detector.network.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def parallel(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"module.{key}": value for key, value in state.items()}


CHECKPOINTS: dict[str, Callable[[dict[str, torch.Tensor]], object]] = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"state": {}, "lr": 0.1}},
    "model": lambda state: {"iter": 160000, "model": state, "model_ema": {}},
    "both": lambda state: {"model": {"state_dict": state}},
    "DataParallel": parallel,
    "DataParallel, compiled, wrapped": lambda state: {
        "state_dict": {f"_orig_mod.{key}": value for key, value in parallel(state).items()}
    },
    "Lightning": lambda state: {"state_dict": {f"model.{key}": value for key, value in state.items()}},
}
"""What training scripts save, by name."""


@pytest.mark.parametrize("names", ["published", "of transformers 5"])
@pytest.mark.parametrize("wrapped", list(CHECKPOINTS))
def test_checkpoints_of_training_scripts_are_read(
    published: tuple[Path, SegformerForSemanticSegmentation], names: str, wrapped: str, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    file, network = published
    state = load_file(file) if names == "published" else dict(network.state_dict())
    torch.save(CHECKPOINTS[wrapped](state), tmp_path / "checkpoint.pth")
    expect_weights_of(network, load_detector(tmp_path / "checkpoint.pth"))


def test_safetensors_under_other_names_are_read(
    published: tuple[Path, SegformerForSemanticSegmentation], tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    save_file(parallel(dict(published[1].state_dict())), tmp_path / "other.safetensors")
    expect_weights_of(published[1], load_detector(tmp_path / "other.safetensors"))


@pytest.mark.parametrize(
    "content", [{}, {"epoch": 3}, {"state_dict": {}}, {"state_dict": 3}, [1.0], {"model": {"lr": 0.1}}]
)
def test_checkpoints_without_weights_are_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "empty.pt")
    with pytest.raises(ModelRefused):
        load_detector(tmp_path / "empty.pt")
