"""Password hashes: today's cost, hashes of earlier versions, few at once."""

import base64
import hashlib
import threading
import time

import pytest

from dataengine.errors import InputRefused, Unavailable
from storage import passwords
from storage.passwords import (
    NO_PASSWORD,
    hash_new_password,
    hash_password,
    is_outdated,
    password_matches,
)

PASSWORD = "correct horse battery"


def former_hash(password: str) -> str:
    """A hash as versions up to 0.9 stored it."""
    salt = b"0123456789abcdef"
    key = hashlib.scrypt(password.encode(), salt=salt, n=2**14, r=8, p=1, maxmem=2**26, dklen=32)
    return f"scrypt${2**14}$8$1${base64.b64encode(salt).decode()}${base64.b64encode(key).decode()}"


def test_hash_is_salted_and_checks() -> None:
    first, second = hash_password(PASSWORD), hash_password(PASSWORD)
    assert first != second and PASSWORD not in first
    assert first.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert password_matches(PASSWORD, first) and not is_outdated(first)
    assert not password_matches(PASSWORD + "x", first)
    for unknown in (
        "plain text",
        "",
        first.replace("argon2id", "argon9"),
        "md5$1$2$3$4$5",
        NO_PASSWORD,
        None,
    ):
        assert not password_matches(PASSWORD, unknown), unknown
        assert not password_matches("none", unknown)


def test_hashes_of_earlier_versions_are_read_and_outdated() -> None:
    former = former_hash(PASSWORD)
    assert password_matches(PASSWORD, former) and not password_matches("wrong", former)
    assert is_outdated(former) and is_outdated("$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2g")
    for broken in ("scrypt$", "scrypt$16384$8$1$%%$%%", former.replace("16384", "3")):
        assert not password_matches(PASSWORD, broken)


@pytest.mark.parametrize("password", ["", "short", "x" * 1025])
def test_a_new_password_has_a_length(password: str) -> None:
    with pytest.raises(InputRefused, match="10 to 1024 characters"):
        hash_new_password(password)


def test_nobody_costs_what_a_wrong_password_costs() -> None:
    known = hash_password(PASSWORD)
    password_matches("warm", None)

    def seconds(stored: str | None) -> float:
        took = []
        for _ in range(5):
            began = time.thread_time()
            password_matches("a wrong password", stored)
            took.append(time.thread_time() - began)
        return min(took)

    of_known, of_unknown, of_guest = seconds(known), seconds(None), seconds(NO_PASSWORD)
    assert of_known > 0.002, "else nothing is measured"
    assert 0.5 < of_unknown / of_known < 2 and 0.5 < of_guest / of_known < 2


def test_few_are_hashed_at_once_and_nobody_waits_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "WAIT_SECONDS", 0.05)
    monkeypatch.setattr(passwords, "_SLOTS", threading.BoundedSemaphore(1))
    with passwords._slot(), pytest.raises(Unavailable, match="try again"):
        hash_password(PASSWORD)
    assert password_matches(PASSWORD, hash_password(PASSWORD)), "the slot is free again"
