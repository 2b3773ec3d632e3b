"""Password hashes: Argon2id at today's cost; scrypt of earlier versions is still read.

Hashing takes 19 MiB and tens of milliseconds. It belongs outside of every transaction, and only a few run at
once: more would take memory and cores from those who are at work.
"""

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import BoundedSemaphore

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

from dataengine.errors import InputRefused, Unavailable

MIN_PASSWORD, MAX_PASSWORD = 10, 1024
MEMORY_KIB, ITERATIONS, LANES = 19 * 1024, 2, 1
"""OWASP's first choice in "Password Storage": Argon2id, m = 19 MiB, t = 2, p = 1."""
AT_ONCE = max(1, min(4, (os.cpu_count() or 1) // 2))
"""Hashes that one process computes at the same time."""
WAIT_SECONDS = 20.0
SCRYPT_MEMORY = 64 * 1024 * 1024
BUSY = "many people are signing in at the moment; try again in a few seconds"

_HASHER = PasswordHasher(time_cost=ITERATIONS, memory_cost=MEMORY_KIB, parallelism=LANES, type=Type.ID)
_SLOTS = BoundedSemaphore(AT_ONCE)


class PasswordHash(str):
    """A password's hash, which says how it was made: `$argon2id$v=19$m=…` or `scrypt$n$r$p$salt$hash`."""

    __slots__ = ()


NO_PASSWORD = PasswordHash("none")
"""Stored for accounts that nobody signs in to by a password."""


def hash_password(password: str) -> PasswordHash:
    """The hash of a password with a random salt. Raises `Unavailable` if too many wait for theirs."""
    with _slot():
        return PasswordHash(_HASHER.hash(password))


def hash_new_password(password: str) -> PasswordHash:
    """As `hash_password`. Raises `InputRefused` for a password that is too short or too long."""
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise InputRefused(
            f"a password has {MIN_PASSWORD} to {MAX_PASSWORD} characters, this one has {len(password)}"
        )
    return hash_password(password)


def password_matches(password: str, password_hash: str | None) -> bool:
    """Whether the password matches the hash; False for None and for an unknown kind of hash.

    None, an account that does not exist, and `NO_PASSWORD` take as long as a hash of today.
    """
    known = password_hash is not None and password_hash != NO_PASSWORD
    stored = password_hash if known and password_hash else _nobodys()
    with _slot():
        if stored.startswith("scrypt$"):
            return _matches_scrypt(password, stored)
        try:
            return _HASHER.verify(stored, password) and known
        except (VerificationError, InvalidHashError):
            return False


def is_outdated(password_hash: str) -> bool:
    """Whether a hash was made at another cost than today's, so that it should be replaced."""
    try:
        return _HASHER.check_needs_rehash(password_hash)
    except InvalidHashError:
        return True


@contextmanager
def _slot() -> Iterator[None]:
    if not _SLOTS.acquire(timeout=WAIT_SECONDS):
        raise Unavailable(BUSY)
    try:
        yield
    finally:
        _SLOTS.release()


def _matches_scrypt(password: str, stored: str) -> bool:
    try:
        _, n, r, p, salt, key = stored.split("$")
        expected = base64.b64decode(key)
        computed = hashlib.scrypt(
            password.encode(),
            salt=base64.b64decode(salt),
            n=int(n),
            r=int(r),
            p=int(p),
            maxmem=SCRYPT_MEMORY,
            dklen=32,
        )
    except (ValueError, binascii.Error):
        return False
    return hmac.compare_digest(computed, expected)


@cache
def _nobodys() -> str:
    """A hash that no password of ours has, at today's cost."""
    return _HASHER.hash(base64.b64encode(os.urandom(32)))
