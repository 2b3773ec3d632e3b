"""A detector's domain: where it comes from, and when it is said."""

from dataclasses import replace
from pathlib import Path

import pytest

from dataengine.clinic.config import FIRST_POINT
from dataengine.clinic.parts import materialise
from dataengine.diagnosis.config import DetectorTrainingConfig
from dataengine.records import CLINIC, DetectorVersion, Image, SnapshotItem
from pipelines.config import EvaluateConfig
from pipelines.detectors.leaderboard import format_table, leaderboard
from pipelines.detectors.register import register_detector
from pipelines.detectors.train import train_version
from pipelines.runtime.context import Context
from pipelines.selections.domain import foreign_note
from storage.opening import create_workspace
from tests.fake_workspace import real_picture
from tests.fakes import FIRST, TinyDetector, fake_models

DOCTOR = DetectorVersion(id="d", name="first detector", checkpoint="c", domain=CLINIC)


@pytest.mark.parametrize(
    ("domain", "foreign", "total", "said"),
    [
        (CLINIC, 3, 10, "3 of 10 images come from elsewhere"),
        (CLINIC, 1, 1, "this image comes from elsewhere"),
        (CLINIC, 0, 10, ""),
        ("", 10, 10, ""),
    ],
)
def test_the_note_names_how_many(domain: str, foreign: int, total: int, said: str) -> None:
    note = foreign_note(replace(DOCTOR, domain=domain), foreign, total)
    assert said in note and bool(note) is bool(said)


def test_the_embedded_weights_are_known_again(tmp_path: Path) -> None:
    folder = materialise("first_doctor", tmp_path / "doctor")
    workspace = create_workspace(tmp_path / "w")
    version = register_detector(workspace, folder)
    assert version.domain == CLINIC and version.operating_point == FIRST_POINT
    assert "★ first detector (clinic)" in "\n".join(format_table(leaderboard(workspace)))
    (folder / "weights.sha256").unlink()
    other = create_workspace(tmp_path / "other")
    assert register_detector(other, folder).domain == ""
    assert "(clinic)" not in "\n".join(format_table(leaderboard(other)))
    workspace.close()
    other.close()


@pytest.mark.parametrize(("origins", "domain"), [((0, 1), CLINIC), ((0, 2), "")])
def test_training_on_other_images_leaves_the_clinic(
    tmp_path: Path, origins: tuple[int, ...], domain: str
) -> None:
    workspace = create_workspace(tmp_path / "w")
    folder = TinyDetector(FIRST, "doctor").save(tmp_path / "doctor")
    start = replace(DOCTOR, checkpoint=workspace.checkpoints.publish(folder))
    names = ("clinic world, stream a", "clinic world, stream b", "photos/c.png")
    images: list[Image] = [
        replace(real_picture(workspace, "a hand", at), split="train", origin=names[at]) for at in origins
    ]
    with workspace.catalog() as catalog:
        catalog.detectors.add(start)
        catalog.images.add_many(images)
        catalog.commit()
    items = [
        SnapshotItem(image_id=one.id, image_sha256=one.sha256, kind="real", target=None) for one in images
    ]
    context = Context(workspace, fake_models())
    config, evaluation = DetectorTrainingConfig(steps=1), EvaluateConfig()
    made = train_version(
        context, "run", "retrain", "candidate", config, start, items, {}, evaluation, name="n"
    )
    assert made.domain == domain
    with workspace.catalog(read_only=True) as catalog:
        assert catalog.detectors.get(made.id).domain == domain
    workspace.close()
