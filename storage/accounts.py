"""Accounts: salted password hashes, server-side sessions, roles.

A session's token is returned once, for the browser; the catalog stores only its SHA-256. Every
function works inside the caller's unit of work and leaves the commit to it. Passwords are hashed and checked
before that (`storage.passwords`): a hash takes longer than a transaction may.
"""

import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from dataengine.errors import AccessDenied, Conflict, InputRefused
from dataengine.records import ROLES, AuditEvent, Session, User, now
from storage.catalog import Catalog
from storage.passwords import (
    PasswordHash,
    hash_new_password,
    hash_password,
    is_outdated,
    password_matches,
)

SESSION_SECONDS = 12 * 3600.0
MAX_FAILURES = 10
FAILURE_WINDOW = 900.0
MOST_CLIENT = 100
LINK, LINK_SECONDS = "sign-in link", 600.0
PASSWORD_REFUSED = "password.refused"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
WRONG = "wrong name or password, or the account is deactivated"


def create_user(
    catalog: Catalog,
    name: str,
    password: str | PasswordHash,
    roles: Sequence[str],
    actor: str,
    must_change: bool = False,
) -> User:
    """Create an account; with `must_change` the person has to choose another password after signing in.

    Raises `InputRefused` for an invalid name, password or role, `Conflict` if the name is taken.
    """
    check_name(name)
    user = User(name=name, roles=_checked_roles(roles), must_change=must_change)
    if not catalog.users.add(user, _hash_of(password)):
        raise Conflict(f"user {name!r} already exists; choose another name")
    _audit(catalog, actor, "user.create", name, roles=list(user.roles))
    return user


def check_name(name: str) -> None:
    """Raise `InputRefused` unless an account may have this name."""
    if not _NAME.fullmatch(name):
        raise InputRefused(
            f"user name {name!r} is invalid: use 1 to 64 letters, digits and . _ @ -, a letter or digit first"
        )


def set_password(
    catalog: Catalog, name: str, password: str | PasswordHash, actor: str, must_change: bool = False
) -> None:
    """Change a password and end the person's sessions. Raises `InputRefused` or `NotFound`."""
    catalog.users.set_password_hash(name, _hash_of(password), must_change)
    catalog.sessions.revoke_all(name)
    _audit(catalog, actor, "user.password", name)


def change_own_password(catalog: Catalog, session: Session, matches: bool, new: PasswordHash) -> None:
    """Change the password of the session's person, who gave the current one (`matches`), and end their other
    sessions.

    Raises `AccessDenied` for a wrong current password and after ten failures within 15 minutes: commit then
    too, since failures are counted.
    """
    name = session.user
    check_guesses(catalog, name)
    if not matches:
        _audit(catalog, name, PASSWORD_REFUSED, name)
        raise AccessDenied("the current password is wrong; nothing was changed")
    catalog.users.set_password_hash(name, new, must_change=False)
    catalog.sessions.revoke_all(name, but=session.token_hash)
    _audit(catalog, name, "user.password", name)


def check_guesses(catalog: Catalog, name: str) -> None:
    """Raise `AccessDenied` if somebody guesses the current password in this person's own sessions."""
    if catalog.audit.count(PASSWORD_REFUSED, name, now() - FAILURE_WINDOW) >= MAX_FAILURES:
        raise AccessDenied("too many failed attempts for this name; try again in 15 minutes")


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
    """`check_password` and `enter` in one: for programs, since hashing holds up the transaction."""
    return enter(catalog, check_password(name, password, catalog.users.password_hash(name)), seconds, client)


@dataclass(frozen=True, slots=True)
class Checked:
    """An account whose password was given: the hash that is stored, and the one to store from now on."""

    name: str
    stored: str
    kept: str


def check_password(name: str, password: str, stored: str | None) -> Checked:
    """Check a password against the stored hash of an account, outside of any transaction.

    Raises `AccessDenied`, after the same time for an account that does not exist (None) as for a wrong
    password.
    """
    if not password_matches(password, stored) or stored is None:
        raise AccessDenied(WRONG)
    return Checked(name, stored, hash_password(password) if is_outdated(stored) else stored)


def enter(
    catalog: Catalog, account: Checked, seconds: float = SESSION_SECONDS, client: str = ""
) -> tuple[str, Session]:
    """Create a session; returns it with its secret token, to be sent to the browser once.

    Raises `AccessDenied` for a deactivated account, and if its password was changed meanwhile.
    """
    name = account.name
    if catalog.users.password_hash(name) != account.stored or not catalog.users.get(name).active:
        raise AccessDenied(WRONG)
    if account.kept != account.stored:
        catalog.users.set_password_hash(name, account.kept, catalog.users.get(name).must_change)
    return new_session(catalog, name, seconds, client)


def new_session(
    catalog: Catalog, name: str, seconds: float = SESSION_SECONDS, client: str = ""
) -> tuple[str, Session]:
    """A session of a person who is known by other means than a password, and its secret token."""
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


def make_link(catalog: Catalog, name: str, actor: str) -> str:
    """The secret of a link that signs a person in once, within ten minutes. Raises `NotFound`, and `Conflict`
    for a deactivated account."""
    if not catalog.users.get(name).active:
        raise Conflict(f"the account {name!r} is deactivated; activate it first")
    token = secrets.token_urlsafe(32)
    at = now()
    catalog.sessions.add(
        Session(
            token_hash=_token_hash(LINK + token),
            user=name,
            csrf="",
            created=at,
            expires=at + LINK_SECONDS,
            client=LINK,
        )
    )
    _audit(catalog, actor, "session.link", name)
    return token


def enter_by_link(
    catalog: Catalog, token: str, seconds: float = SESSION_SECONDS, client: str = ""
) -> tuple[str, Session]:
    """A session for a link's secret, which is worth nothing afterwards. Raises `AccessDenied`."""
    found = session_of(catalog, LINK + token)
    if found is None or not catalog.sessions.revoke(found[0].token_hash):
        raise AccessDenied("this sign-in link is invalid, was used, or has expired")
    return new_session(catalog, found[1].name, seconds, client)


def sign_out(catalog: Catalog, token: str) -> bool:
    """End a session; copies of its token are invalid from then on."""
    return bool(catalog.sessions.revoke(_token_hash(token)))


def _checked_roles(roles: Sequence[str]) -> tuple[str, ...]:
    if not roles or not set(roles) <= set(ROLES):
        raise InputRefused(f"invalid roles {list(roles)}: choose one or more of {', '.join(ROLES)}")
    return tuple(role for role in ROLES if role in roles)


def _hash_of(password: str | PasswordHash) -> PasswordHash:
    return password if isinstance(password, PasswordHash) else hash_new_password(password)


def _token_hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _audit(catalog: Catalog, actor: str, action: str, subject: str, **details: object) -> None:
    catalog.audit.add(AuditEvent(actor=actor, action=action, subject=subject, details=details))
