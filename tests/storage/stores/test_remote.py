"""A blob store that is silent or refuses costs a bounded time, and what it interrupted may be retried."""

import threading
import time
from pathlib import Path

import pytest

from dataengine.errors import NotFound, Unavailable, WorkspaceUnusable
from storage.stores import remote
from storage.stores.blobs import Blobs
from tests import faulty_store


@pytest.fixture
def blobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Blobs:
    monkeypatch.setenv("CLINIC_STORE_SECONDS", "0.3")
    return Blobs(faulty_store.url(tmp_path / "store"))


def test_a_store_that_answers_is_used_as_ever(blobs: Blobs, tmp_path: Path) -> None:
    name = blobs.put(b"pixels")
    assert blobs.get(name) == b"pixels" and blobs.has(name) and blobs.size(name) == 6
    blobs.fetch(name, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"pixels"
    assert [blob.sha256 for blob in blobs.stored()] == [name]
    with pytest.raises(NotFound):
        blobs.get("0" * 64)


def test_a_silent_store_is_given_up_in_time(blobs: Blobs, tmp_path: Path) -> None:
    name = blobs.put(b"pixels")
    with faulty_store.fault(tmp_path / "store", "silent"):
        for call in (lambda: blobs.get(name), lambda: blobs.put(b"more"), lambda: blobs.has(name)):
            began = time.monotonic()
            with pytest.raises(Unavailable, match="has not answered for"):
                call()
            assert time.monotonic() - began < 3
    assert blobs.get(name) == b"pixels", "and is used again once it answers"


def test_a_refusing_store_says_so(blobs: Blobs, tmp_path: Path) -> None:
    name = blobs.put(b"pixels")
    with (
        faulty_store.fault(tmp_path / "store", "refusing"),
        pytest.raises(Unavailable, match=r"does not respond.*Connection refused"),
    ):
        blobs.get(name)


def test_a_store_that_forbids_is_not_waited_for(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: object, **options: object) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(blobs.fs._fs, "cat_file", forbidden)
    with pytest.raises(WorkspaceUnusable, match="refuses access") as caught:
        blobs.get("0" * 64)
    assert not isinstance(caught.value, Unavailable)


def test_calls_that_hang_are_bounded_in_number(
    blobs: Blobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = blobs.put(b"pixels")
    before = threading.active_count()
    with faulty_store.fault(tmp_path / "store", "silent"):
        monkeypatch.setattr(remote, "SLOT_SECONDS", 0.01)
        for _ in range(remote.SLOTS + 10):
            with pytest.raises(Unavailable):
                monkeypatch.setenv("CLINIC_STORE_SECONDS", "0.01")
                blobs.get(name)
        assert threading.active_count() <= before + remote.SLOTS
    monkeypatch.setenv("CLINIC_STORE_SECONDS", "5")
    monkeypatch.setattr(remote, "SLOT_SECONDS", 5.0)
    assert blobs.get(name) == b"pixels"
