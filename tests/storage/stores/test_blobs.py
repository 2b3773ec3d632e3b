"""Blobs: the same rules on a file system and on an object store; damage and a full disk are named."""

import errno
import hashlib
import os
import resource
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataengine.errors import Corrupt, NotFound, WorkspaceUnusable
from storage.stores.blobs import CHUNK, Blobs, writing


@pytest.fixture(params=["local", "memory"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "blobs" if request.param == "local" else f"memory://{uuid.uuid4().hex}")


def overwrite(blobs: Blobs, sha256: str, data: bytes) -> None:
    blobs.fs.pipe_file(f"{blobs.root}/{sha256[:2]}/{sha256}", data)


def test_put_get_delete(blobs: Blobs) -> None:
    name = blobs.put(b"pixels")
    assert name == hashlib.sha256(b"pixels").hexdigest()
    assert blobs.get(name) == b"pixels" and blobs.has(name) and blobs.size(name) == 6
    assert blobs.get_range(name, 2, 3) == b"xel"
    assert blobs.put(b"pixels") == name
    assert [blob.sha256 for blob in blobs.stored()] == [name]
    assert blobs.delete(name) and not blobs.delete(name) and not blobs.has(name)
    for missing in (lambda: blobs.get(name), lambda: blobs.size(name), lambda: blobs.get_range(name, 0, 1)):
        with pytest.raises(NotFound, match=name):
            missing()


@settings(max_examples=20, deadline=None)
@given(items=st.lists(st.binary(max_size=200), max_size=12))
def test_put_many_keeps_order_and_doubles_nothing(items: list[bytes]) -> None:
    blobs = Blobs(f"memory://{uuid.uuid4().hex}")
    names = blobs.put_many(items)
    assert [blobs.get(name) for name in names] == items
    assert len(list(blobs.stored())) == len(set(items))


def test_damage_is_seen_and_mended_by_storing_again(blobs: Blobs, tmp_path: Path) -> None:
    name = blobs.put(b"twelve bytes")
    overwrite(blobs, name, b"twelve BYTES")
    with pytest.raises(Corrupt, match=name):
        blobs.get(name)
    with pytest.raises(Corrupt, match=name):
        blobs.fetch(name, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    overwrite(blobs, name, b"")
    assert blobs.put(b"twelve bytes") == name
    assert blobs.get(name) == b"twelve bytes"


def test_files_go_in_and_out_by_pieces(blobs: Blobs, tmp_path: Path) -> None:
    source = tmp_path / "model.safetensors"
    source.write_bytes(os.urandom(3_000_001))
    name = blobs.put_file(source)
    assert blobs.put_file(source) == name == hashlib.sha256(source.read_bytes()).hexdigest()
    blobs.fetch(name, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()


def test_a_blob_is_read_in_parts_and_its_last_part_is_checked(blobs: Blobs) -> None:
    data = os.urandom(2 * CHUNK + 5)
    name = blobs.put(data)
    parts = list(blobs.chunks(name))
    assert b"".join(parts) == data and max(map(len, parts)) <= CHUNK
    overwrite(blobs, name, data[:-1] + bytes([data[-1] ^ 1]))
    damaged = blobs.chunks(name)
    with pytest.raises(Corrupt, match=name):
        assert sum(len(part) for part in damaged) < len(data)
    blobs.delete(name)
    with pytest.raises(NotFound, match=name):
        next(blobs.chunks(name))


def test_a_name_is_never_a_path(blobs: Blobs) -> None:
    for name in ("../../etc/passwd", "", "a" * 63, "A" * 64, "a" * 64 + "/x"):
        with pytest.raises(NotFound):
            blobs.get(name)
        with pytest.raises(NotFound):
            blobs.delete(name)


def test_only_a_local_blob_has_a_path(tmp_path: Path) -> None:
    local, remote = Blobs(tmp_path), Blobs(f"memory://{uuid.uuid4().hex}")
    path = local.path_or_none(local.put(b"x"))
    assert path is not None and path.read_bytes() == b"x"
    assert remote.path_or_none(remote.put(b"x")) is None
    assert local.path_or_none("0" * 64) is None


def test_many_writers_of_one_blob(blobs: Blobs) -> None:
    data = os.urandom(200_000)
    threads = [threading.Thread(target=blobs.put, args=(data,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [blobs.get(blob.sha256) for blob in blobs.stored()] == [data]


def test_a_killed_writer_leaves_no_blob(tmp_path: Path) -> None:
    code = (
        "import os, sys; from storage.stores.blobs import Blobs; import storage.stores.blobs as module;"
        "blobs = Blobs(sys.argv[1]); blobs.put(b'half'); blobs.delete(blobs.put(b'half'));"
        "module.os.fsync = lambda descriptor: os.kill(os.getpid(), 9); blobs.put(b'half')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "blobs")], check=False)
    assert done.returncode == -9
    blobs = Blobs(tmp_path / "blobs")
    assert not list(blobs.stored())
    leftovers = list((tmp_path / "blobs" / "tmp").iterdir())
    assert len(leftovers) == 1 and blobs.sweep() == 0
    os.utime(leftovers[0], (0, 0))
    assert blobs.sweep() == 1 and not leftovers[0].exists()
    assert blobs.get(blobs.put(b"half")) == b"half"


def test_a_full_disk_is_one_clear_error_and_leaves_nothing(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "blobs")
    small = blobs.put(b"small")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(WorkspaceUnusable, match="no incomplete data"):
            blobs.put_many([b"a" * 5000, b"tiny"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "blobs" / "tmp").iterdir())
    assert not blobs.has(hashlib.sha256(b"a" * 5000).hexdigest()) and blobs.get(small) == b"small"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere; a read-only mount is tested instead")
def test_a_read_only_folder_is_one_clear_error(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "blobs")
    blobs.put(b"x")
    for folder in [tmp_path / "blobs", *(tmp_path / "blobs").iterdir()]:
        folder.chmod(0o500)
    with pytest.raises(WorkspaceUnusable, match="is not writable"):
        blobs.put(b"y")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EFBIG])
def test_what_a_disk_says_is_translated(number: int) -> None:
    with pytest.raises(WorkspaceUnusable, match="here"), writing("here"):
        raise OSError(number, "no")
    with pytest.raises(FileNotFoundError), writing("here"):
        raise FileNotFoundError(errno.ENOENT, "gone")
