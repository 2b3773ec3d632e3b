"""An output folder is begun once, resumed by the same call, and never overwritten."""

from pathlib import Path

import pytest

from dataengine.errors import InputRefused, WorkspaceUnusable
from pipelines.services.standalone.output import HIDDEN, begin_output, output_workspace

SETTINGS = {"detector": "clinic", "side": 512}


def test_the_same_call_resumes_and_another_is_refused_by_what_changed(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    begin_output(out, "diagnose", SETTINGS)
    (out / "map.png").write_bytes(b"x")
    begin_output(out, "diagnose", dict(reversed(SETTINGS.items())))
    with pytest.raises(InputRefused, match="other side"):
        begin_output(out, "diagnose", {**SETTINGS, "side": 256})
    with pytest.raises(InputRefused, match="of `clinic diagnose`"):
        begin_output(out, "train", SETTINGS)
    assert (out / "map.png").read_bytes() == b"x"


@pytest.mark.parametrize("inside", ["a photo.png", f"{HIDDEN}/request.json", "empty folder/"])
def test_a_folder_that_holds_something_is_refused(inside: str, tmp_path: Path) -> None:
    if inside.endswith("/"):
        (tmp_path / inside).mkdir()
    else:
        (tmp_path / inside).parent.mkdir(exist_ok=True)
        (tmp_path / inside).write_text("[1]")
    with pytest.raises(InputRefused, match="holds something already"):
        begin_output(tmp_path, "train", SETTINGS)


def test_a_file_or_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputRefused, match="holds something already"):
        begin_output(tmp_path / "file", "train", SETTINGS)
    with pytest.raises(WorkspaceUnusable, match="cannot be written"):
        begin_output(tmp_path / "file" / "below", "train", SETTINGS)
    assert (tmp_path / "file").read_text() == "mine"


def test_its_own_workspace_ignores_the_teams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLINIC_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    begin_output(tmp_path / "out", "train", SETTINGS)
    for _ in range(2):
        with output_workspace(tmp_path / "out") as workspace:
            assert workspace.own_database and workspace.path == tmp_path / "out" / HIDDEN


def test_a_named_workspace_is_used_instead(tmp_path: Path) -> None:
    begin_output(tmp_path / "out", "train", SETTINGS)
    with output_workspace(tmp_path / "out", tmp_path / "mine") as workspace:
        assert workspace.path == tmp_path / "mine"
    assert [each.name for each in (tmp_path / "out" / HIDDEN).iterdir()] == ["request.json"]
