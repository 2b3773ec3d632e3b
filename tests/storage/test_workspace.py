"""Workspaces: one folder, or a database and a blob store; a full or read-only disk is one clear error."""

import errno
import os
import resource
import sqlite3
import stat
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dataengine.errors import WorkspaceUnusable
from dataengine.records import Image
from storage import opening
from storage.maintenance.backup import back_up
from storage.opening import create_workspace, open_workspace
from storage.workspace import Workspace


def image(name: str) -> Image:
    return Image(id=name, sha256="0" * 64, height=4, width=6)


def names(workspace: Workspace) -> list[str]:
    with workspace.catalog(read_only=True) as catalog:
        return catalog.images.ids()


def add(workspace: Workspace, name: str) -> None:
    with workspace.catalog() as catalog:
        catalog.images.add_many([image(name)])
        catalog.commit()


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A small disk of the test's own; skips where mounting is not allowed."""
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("mounting a disk needs root with the right to mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


def test_one_folder_is_one_project(tmp_path: Path) -> None:
    workspace = create_workspace(tmp_path / "deep" / "project")
    add(workspace, "a")
    name = workspace.blobs.put(b"x")
    again = open_workspace(tmp_path / "deep" / "project")
    assert names(again) == ["a"] and again.blobs.get(name) == b"x"
    assert {path.name for path in again.path.iterdir()} >= {"catalog.sqlite", "blobs"}
    assert again.jobs_url == f"sqlite:///{again.path}/jobs.sqlite"
    assert names(create_workspace(again.path)) == ["a"]


def test_a_workspace_that_another_process_makes_too_is_waited_for(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "catalog.sqlite", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    threading.Timer(0.3, lambda: other.execute("COMMIT")).start()
    add(create_workspace(tmp_path), "a")
    assert names(open_workspace(tmp_path)) == ["a"]


def test_who_fails_to_make_a_workspace_leaves_the_one_that_another_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overtaken(workspace: Workspace) -> None:
        monkeypatch.undo()
        add(create_workspace(tmp_path), "a")
        raise WorkspaceUnusable("the disk is full")

    monkeypatch.setattr(opening, "_migrate", overtaken)
    with pytest.raises(WorkspaceUnusable, match="full"):
        create_workspace(tmp_path)
    assert names(open_workspace(tmp_path)) == ["a"]


def test_opening_nothing_says_so_and_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceUnusable, match="there is no workspace in"):
        open_workspace(tmp_path / "typo")
    assert not (tmp_path / "typo").exists()


def test_teams_share_a_database_and_a_blob_store(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = f"memory://{uuid.uuid4().hex}"
    here = create_workspace(tmp_path / "here", database_url=database_url, blob_url=blobs)
    add(here, "a")
    name = here.blobs.put(b"shared")
    monkeypatch.setenv("CLINIC_DATABASE_URL", database_url)
    monkeypatch.setenv("CLINIC_BLOB_URL", blobs)
    there = open_workspace(tmp_path / "there")
    assert names(there) == ["a"] and there.blobs.get(name) == b"shared"
    assert there.jobs_url == database_url
    other = f"sqlite:///{tmp_path / 'p.sqlite'}"
    with pytest.raises(WorkspaceUnusable, match=r"belong to another workspace.*prefix of its own"):
        create_workspace(tmp_path / "p", database_url=other)
    private = create_workspace(tmp_path / "p", database_url=other, blob_url=f"{blobs}/private")
    assert names(private) == []
    for workspace in (here, there, private):
        workspace.close()


def test_opening_is_light(tmp_path: Path) -> None:
    """The web process and `clinic status` open workspaces: no array or model library may come along."""
    code = (
        "import sys; from storage.opening import create_workspace;"
        "create_workspace(sys.argv[1]).blobs.put(b'x');"
        "print([m for m in ('torch', 'pyarrow', 'scipy', 'datasets', 'PIL') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "w")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_a_file_size_limit_leaves_no_half_made_catalog(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(WorkspaceUnusable):
            create_workspace(tmp_path / "w")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "w").iterdir())
    assert names(create_workspace(tmp_path / "w")) == []


def test_a_full_disk_then_a_larger_one(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=2m") as disk:
        workspace = create_workspace(disk / "w")
        add(workspace, "kept")
        with pytest.raises(WorkspaceUnusable, match="is full"):
            for number in range(100):
                workspace.blobs.put(os.urandom(50_000) + bytes([number]))
        stored = list(workspace.blobs.stored())
        assert stored and all(workspace.blobs.get(blob.sha256) for blob in stored)
        with pytest.raises(WorkspaceUnusable, match="is full"), workspace.catalog() as catalog:
            catalog.images.add_many(image(f"lost-{number}") for number in range(20_000))
            catalog.commit()
        assert names(workspace) == ["kept"]
        remount(disk, "size=16m")
        add(workspace, "later")
        workspace.blobs.put(os.urandom(50_000))
        assert names(workspace) == ["kept", "later"]
        workspace.close()


def test_no_room_for_a_workspace(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=64k") as disk:
        with pytest.raises(WorkspaceUnusable, match="is full"):
            create_workspace(disk / "w")
        assert not list((disk / "w").iterdir())


def test_a_read_only_workspace_is_read_or_refused_whole(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=8m") as disk:
        workspace = create_workspace(disk / "w")
        add(workspace, "a")
        name = workspace.blobs.put(b"x")
        workspace.close()
        remount(disk, "ro")
        for attempt in (
            lambda: add(open_workspace(disk / "w"), "b"),
            lambda: workspace.blobs.put(b"y"),
            lambda: workspace.blobs.delete(name),
            lambda: workspace.checkpoints.pending("job"),
            lambda: create_workspace(disk / "other"),
        ):
            with pytest.raises(WorkspaceUnusable, match=r"read-only|cannot be opened"):
                attempt()
        assert workspace.blobs.get(name) == b"x"
        remount(disk, "rw")
        again = open_workspace(disk / "w")
        assert names(again) == ["a"]
        again.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere; a read-only mount is tested instead")
def test_a_forbidden_folder_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir(mode=0o500)
    with pytest.raises(WorkspaceUnusable):
        create_workspace(tmp_path / "w")
    assert not list((tmp_path / "w").iterdir())


def test_a_workspace_is_private_and_an_old_one_is_mended_on_opening(tmp_path: Path) -> None:
    workspace = create_workspace(tmp_path / "w")
    add(workspace, "a")
    assert stat.S_IMODE(workspace.path.stat().st_mode) == 0o700
    assert stat.S_IMODE(workspace.catalog_file.stat().st_mode) == 0o600
    backup = back_up(workspace, tmp_path / "outside.tar")
    assert stat.S_IMODE(backup.path.stat().st_mode) == 0o600
    workspace.close()
    loose = [
        workspace.path / name for name in ("session.key", "worker.log", "backups/b.tar", "jobs/j/log.txt")
    ]
    for path in loose:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    for path in (*loose, workspace.catalog_file):
        path.chmod(0o644)
    workspace.path.chmod(0o755)
    open_workspace(workspace.path).close()
    assert stat.S_IMODE(workspace.path.stat().st_mode) == 0o700
    for path in (*loose, workspace.catalog_file):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


MOUNTINFO = """\
25 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
90 25 0:50 / {held} rw,relatime shared:2 - {kind} server:/share rw,vers=3,{options}
"""


@pytest.mark.parametrize(
    ("kind", "options"),
    [("nfs", "nolock,hard"), ("nfs4", "local_lock=all"), ("nfs", "local_lock=posix"), ("cifs", "nobrl")],
)
def test_a_network_share_without_locks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, options: str
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTINFO.format(held=tmp_path / "share", kind=kind, options=options))
    monkeypatch.setattr("storage.opening.MOUNTS", mounts)
    with pytest.raises(
        WorkspaceUnusable, match=rf"without locks between processes \({kind} mounted with"
    ) as told:
        create_workspace(tmp_path / "share" / "w")
    assert "\n" not in str(told.value) and not (tmp_path / "share" / "w" / "catalog.sqlite").exists()
    create_workspace(tmp_path / "beside").close()
    mounts.write_text(MOUNTINFO.format(held=tmp_path / "share", kind=kind, options="local_lock=none"))
    create_workspace(tmp_path / "share" / "w").close()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_that_refuses_a_lock_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    create_workspace(tmp_path / "known").close()
    monkeypatch.setattr("fcntl.lockf", refuse)
    for name in ("fresh", "known"):
        with pytest.raises(WorkspaceUnusable, match="without locks between processes"):
            create_workspace(tmp_path / name)
