"""A lost, empty, foreign or older catalog beside blobs: refused in one sentence, nothing changed."""

import os
import shutil
import time
import uuid
from pathlib import Path

import pytest
from sqlalchemy import text

from dataengine.errors import WorkspaceUnusable
from dataengine.records import Image
from storage.identity import MARK, identity_of, owns_blobs
from storage.maintenance.collect_garbage import collect
from storage.opening import create_workspace, open_workspace
from storage.workspace import CATALOG_FILE, Workspace
from tests.storage.later_columns import LATER_COLUMNS, LATER_OBJECTS


def filled(folder: Path, blob_url: str | None = None) -> Workspace:
    """A workspace with ten old blobs that its catalog names."""
    workspace = create_workspace(folder, blob_url=blob_url)
    names = workspace.blobs.put_many([f"{folder.name} {number}".encode() for number in range(10)])
    with workspace.catalog() as catalog:
        catalog.images.add_many(
            [Image(id=f"i{number}", sha256=name, height=4, width=6) for number, name in enumerate(names)]
        )
        catalog.commit()
    return workspace


def old(workspace: Workspace) -> set[str]:
    """Its blobs, after they were made to look a month old."""
    names = set()
    for blob in workspace.blobs.stored():
        path = workspace.blobs.path_or_none(blob.sha256)
        if path is not None:
            os.utime(path, (time.time() - 30 * 86400.0,) * 2)
        names.add(blob.sha256)
    return names


def test_catalog_folder_and_blob_store_carry_one_identity(tmp_path: Path) -> None:
    workspace = filled(tmp_path / "w")
    identity = identity_of(workspace.engine)
    assert len(identity) == 32 and identity in (workspace.path / MARK).read_text()
    assert identity in (workspace.path / "blobs" / MARK).read_text() and owns_blobs(workspace)
    workspace.close()
    assert identity_of(open_workspace(workspace.path).engine) == identity


@pytest.mark.parametrize("harm", ["lost", "empty"])
def test_a_lost_or_empty_catalog_is_never_replaced_by_a_fresh_one(tmp_path: Path, harm: str) -> None:
    workspace = filled(tmp_path / "w")
    workspace.close()
    before = old(workspace)
    for leftover in workspace.path.glob(f"{CATALOG_FILE}*"):
        leftover.unlink()
    if harm == "empty":
        workspace.catalog_file.touch()
    for opening in (create_workspace, open_workspace):
        with pytest.raises(WorkspaceUnusable, match=r"clinic restore|it has no catalog"):
            opening(workspace.path)
    assert {blob.sha256 for blob in workspace.blobs.stored()} == before
    assert not workspace.catalog_file.exists() or not workspace.catalog_file.stat().st_size


def test_a_lost_catalog_of_an_older_version_is_seen_by_its_blobs_alone(tmp_path: Path) -> None:
    workspace = filled(tmp_path / "w")
    workspace.close()
    for leftover in (*workspace.path.glob(f"{CATALOG_FILE}*"), workspace.path / MARK):
        leftover.unlink()
    (workspace.path / "blobs" / MARK).unlink()
    with pytest.raises(WorkspaceUnusable, match="has been used"):
        create_workspace(workspace.path)


def test_a_foreign_catalog_is_refused(tmp_path: Path) -> None:
    workspace, other = filled(tmp_path / "w"), filled(tmp_path / "other")
    workspace.close()
    other.close()
    before = old(workspace)
    shutil.copy(other.catalog_file, workspace.catalog_file)
    with pytest.raises(WorkspaceUnusable, match="belongs to another workspace"):
        open_workspace(workspace.path)
    assert {blob.sha256 for blob in workspace.blobs.stored()} == before


def test_a_second_workspace_on_one_blob_url_needs_a_prefix(tmp_path: Path) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    first = filled(tmp_path / "first", url)
    before = old(first)
    with pytest.raises(WorkspaceUnusable, match="prefix of its own"):
        create_workspace(tmp_path / "second", blob_url=url)
    second = filled(tmp_path / "second", f"{url}/second")
    collect(first, grace_seconds=-1)
    collect(second, grace_seconds=-1)
    assert {blob.sha256 for blob in first.blobs.stored()} == before
    assert len(list(second.blobs.stored())) == 10, "a store inside another one's prefix is not its own"


def test_unmarked_blobs_are_adopted_by_the_catalog_that_knows_them(tmp_path: Path) -> None:
    """As after an upgrade from a version without marks."""
    url = f"memory://{uuid.uuid4().hex}"
    first = filled(tmp_path / "first", url)
    first.blobs.fs.rm_file(f"{first.blobs.root}/{MARK}")
    with pytest.raises(WorkspaceUnusable, match="without an owner's mark; this catalog refers to 0"):
        create_workspace(tmp_path / "second", blob_url=url)
    assert owns_blobs(open_workspace(first.path, blob_url=url))


def test_an_older_catalog_beside_todays_blobs_clears_nothing(tmp_path: Path) -> None:
    workspace = filled(tmp_path / "w")
    workspace.close()
    shutil.copy(workspace.catalog_file, tmp_path / "last-week.sqlite")
    more = workspace.blobs.put_many([f"this week {number}".encode() for number in range(10)])
    before = old(workspace)
    assert set(more) < before
    workspace.close()
    for leftover in workspace.path.glob(f"{CATALOG_FILE}-*"):
        leftover.unlink()
    shutil.copy(tmp_path / "last-week.sqlite", workspace.catalog_file)
    again = open_workspace(workspace.path)
    with pytest.raises(Exception, match=r"10 of 20 blobs would be cleared"):
        collect(again)
    assert {blob.sha256 for blob in again.blobs.stored()} == before


def test_an_upgraded_catalog_gets_its_identity(tmp_path: Path) -> None:
    workspace = filled(tmp_path / "w")
    with workspace.engine.begin() as connection:
        connection.execute(text("DROP TABLE workspace"))
        later = {"jobs": ("failure", "failures", "failed_at"), **LATER_COLUMNS}
        for statement in LATER_OBJECTS[connection.dialect.name]:
            connection.execute(text(statement))
        for table, columns in later.items():
            for column in columns:
                connection.execute(text(f"ALTER TABLE {table} DROP COLUMN {column}"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0005'"))
    workspace.close()
    for mark in (workspace.path / MARK, workspace.path / "blobs" / MARK):
        mark.unlink()
    assert owns_blobs(open_workspace(workspace.path))


def test_a_damaged_mark_is_one_sentence(tmp_path: Path) -> None:
    workspace = filled(tmp_path / "w")
    (workspace.path / MARK).write_text("{")
    with pytest.raises(WorkspaceUnusable, match="is damaged"):
        open_workspace(workspace.path)
