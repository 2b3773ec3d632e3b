"""The detector's contract over every architecture that has a name, and the published mit-b5 at full size."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from dataengine.diagnosis.architectures import architecture_of
from dataengine.diagnosis.config import IMAGENET_MEAN, IMAGENET_STD, MIT, DetectorConfig, published_config
from dataengine.diagnosis.detector import Detector, NetworkDetector, load_detector, save_detector
from dataengine.errors import ConfigRefused
from dataengine.safetensors_header import tensor_shapes
from tests.dataengine.diagnosis.detector_contract import DetectorContract
from tests.dataengine.diagnosis.tiny import SIDE

NARROW = {
    "hidden_sizes": [8, 8, 16, 16],
    "num_attention_heads": [1, 1, 2, 2],
    "mlp_ratios": [2, 2, 2, 2],
    "strides": [2, 2, 2, 2],
    "decoder_hidden_size": 16,
}
"""The named sizes keep their depths; their widths are cut for tests."""

SMP: dict[str, dict[str, Any]] = {
    name: {} for name in sorted(smp.MODEL_ARCHITECTURES_MAPPING) if name not in ("segformer", "dpt", "pan")
} | {
    "smp-segformer": {},
    "dpt": {"encoder": "tu-vit_tiny_patch16_224", "options": {"dynamic_img_size": True}},
    "pan": {"size": 128},
}
"""Every architecture of segmentation-models-pytorch, with what it needs beside its name."""


def configurations() -> dict[str, DetectorConfig]:
    by_name = {
        f"segformer-{name}": DetectorConfig(size=SIDE, segformer=sizes | NARROW)
        for name, sizes in MIT.items()
    }
    for name, needs in SMP.items():
        settings: dict[str, Any] = {"architecture": name, "encoder": "resnet18", "size": 2 * SIDE} | needs
        by_name[name] = DetectorConfig(name=name, **settings)
    return by_name


CONFIGURATIONS = configurations()


def expect_stated_layers(config: DetectorConfig, shapes: Mapping[str, Sequence[int]]) -> None:
    """One weight reads RGB, one gives the map, and the architecture names both."""
    stated = architecture_of(config)
    first = [shape for name, shape in shapes.items() if name.endswith(stated.first)]
    last = [shape for name, shape in shapes.items() if name.endswith(stated.last)]
    assert [shape[1] for shape in first] == [3] and [shape[0] for shape in last] == [1]


@pytest.mark.parametrize(
    "encoder", ["efficientnet-b0", "mit_b0", "vgg11", "mobilenet_v2", "densenet121", "se_resnet50"]
)
def test_the_first_layer_of_other_encoders_is_stated(encoder: str) -> None:
    config = DetectorConfig(architecture="unet", encoder=encoder, size=64)
    network = architecture_of(config).build(config)
    expect_stated_layers(config, {name: weight.shape for name, weight in network.state_dict().items()})


class TestEveryArchitecture(DetectorContract):
    @pytest.fixture(scope="class", params=list(CONFIGURATIONS))
    def saved(self, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("detector")
        save_detector(NetworkDetector.fresh(CONFIGURATIONS[request.param], seed=1), folder)
        return folder

    @pytest.fixture(scope="class")
    def detector(self, saved: Path) -> Detector:
        return load_detector(saved)

    def test_its_first_and_last_layer_are_what_it_states(self, saved: Path, detector: Detector) -> None:
        assert isinstance(detector, NetworkDetector)
        expect_stated_layers(detector.config, tensor_shapes(saved / "model.safetensors"))

    def test_its_encoder_tells_pictures_apart(self, detector: NetworkDetector) -> None:
        found = detector.features(torch.rand((2, 3, 40, 24), generator=torch.Generator().manual_seed(0)))
        assert found.shape[0] == 2 and found.ndim == 2 and not torch.allclose(found[0], found[1])


def test_a_size_of_segformer_goes_by_its_name() -> None:
    assert DetectorConfig.model_validate({"segformer": "b2"}).segformer == MIT["b2"]
    with pytest.raises(ValueError, match="no SegFormer 'b6'"):
        DetectorConfig.model_validate({"segformer": "b6"})


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        ({"architecture": "unet", "encoder": "nonesuch"}, "with encoder 'nonesuch'"),
        ({"architecture": "unet", "encoder": "tu-nonesuch"}, "with encoder 'tu-nonesuch': Unknown model"),
        ({"architecture": "fpn", "encoder": "tu-resnet18.nonesuch"}, "Invalid pretrained tag"),
        ({"architecture": "nonesuch"}, "no architecture 'nonesuch'"),
        ({"segformer": {"hidden_sizes": [8, 8], "depths": [1, 1]}}, "no SegFormer of the sizes"),
        ({"segformer": {"depths": "deep"}}, "no SegFormer of the sizes"),
    ],
)
def test_a_network_that_its_library_cannot_build_is_refused_in_one_sentence(
    network: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigRefused, match=sentence) as refusal:
        NetworkDetector.fresh(DetectorConfig.model_validate({"size": 64, **network}))
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 500


def test_an_encoder_under_a_non_commercial_licence_is_marked() -> None:
    assert "non-commercial" in DetectorConfig(architecture="unet", encoder="mit_b0").licence
    assert DetectorConfig(architecture="unet", encoder="mit_b0", licence="bought").licence == "bought"
    for free in (DetectorConfig(), DetectorConfig(architecture="unet", encoder="resnet18")):
        assert free.licence == "Apache-2.0"


@pytest.mark.slow
def test_the_published_mit_b5_gives_the_authors_map(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = SegformerForSemanticSegmentation(SegformerConfig(num_labels=1, **MIT["b5"])).eval()
    network.save_pretrained(tmp_path)
    from safetensors.torch import load_file

    state = load_file(tmp_path / "model.safetensors")
    torch.save(state, tmp_path / "ad_pytorch_model.bin")
    assert tuple(state["decode_head.classifier.weight"].shape) == (1, 768, 1, 1)
    assert 320e6 < (tmp_path / "ad_pytorch_model.bin").stat().st_size < 345e6
    detector = load_detector(tmp_path / "ad_pytorch_model.bin")
    assert detector.config == published_config("b5")
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    for size in ((512, 512), (300, 420)):
        image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        square = F.interpolate(tensor, (512, 512), mode="bilinear", align_corners=False)
        with torch.no_grad():
            logits = network(pixel_values=(square - mean) / std).logits
        expected = F.interpolate(logits, size, mode="bilinear", align_corners=False)[0, 0].sigmoid().numpy()
        assert np.abs(detector.find_artifacts(image) - expected).max() < 1e-5
        assert np.abs(detector.confidence(tensor)[0].numpy() - expected).max() < 1e-5
