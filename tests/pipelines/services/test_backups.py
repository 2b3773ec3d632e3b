"""Backups as a service: content, key, second place, how many are kept, and the schedule."""

import uuid
from pathlib import Path

import pytest

import storage.maintenance.second_place
from dataengine.errors import ConfigRefused, Corrupt, InputRefused, WorkspaceUnusable
from dataengine.records import DetectorVersion, Endpoint, GeneratorVersion
from pipelines.generators.files import download_generator
from pipelines.services.admin.backups import Schedule, schedule_of
from pipelines.services.admin.maintenance import (
    BACKUP_KEY,
    back_up,
    check_backup,
    restore_backup,
    signature_in_words,
)
from pipelines.worker.scheduled_backups import ScheduledBackups
from storage.opening import create_workspace
from storage.workspace import Workspace

KEY = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def clinic(tmp_path: Path) -> Workspace:
    """A workspace with a detector and a generator in its folder, and models outside of it."""
    workspace = create_workspace(tmp_path / "clinic")
    for name in ("flux", "detector"):
        folder = workspace.path / "models" / name
        folder.mkdir(parents=True)
        (folder / "weights").write_text(f"weights of {name}")
    detector = workspace.checkpoints.publish(workspace.path / "models" / "detector")
    with workspace.catalog() as catalog:
        flux = str(workspace.path / "models" / "flux")
        catalog.generators.add(GeneratorVersion(id="g", name="g", location=flux))
        catalog.generators.add(GeneratorVersion(id="t", name="t", location=flux, parent="g"))
        catalog.generators.add(GeneratorVersion(id="gone", name="gone", location="/gone/sdxl"))
        catalog.generators.add(GeneratorVersion(id="hub", name="hub", location="owner/name"))
        catalog.detectors.add(DetectorVersion(id="d", name="d", checkpoint=detector))
        catalog.endpoints.add(Endpoint(id="v", kind="vqa", name="v", location="/elsewhere/vqa"))
        catalog.commit()
    return workspace


def test_a_backup_holds_generators_and_detectors_once(clinic: Workspace, tmp_path: Path) -> None:
    made = back_up(clinic, tmp_path / "b.tar")
    assert made.models and made.outside == ("/elsewhere/vqa", "/gone/sdxl")
    clinic.path.rename(tmp_path / "gone")
    about, again = restore_backup(made.path, tmp_path / "again")
    assert about == made and (again.path.stat().st_mode & 0o77) == 0
    with again.catalog(read_only=True) as catalog:
        folders = {id: download_generator(again, catalog.generators.get(id)) for id in ("g", "t", "hub")}
        checkpoint = catalog.detectors.get("d").checkpoint
    assert folders["g"] == folders["t"] and folders["hub"] == "owner/name"
    assert (Path(folders["g"]) / "weights").read_text() == "weights of flux"
    assert (again.checkpoints.fetch(checkpoint) / "weights").read_text() == "weights of detector"


def test_a_backup_without_models_says_so(clinic: Workspace, tmp_path: Path) -> None:
    made = back_up(clinic, tmp_path / "b.tar", models=False)
    assert not made.models and made.blobs == back_up(clinic, tmp_path / "whole.tar").blobs - 3
    about, again = restore_backup(made.path, tmp_path / "again")
    assert not about.models
    with again.catalog(read_only=True) as catalog:
        checkpoint = catalog.detectors.get("d").checkpoint
    with pytest.raises(Exception, match="is not in"):
        again.checkpoints.fetch(checkpoint)


def test_the_key_comes_from_the_environment_or_a_file(
    clinic: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, other = tmp_path / "key", tmp_path / "other"
    key.write_text(f"{KEY}\n")
    other.write_text(KEY[::-1])
    signed = back_up(clinic, tmp_path / "signed.tar", key_file=key)
    assert signed.signed and "was not checked" in signature_in_words(signed, checked=False)
    assert check_backup(signed.path, key_file=key) == signed
    with pytest.raises(Corrupt, match="signed with another key"):
        restore_backup(signed.path, tmp_path / "again", key_file=other)
    assert not (tmp_path / "again").exists()
    unsigned = back_up(clinic, tmp_path / "unsigned.tar")
    monkeypatch.setenv(BACKUP_KEY, KEY)
    assert check_backup(signed.path).signed
    with pytest.raises(InputRefused, match="is not signed, but a key was given"):
        check_backup(unsigned.path)
    monkeypatch.setenv(BACKUP_KEY, "short")
    with pytest.raises(ConfigRefused, match="at least 16 are needed"):
        back_up(clinic, tmp_path / "c.tar")
    assert not (tmp_path / "c.tar").exists()
    with pytest.raises(InputRefused, match="cannot be read"):
        back_up(clinic, tmp_path / "c.tar", key_file=tmp_path / "absent")


def test_only_its_own_complete_backups_are_deleted(
    clinic: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"memory://{uuid.uuid4().hex}"
    folder = clinic.path / "backups"
    folder.mkdir()
    kept = ["before-upgrade-20250101-000000-1.tar", "mine.tar", "backup-20200101-000000-0badcafe.tar"]
    for name in kept:
        (folder / name).write_text("x")
    names = iter(f"backup-2026010{day}-000000-" for day in range(1, 5))
    own = storage.maintenance.second_place.backup_name(clinic).rpartition("-")[2]
    monkeypatch.setattr(storage.maintenance.second_place, "backup_name", lambda workspace: next(names) + own)
    for _ in range(4):
        made = back_up(clinic, to=place, keep=2)
    newest = [f"backup-2026010{day}-000000-{own}" for day in (3, 4)]
    assert sorted(path.name for path in folder.iterdir()) == sorted([*kept, *newest])
    fs, root = storage.maintenance.second_place._opened(place)
    assert sorted(name.rpartition("/")[2] for name in fs.ls(root, detail=False)) == newest
    assert fs.cat_file(f"{root}/{newest[1]}") == made.path.read_bytes()
    with pytest.raises(InputRefused, match="at least one backup"):
        storage.maintenance.second_place.keep_newest(clinic, str(folder), 0)


def test_a_place_that_takes_no_copy_is_one_sentence(clinic: Workspace, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(WorkspaceUnusable, match="is complete, but has no copy"):
        back_up(clinic, tmp_path / "b.tar", to=str(tmp_path / "file" / "inside"))
    assert (tmp_path / "b.tar").is_file()
    with pytest.raises(InputRefused, match="is no address of a folder"):
        back_up(clinic, tmp_path / "c.tar", to="nonsense://x")


def test_a_period_has_one_backup_of_all_workers(clinic: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    at = [1_000_000.0]
    monkeypatch.setattr("pipelines.worker.scheduled_backups.now", lambda: at[0])
    schedule = Schedule(hours=24, keep=3, to="s3://safe/clinic")
    first, second = (ScheduledBackups(clinic, schedule) for _ in range(2))
    assert [first.sweep(), second.sweep(), first.sweep()] == [True, False, False]
    at[0] += 24 * 3600
    assert [second.sweep(), first.sweep()] == [True, False]
    with clinic.catalog(read_only=True) as catalog:
        jobs = catalog.jobs.list(kind="backup")
    assert [job.args for job in jobs] == [{"to": "s3://safe/clinic", "keep": 3}] * 2
    assert not ScheduledBackups(clinic, None).sweep()


def test_the_schedule_is_read_from_the_environment() -> None:
    assert schedule_of({}) is None
    assert schedule_of({"CLINIC_BACKUP_HOURS": "6"}) == Schedule(hours=6)
    for wrong in ({"CLINIC_BACKUP_HOURS": "daily"}, {"CLINIC_BACKUP_HOURS": "0"}):
        with pytest.raises(ConfigRefused):
            schedule_of(wrong)
    with pytest.raises(ConfigRefused):
        schedule_of({"CLINIC_BACKUP_HOURS": "1", "CLINIC_BACKUP_KEEP": "0"})
