"""SegFormers that transformers saved become detectors with the same map, or are refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from dataengine.diagnosis.detector import artifact_maps, load_detector
from dataengine.errors import ModelRefused
from dataengine.licences import UNSTATED

SIDE = 32
SMALL: dict[str, Any] = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "decoder_hidden_size": 16}


def save(folder: Path, labels: int = 2, processor: dict[str, Any] | None = None, **options: Any) -> Any:
    torch.manual_seed(labels)
    network = SegformerForSemanticSegmentation(SegformerConfig(num_labels=labels, **SMALL, **options)).eval()
    network.save_pretrained(folder)
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return network


PROCESSOR = {"size": {"height": SIDE, "width": SIDE}, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}


@pytest.mark.parametrize(
    ("labels", "names", "artifact"),
    [
        (2, {0: "background", 1: "artifact"}, 1),
        (2, {0: "Artifacts", 1: "fine"}, 0),
        (2, {0: "LABEL_0", 1: "LABEL_1"}, 1),
        (1, {0: "artifact"}, None),
    ],
)
def test_the_map_is_that_of_transformers(
    labels: int, names: dict[int, str], artifact: int | None, tmp_path: Path
) -> None:
    network = save(tmp_path, labels, PROCESSOR, id2label=names)
    detector = load_detector(tmp_path)
    assert (detector.config.size, detector.config.mean[0], detector.config.licence) == (SIDE, 0.5, UNSTATED)
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    (found,) = artifact_maps(detector, [image])
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        logits = network(pixel_values=(pixels - 0.5) / 0.25).logits
        logits = F.interpolate(logits, (SIDE, SIDE), mode="bilinear", align_corners=False)
    expected = logits.sigmoid()[0, 0] if artifact is None else logits.softmax(1)[0, artifact]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)


def test_pickled_weights_are_read_as_tensors_alone(tmp_path: Path) -> None:
    save(tmp_path, 2, PROCESSOR)
    safe = load_detector(tmp_path)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    np.testing.assert_array_equal(
        artifact_maps(load_detector(tmp_path), [image])[0], artifact_maps(safe, [image])[0]
    )
    torch.save({"weights": Path("code")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelRefused, match="more than tensors"):
        load_detector(tmp_path)


def test_what_is_no_detector_is_refused_by_what_it_is(tmp_path: Path) -> None:
    def refuse(name: str, said: str, labels: int = 2, processor: Any = None, **options: Any) -> None:
        save(tmp_path / name, labels, processor or PROCESSOR, **options)
        with pytest.raises(ModelRefused, match=said):
            load_detector(tmp_path / name)

    refuse("ade", "tells 5 labels apart", labels=5)
    refuse("wide", "a detector takes squares", processor={"size": {"height": 32, "width": 64}})
    refuse("short", "a detector takes squares", processor={"size": {"shortest_edge": 64}})
    refuse("crop", "crops or pads", processor=PROCESSOR | {"do_center_crop": True})
    refuse("depth", "images of 4 channels", num_channels=4)
    for text, said in (
        ("{", "cannot be read"),
        ("[]", "no configuration"),
        ('{"model_type": "unet"}', "unet"),
    ):
        (tmp_path / "ade/config.json").write_text(text)
        with pytest.raises(ModelRefused, match=said):
            load_detector(tmp_path / "ade")
    save(tmp_path / "bare", 2, PROCESSOR)
    (tmp_path / "bare/model.safetensors").unlink()
    with pytest.raises(ModelRefused, match="holds none of"):
        load_detector(tmp_path / "bare")
    save_file({"x": torch.zeros(1)}, tmp_path / "bare/model.safetensors")
    with pytest.raises(ModelRefused, match="no SegFormer for segmentation"):
        load_detector(tmp_path / "bare")
