"""A secret file: made once, whole for whoever reads it, for its owner alone."""

import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from storage.stores.secret_file import read_or_create_secret


def test_a_secret_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    first = read_or_create_secret(tmp_path / "a.key", lambda: b"first")
    assert first == b"first" == read_or_create_secret(tmp_path / "a.key", lambda: b"second")
    assert (tmp_path / "a.key").stat().st_mode & 0o077 == 0
    assert [path.name for path in tmp_path.iterdir()] == ["a.key"]


def test_all_who_start_together_read_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        jobs = [
            pool.submit(read_or_create_secret, tmp_path / "a.key", lambda: secrets.token_bytes(32))
            for _ in range(64)
        ]
        assert len({job.result() for job in jobs}) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.key"]


def test_a_secret_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> bytes:
        raise OSError("no entropy")

    with pytest.raises(OSError, match="no entropy"):
        read_or_create_secret(tmp_path / "a.key", broken)
    assert not list(tmp_path.iterdir())
