"""What a demo begins with: exact truth, clean pictures of all splits, nothing twice."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from dataengine.clinic.config import FIRST_POINT
from dataengine.clinic.parts import materialise
from dataengine.clinic.training.first_detector import FLAWED_SHARES
from dataengine.clinic.world import HARD, stream
from dataengine.diagnosis.detector import load_detector
from dataengine.masks import unpack_label_map
from pipelines.config import DemoDataConfig
from pipelines.demo.data import (
    CHAMPION,
    GENERATOR,
    choose_first_point,
    earlier_data,
    hard_stream,
    ingest,
    prepare,
)
from pipelines.runtime.images import read_pixels
from storage.opening import create_workspace
from storage.workspace import Workspace

SMALL = DemoDataConfig(clean=30, previous=8, validation=7, benchmark=8, benchmark_clean=6)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = create_workspace(tmp_path_factory.mktemp("demo") / "workspace")
    prepare(workspace, SMALL)
    return workspace


def test_registers_generator_and_champion(workspace: Workspace) -> None:
    with workspace.catalog(read_only=True) as catalog:
        generator, champion = catalog.generators.get(GENERATOR), catalog.detectors.champion()
    assert (Path(generator.location) / "model_index.json").is_file()
    assert champion is not None and champion.id == CHAMPION and champion.operating_point == FIRST_POINT
    assert (workspace.checkpoints.fetch(champion.checkpoint) / "detector.json").is_file()


def test_every_picture_has_its_place(workspace: Workspace) -> None:
    with workspace.catalog(read_only=True) as catalog:
        images = catalog.images.find()
    counts = Counter((image.source, image.split) for image in images)
    assert counts["drawn", "benchmark"] == 8 and counts["real", "benchmark"] == 6
    assert counts["drawn", "train"] == 8 and counts["drawn", "validation"] == 7
    assert counts["real", "train"] + counts["real", "validation"] == 30 and counts["real", "validation"] > 0
    assert {
        image.category for image in images if (image.source, image.split) == ("drawn", "benchmark")
    } <= set(HARD)


def test_the_benchmark_holds_exact_truth(workspace: Workspace) -> None:
    with workspace.catalog(read_only=True) as catalog:
        images = catalog.images.find(source="drawn", split="benchmark")
        labels = {label.image_id: label for label in catalog.labels.of_images([image.id for image in images])}
    truth = hard_stream("benchmark")
    for image in images:
        drawing, label = truth[image.seed or 0], labels[image.id]
        assert (label.source, label.clean) == ("import", not drawing.label_map.any())
        if label.label_map is not None:
            kept = unpack_label_map(workspace.blobs.get(label.label_map), image.height, image.width)
            assert np.array_equal(kept, drawing.label_map)
        through_the_decoder = np.abs(read_pixels(workspace, image).astype(int) - drawing.image).mean()
        assert 0 < through_the_decoder < 10


def test_earlier_labels_keep_the_class_of_each_flaw() -> None:
    """A disc that was drawn on a correct image is class 1; everything else is the exact label map."""
    truth = stream("previous", flawed=FLAWED_SHARES)
    kept, classes = earlier_data(40), set()
    for index, drawing in enumerate(kept):
        exact = truth[index]
        if exact.flaws:
            assert np.array_equal(drawing.label_map, exact.label_map) and drawing.label_map.dtype == np.uint8
            classes |= set(np.unique(drawing.label_map))
        else:
            assert set(np.unique(drawing.label_map)) <= {0, 1}
    assert classes == {0, 1, 2, 3}
    assert any(drawing.label_map.any() and not truth[i].flaws for i, drawing in enumerate(kept))


def test_taking_in_again_adds_nothing(workspace: Workspace) -> None:
    drawings = list(enumerate(earlier_data(8)))
    with workspace.catalog(read_only=True) as catalog:
        before = catalog.images.count(), catalog.labels.count()
    ingest(workspace, "previous", drawings, "drawn", "train")
    with workspace.catalog(read_only=True) as catalog:
        assert (catalog.images.count(), catalog.labels.count()) == before


def test_the_shipped_detectors_point_is_chosen_on_the_clinics_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a few of its images here; `make bench-clinic` chooses it on all and compares.
    monkeypatch.setattr("pipelines.demo.data.VALIDATION", 24)
    detector = load_detector(materialise("first_doctor", tmp_path / "first"))
    found = choose_first_point(detector)
    assert found.flawed + found.clean == 24 and found.rule == FIRST_POINT.rule
    assert found == choose_first_point(detector)
    assert FIRST_POINT.component <= FIRST_POINT.flagged < 0.5
