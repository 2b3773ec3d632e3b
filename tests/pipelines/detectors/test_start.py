"""What a training may start from, and what it is called afterwards."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dataengine.errors import ClinicError, ConfigRefused, NotFound
from dataengine.records import CLINIC_GENERATOR, DetectorVersion, Image, SnapshotItem
from pipelines.config import EvaluateConfig, TrainingRun
from pipelines.detectors.start import choose_start
from pipelines.detectors.train import train_version
from pipelines.runtime.context import Context
from storage.opening import create_workspace
from storage.workspace import Workspace
from tests.fakes import FIRST, TinyDetector, fake_models
from tests.pipelines.conftest import real_picture

IDS = ("a1", "b2", "c3")


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    """Three detectors, two of one name, the third retired; the first is champion."""
    workspace = create_workspace(tmp_path / "w")
    checkpoint = workspace.checkpoints.publish(TinyDetector(FIRST, "x").save(tmp_path / "x"))
    with workspace.catalog() as catalog:
        for id, name in zip(IDS, ("first", "second", "second"), strict=True):
            catalog.detectors.add(
                DetectorVersion(id=id, name=name, checkpoint=checkpoint, licence="MIT", domain="clinic")
            )
        catalog.detectors.promote("a1", "test", "the first")
        catalog.commit()
    yield workspace
    workspace.close()


def chosen(workspace: Workspace, start: str | None, weights: str = "") -> tuple[str | None, str]:
    """The chosen detector's id and encoder weights, and those of the plan with its start fixed."""
    plan = TrainingRun.model_validate({"start": start, "training": {"encoder_weights": weights}})
    with workspace.catalog(read_only=True) as catalog:
        found = choose_start(catalog, plan)
        fixed = found.fixed_in(plan)
        assert choose_start(catalog, fixed) == found, "a fixed plan means the same once more"
    assert fixed.training.encoder_weights == found.encoder_weights
    return (found.detector.id if found.detector else None), found.encoder_weights


@pytest.mark.parametrize(
    ("start", "weights", "expected"),
    [
        (None, "", ("a1", "")),
        ("a1", "", ("a1", "")),
        ("c3", "", ("c3", "")),
        ("first", "", ("a1", "")),
        ("random", "", (None, "")),
        ("imagenet", "", (None, "imagenet")),
        ("nvidia/mit-b4", "", (None, "nvidia/mit-b4")),
        (None, "imagenet", (None, "imagenet")),
        ("imagenet", "imagenet", (None, "imagenet")),
    ],
)
def test_a_start_by_name(
    start: str | None, weights: str, expected: tuple[str | None, str], workspace: Workspace
) -> None:
    assert chosen(workspace, start, weights) == expected


def test_a_relative_file_is_fixed_where_it_is(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "encoder.pth").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    assert chosen(workspace, "encoder.pth") == (None, str(tmp_path / "encoder.pth"))


@pytest.mark.parametrize(
    ("start", "weights", "kind", "sentence"),
    [
        ("second", "", ConfigRefused, "several detectors are named 'second'; give an id: b2, c3"),
        ("third", "", NotFound, "there is neither a detector nor a file 'third' to start from; choose a reg"),
        ("nvidia/mit-b9", "", NotFound, "there is neither a detector nor a file 'nvidia/mit-b9'"),
        ("a1", "imagenet", ConfigRefused, "starts from 'a1' and its setting encoder_weights says 'imagenet'"),
        ("random", "imagenet", ConfigRefused, "leave one of them out"),
    ],
)
def test_what_cannot_be_meant(
    start: str, weights: str, kind: type[ClinicError], sentence: str, workspace: Workspace
) -> None:
    with pytest.raises(kind, match=sentence):
        chosen(workspace, start, weights)


def test_a_retired_detector_is_no_second_one_of_its_name(workspace: Workspace) -> None:
    with workspace.catalog() as catalog:
        catalog.detectors.remove("c3", "test", "old")
        catalog.commit()
    assert chosen(workspace, "second") == ("b2", "")


def trained(workspace: Workspace, start: DetectorVersion | None, images: list[Image], run: str) -> Any:
    with workspace.catalog() as catalog:
        catalog.images.add_many(images)
        catalog.commit()
    items = [
        SnapshotItem(image_id=image.id, image_sha256=image.sha256, kind="real", target=None)
        for image in images
    ]
    plan = TrainingRun.model_validate({"training": {"steps": 1}})
    context = Context(workspace, fake_models())
    return train_version(
        context, run, "retrain", "candidate", plan.training, start, items, {}, EvaluateConfig(), name="new"
    )


@pytest.mark.parametrize("from_detector", [True, False])
@pytest.mark.parametrize(
    ("generators", "licences", "domain", "licence"),
    [
        ((CLINIC_GENERATOR, CLINIC_GENERATOR), ("", ""), "clinic", ""),
        ((CLINIC_GENERATOR, None), ("", "CC0"), "", ""),
        ((None, None), ("CC-BY-NC-4.0", "CC-BY-NC-4.0"), "", "; trained on images under CC-BY-NC-4.0"),
    ],
)
def test_domain_and_licence_follow_start_and_images(
    from_detector: bool,
    generators: tuple[str | None, ...],
    licences: tuple[str, ...],
    domain: str,
    licence: str,
    workspace: Workspace,
) -> None:
    images = [
        replace(real_picture(workspace, "a hand", seed), generator_id=generator, licence=terms)
        for seed, (generator, terms) in enumerate(zip(generators, licences, strict=True))
    ]
    with workspace.catalog(read_only=True) as catalog:
        start = catalog.detectors.get("a1") if from_detector else None
    made = trained(workspace, start, images, "train-1")
    assert made.domain == domain and made.parent == ("a1" if from_detector else None)
    assert made.licence == ("MIT" if from_detector else "Apache-2.0") + licence
    counts = made.metrics["training"]["images_by_licence"]
    assert counts == {name: licences.count(name) for name in set(licences)}
