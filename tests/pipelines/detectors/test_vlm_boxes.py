"""A model that answers boxes as a detector of a workspace: maps, refused images, and where it is refused."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from dataengine.curation.config import BoxesConfig, EndpointConfig
from dataengine.diagnosis.box_detector import BoxDetector
from dataengine.errors import ConfigRefused, ModelRefused
from dataengine.masks import dequantise
from dataengine.records import SnapshotItem
from dataengine.records.images import SURVEY
from dataengine.treatment.config import PixelConfig, TreatmentConfig
from pipelines.config import EvaluateConfig
from pipelines.detectors import vlm_boxes
from pipelines.detectors.evaluation import measure_on_sets
from pipelines.detectors.operating_point import set_operating_point
from pipelines.detectors.predict import predict
from pipelines.runtime.context import Context
from pipelines.runtime.models import real_models
from pipelines.runtime.round_data import images_of
from pipelines.services.detectors import promote_detector, register_boxes
from pipelines.services.preflight import detector_check
from pipelines.services.standalone.diagnosis import diagnose_files
from tests.dataengine.boxes_server import BoxesServer, boxes_server
from tests.pipelines.conftest import fresh_context, run_one
from tests.pipelines.exchange import pictures

HAND = {"bbox": [0, 0, 500, 500], "type": "artifact", "reason": "six fingers", "importance": 80}


@pytest.fixture(scope="module")
def surveyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Context, str]]:
    context, round_id = fresh_context(tmp_path_factory.mktemp("boxes") / "workspace")
    run_one(context, round_id, "generate")
    yield Context(context.workspace, real_models()), round_id


@pytest.fixture
def server() -> Iterator[BoxesServer]:
    with boxes_server([HAND]) as running:
        yield running


def test_maps_are_stored_and_an_image_without_boxes_is_counted_and_not_clean(
    surveyed: tuple[Context, str], server: BoxesServer
) -> None:
    context, round_id = surveyed
    images = images_of(context, round_id, SURVEY)[:3]
    server.answers = [[HAND], "Lovely.", "Really lovely.", []]
    version = register_boxes(context.workspace, server.url)
    assert version.name == "boxes by see" and vlm_boxes.is_boxes(version)
    unreadable: list[str] = []
    found = predict(context, version.id, images, 2, unreadable)
    assert [one.image_id for one in found] == [images[0].id, images[2].id]
    assert (
        len(unreadable) == 1 and unreadable[0].startswith(images[1].id) and "Really lovely" in unreadable[0]
    )
    height, width = images[0].height, images[0].width
    stored = dequantise(context.workspace.maps.get(str(found[0].map_ref)))
    expected = np.zeros((height, width), np.float32)
    expected[: height // 2, : width // 2] = 0.8
    np.testing.assert_allclose(stored, expected, atol=1 / 255)
    assert (found[1].max, len(server.asked)) == (0.0, 4)
    predict(context, version.id, [images[0], images[2]], 2)
    assert len(server.asked) == 4, "what was answered is stored"


def test_it_is_measured_on_the_images_that_it_answers(
    surveyed: tuple[Context, str], server: BoxesServer
) -> None:
    context, round_id = surveyed
    images = images_of(context, round_id, SURVEY)[:3]
    server.answers = [[], "Lovely.", "Really lovely.", [HAND]]
    version = register_boxes(context.workspace, server.url, name="measured")
    items = [
        SnapshotItem(image_id=one.id, image_sha256=one.sha256, kind="true", split="validation", target=None)
        for one in images
    ]
    figures = measure_on_sets(context, version.id, {"validation": items}, 2)["validation"]
    # Clean targets: 0² on one image, and 0.8² on a quarter of the other.
    assert figures["images"] == 2
    assert figures["mse"] == pytest.approx((0 + 0.8**2 / 4) / 2, abs=2e-3)
    assert set_operating_point(context, version.id, {}, EvaluateConfig()).operating_point is not None
    assert len(server.asked) == 4, "its operating point asks nothing"


def test_it_is_refused_where_a_gradient_or_weights_are_needed(
    surveyed: tuple[Context, str], server: BoxesServer
) -> None:
    context, _ = surveyed
    version = register_boxes(context.workspace, server.url, "0-1000-yx", "gemini")
    check = detector_check(context.workspace, version)
    assert (version.name, check.verdict) == ("gemini", "bad") and "has no gradients" in check.text
    assert detector_check(context.workspace, version, gradient=False).verdict == "warn"
    assert TreatmentConfig().needs_detector_gradient
    assert not TreatmentConfig(pixel=PixelConfig(weight=0)).needs_detector_gradient
    with context.workspace.catalog(read_only=True) as catalog:
        seen = catalog.detectors.champion_id()
    with pytest.raises(ConfigRefused, match="cannot be champion"):
        promote_detector(context.workspace, version.id, "ada", "", seen)
    detector = BoxDetector(BoxesConfig(model=server.url))
    with pytest.raises(ModelRefused, match="has no gradient"):
        detector.confidence(torch.zeros(1, 3, 8, 8, requires_grad=True))
    maps = detector.confidence(torch.zeros(2, 3, 8, 8))
    assert maps.shape == (2, 8, 8) and float(maps.max()) == pytest.approx(0.8)
    with pytest.raises(ConfigRefused, match="coordinates"):
        register_boxes(context.workspace, server.url, "inches")
    with pytest.raises(ConfigRefused, match="is no endpoint"):
        register_boxes(context.workspace, "qwen")


def test_files_are_diagnosed_and_one_that_gets_prose_is_refused(server: BoxesServer, tmp_path: Path) -> None:
    for number in range(2):
        path = tmp_path / "photos" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pictures.encoded(pictures.scene(number, 20, 28)))
    server.answers = ["A nice scene.", "Still a nice scene.", [HAND]]
    result = diagnose_files([tmp_path / "photos"], tmp_path / "out", server.url)
    assert (result["flagged"], result["clean"], result["refused"]) == (1, 0, 1)
    assert "Still a nice scene" in result["refused_files"][0]


def test_settings_are_validated() -> None:
    config = BoxesConfig(model="http://127.0.0.1:1/v1#m", endpoint=EndpointConfig(attempts=1))
    assert "[x1, y1, x2, y2] on a grid of 0 to 1000" in config.request_text
