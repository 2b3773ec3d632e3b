"""Models are found by id, by name, by path, and by what is shipped."""

from pathlib import Path

import pytest

from dataengine.errors import ConfigRefused, NotFound
from pipelines.services.standalone.models import find_detector, find_generator
from storage.opening import create_workspace
from storage.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return create_workspace(tmp_path / "w")


def test_the_shipped_detector_is_registered_once(workspace: Workspace) -> None:
    detector = find_detector(workspace, "clinic")
    assert detector.domain == "clinic"
    assert {find_detector(workspace, each).id for each in ("clinic", detector.id, detector.name)} == {
        detector.id
    }
    folder = workspace.checkpoints.fetch(detector.checkpoint)
    assert find_detector(workspace, str(folder)).id == detector.id


@pytest.mark.parametrize("named", ["clinic-flux", "clinic-sd"])
def test_shipped_generators_are_registered_by_name_and_by_folder(named: str, workspace: Workspace) -> None:
    generator = find_generator(workspace, named)
    assert generator.name == named
    assert find_generator(workspace, named).id == find_generator(workspace, generator.id).id == generator.id
    assert find_generator(workspace, generator.location).id == generator.id


@pytest.mark.parametrize("named", ["nothing", "/no/such/folder", "clinc", ""])
def test_what_is_unknown_is_refused_with_what_is_expected(named: str, workspace: Workspace) -> None:
    with pytest.raises(NotFound, match="expected"):
        find_detector(workspace, named)
    with pytest.raises(NotFound, match="expected"):
        find_generator(workspace, named)


def test_the_published_detector_says_how_to_get_it(workspace: Workspace) -> None:
    with pytest.raises(ConfigRefused, match=r"docs/own_images\.md"):
        find_detector(workspace, "diffdoctor")
