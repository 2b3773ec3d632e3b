"""Accounts: salted password hashes, server-side sessions, roles.

A session's token is returned once, for the browser; the catalog stores only its SHA-256. Every
function works inside the caller's unit of work and leaves the commit to it.
"""

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence

from dataengine.errors import AccessDenied, Conflict, InputRefused
from dataengine.records import ROLES, AuditEvent, Session, User, now
from storage.catalog import Catalog

MIN_PASSWORD = 10
SESSION_SECONDS = 12 * 3600.0
MAX_FAILURES = 10
FAILURE_WINDOW = 900.0
MOST_CLIENT = 100

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_COST, _BLOCK, _PARALLEL = 2**14, 8, 1
_MEMORY = 64 * 1024 * 1024


def hash_password(password: str) -> str:
    """Hash a password as `scrypt$n$r$p$salt$hash` with a random salt (RFC 7914; 16 MiB and about 50 ms)."""
    salt = secrets.token_bytes(16)
    key = _scrypt(password, salt, _COST, _BLOCK, _PARALLEL)
    return f"scrypt${_COST}${_BLOCK}${_PARALLEL}${_text(salt)}${_text(key)}"


def password_matches(password: str, password_hash: str) -> bool:
    """Whether the password matches the hash; compared in constant time, False for an unknown hash format."""
    try:
        scheme, n, r, p, salt, key = password_hash.split("$")
        expected = base64.b64decode(key)
        computed = _scrypt(password, base64.b64decode(salt), int(n), int(r), int(p))
    except (ValueError, binascii.Error):
        return False
    return scheme == "scrypt" and hmac.compare_digest(computed, expected)


def create_user(
    catalog: Catalog, name: str, password: str, roles: Sequence[str], actor: str, must_change: bool = False
) -> User:
    """Create an account; with `must_change` the person has to choose another password after signing in.

    Raises `InputRefused` for an invalid name, password or role, `Conflict` if the name is taken.
    """
    check_name(name)
    user = User(name=name, roles=_checked_roles(roles), must_change=must_change)
    if not catalog.users.add(user, hash_password(_checked_password(password))):
        raise Conflict(f"user {name!r} already exists; choose another name")
    _audit(catalog, actor, "user.create", name, roles=list(user.roles))
    return user


def check_name(name: str) -> None:
    """Raise `InputRefused` unless an account may have this name."""
    if not _NAME.fullmatch(name):
        raise InputRefused(
            f"user name {name!r} is invalid: use 1 to 64 letters, digits and . _ @ -, a letter or digit first"
        )


def set_password(catalog: Catalog, name: str, password: str, actor: str, must_change: bool = False) -> None:
    """Change a password and end the person's sessions. Raises `InputRefused` or `NotFound`."""
    catalog.users.set_password_hash(name, hash_password(_checked_password(password)), must_change)
    catalog.sessions.revoke_all(name)
    _audit(catalog, actor, "user.password", name)


def change_own_password(catalog: Catalog, session: Session, current: str, password: str) -> None:
    """Change the password of the session's person and end their other sessions.

    Raises `AccessDenied` for a wrong current password and after ten failures within 15 minutes: commit then
    too, since failures are counted. Raises `InputRefused` for the same or an invalid new password.
    """
    name = session.user
    _check_failures(catalog, name)
    stored = catalog.users.password_hash(name)
    if stored is None or not password_matches(current, stored):
        _audit(catalog, name, "session.refused", name)
        raise AccessDenied("the current password is wrong; nothing was changed")
    if password == current:
        raise InputRefused("the new password is the current one; choose another")
    catalog.users.set_password_hash(name, hash_password(_checked_password(password)), must_change=False)
    catalog.sessions.revoke_all(name, but=session.token_hash)
    _audit(catalog, name, "user.password", name)


def set_roles(catalog: Catalog, name: str, roles: Sequence[str], actor: str) -> None:
    """Change a person's roles, effective from their next request. Raises `InputRefused` or `NotFound`."""
    checked = _checked_roles(roles)
    before = catalog.users.get(name).roles
    catalog.users.set_roles(name, checked)
    _audit(catalog, actor, "user.roles", name, before=list(before), roles=list(checked))


def set_active(catalog: Catalog, name: str, active: bool, actor: str) -> None:
    """Activate or deactivate an account; deactivation ends its sessions. Raises `NotFound`."""
    catalog.users.set_active(name, active)
    if not active:
        catalog.sessions.revoke_all(name)
    _audit(catalog, actor, "user.open" if active else "user.close", name)


def remove_user(catalog: Catalog, name: str, actor: str) -> None:
    """Delete an account and its sessions; the person's labels and votes are kept. Raises `NotFound`."""
    catalog.users.get(name)
    catalog.users.remove(name)
    _audit(catalog, actor, "user.remove", name)


def sign_in(
    catalog: Catalog, name: str, password: str, seconds: float = SESSION_SECONDS, client: str = ""
) -> tuple[str, Session]:
    """Create a session; returns it with its secret token, to be sent to the browser once.

    Raises `AccessDenied`, with the same message for a wrong name, a wrong password and a deactivated account,
    and after ten failures for a name within 15 minutes. Commit in that case too: failures are counted.
    """
    _check_failures(catalog, name)
    stored = catalog.users.password_hash(name)
    matches = password_matches(password, stored or _dummy_hash())  # equally slow for an unknown name
    if stored is None or not matches or not catalog.users.get(name).active:
        _audit(catalog, name, "session.refused", name)
        raise AccessDenied("wrong name or password, or the account is deactivated")
    token = secrets.token_urlsafe(32)
    return token, open_session(catalog, name, token, secrets.token_urlsafe(32), seconds, client)


def open_session(
    catalog: Catalog, name: str, token: str, csrf: str, seconds: float = SESSION_SECONDS, client: str = ""
) -> Session:
    """Store the session of a token that a browser has, or is about to get."""
    at = now()
    session = Session(
        token_hash=_token_hash(token),
        user=name,
        csrf=csrf,
        created=at,
        expires=at + seconds,
        client=client[:MOST_CLIENT],
    )
    catalog.sessions.purge(at)
    catalog.sessions.add(session)
    catalog.users.set_seen(name, at)
    _audit(catalog, name, "session.open", name)
    return session


def session_of(catalog: Catalog, token: str) -> tuple[Session, User] | None:
    """The valid session of a token and its person; None if it expired, was revoked, or the account is
    deactivated."""
    session = catalog.sessions.find(_token_hash(token))
    if session is None or session.expires <= now():
        return None
    user = catalog.users.get(session.user)
    return (session, user) if user.active else None


def required_session(catalog: Catalog, token: str) -> tuple[Session, User]:
    """As `session_of`. Raises `AccessDenied` where that is None."""
    found = session_of(catalog, token)
    if found is None:
        raise AccessDenied("this session has ended; sign in again")
    return found


def sign_out(catalog: Catalog, token: str) -> bool:
    """End a session; copies of its token are invalid from then on."""
    return bool(catalog.sessions.revoke(_token_hash(token)))


def _check_failures(catalog: Catalog, name: str) -> None:
    if catalog.audit.count("session.refused", name, now() - FAILURE_WINDOW) >= MAX_FAILURES:
        raise AccessDenied("too many failed attempts for this name; try again in 15 minutes")


def _checked_roles(roles: Sequence[str]) -> tuple[str, ...]:
    if not roles or not set(roles) <= set(ROLES):
        raise InputRefused(f"invalid roles {list(roles)}: choose one or more of {', '.join(ROLES)}")
    return tuple(role for role in ROLES if role in roles)


def _checked_password(password: str) -> str:
    if not MIN_PASSWORD <= len(password) <= 1024:
        raise InputRefused(f"a password has {MIN_PASSWORD} to 1024 characters, this one has {len(password)}")
    return password


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=_MEMORY, dklen=32)


def _dummy_hash() -> str:
    return f"scrypt${_COST}${_BLOCK}${_PARALLEL}${_text(bytes(16))}${_text(bytes(32))}"


def _token_hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _audit(catalog: Catalog, actor: str, action: str, subject: str, **details: object) -> None:
    catalog.audit.add(AuditEvent(actor=actor, action=action, subject=subject, details=details))
