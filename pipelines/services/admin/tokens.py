"""API tokens: how programs sign in for a person, with that person's roles or fewer.

A token is `clinic_CLINIC_ID_SECRET`: the start of the workspace's identity, the id under which lists show the
token, and 32 random bytes. The catalog stores its SHA-256, which suffices for a secret that cannot be
guessed.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from dataengine.errors import AccessDenied, Conflict, InputRefused, NotFound
from dataengine.records import ROLES, ApiToken, AuditEvent, User, now
from storage.catalog import Catalog
from storage.identity import identity_of
from storage.repositories import accounts as repositories
from storage.workspace import Workspace

DAY = 86400.0
DEFAULT_DAYS = 90
MOST_DAYS = 3650
MOST_TOKENS = 50
"""Valid tokens of one person."""
KEPT_DAYS = 90
"""How long a token that has ended is listed, and a program that still sends it told how it ended."""
MOST_NAME = 64

FORM = re.compile(r"clinic_(?P<clinic>[0-9a-f]{8})_(?P<id>[0-9a-f]{8})_[A-Za-z0-9_-]{43}")
LENGTH = 68
MARKED = re.compile(r"clinic_[0-9a-f]{8}_[0-9a-f]{8}_")
"""What every token begins with, whatever has become of the rest."""

Days = int | Literal["never"]
NEW = "create a new one on your account page or with `clinic tokens --create`"


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenHolder:
    """Whose request carries a token, and what it may do."""

    token: ApiToken
    user: User
    roles: tuple[str, ...]


def create_token(
    workspace: Workspace, person: str, name: str, roles: Collection[str], days: Days, actor: str
) -> tuple[str, ApiToken]:
    """A new token of a person: its text, which is stored nowhere and shown once, and its record.

    Raises `InputRefused` for a name, roles or days that cannot be, `NotFound` without such a person,
    `Conflict` for a deactivated account, a guest, a name in use by another of their tokens, and beyond
    `MOST_TOKENS`.
    """
    name, days = _checked_name(name), _checked_days(days)
    clinic, id, secret = _clinic(workspace), secrets.token_hex(4), secrets.token_urlsafe(32)
    text, at = f"clinic_{clinic}_{id}_{secret}", now()
    with workspace.catalog() as catalog:
        user = catalog.users.get(person)
        _refuse_others(catalog, user)
        catalog.api_tokens.purge(at - KEPT_DAYS * DAY)
        valid = [one for one in catalog.api_tokens.of_user(person) if ended(one) is None]
        if len(valid) >= MOST_TOKENS:
            raise Conflict(f"{person} has {MOST_TOKENS} API tokens; revoke one first")
        if any(one.name.casefold() == name.casefold() for one in valid):
            raise Conflict(f"{person} has an API token called {name!r} already; choose another name")
        token = ApiToken(
            id=id,
            user=person,
            name=name,
            roles=_checked_roles(roles, user),
            token_hash=hash_of(text),
            created=at,
            expires=None if days == "never" else at + days * DAY,
        )
        if not catalog.api_tokens.add(token):
            raise Conflict("this token's random id is in use already; try again")
        details = {"id": id, "person": person, "roles": list(token.roles), "days": days}
        catalog.audit.add(AuditEvent(actor=actor, action="token.create", subject=name, details=details))
        catalog.commit()
    return text, token


def list_tokens(workspace: Workspace, person: str | None = None) -> list[ApiToken]:
    """The tokens of one person or of all, newest first, those that ended lately among them."""
    with workspace.catalog(read_only=True) as catalog:
        found = catalog.api_tokens.list() if person is None else catalog.api_tokens.of_user(person)
    return list(reversed(found))


def revoke_token(workspace: Workspace, id: str, actor: str, person: str | None = None) -> ApiToken:
    """End a token at once. Raises `NotFound` without such a token, or for one that is not `person`'s where
    that is given; `Conflict` for one that has been revoked."""
    with workspace.catalog() as catalog:
        token = catalog.api_tokens.find(id)
        if token is None or person not in (None, token.user):
            raise NotFound(f"there is no API token {id!r}; `clinic tokens` lists the ids in use")
        if token.revoked is not None:
            raise Conflict(f"the API token {token.name!r} was revoked on {day_of(token.revoked)} already")
        catalog.api_tokens.revoke(id, now())
        details = {"id": id, "person": token.user}
        catalog.audit.add(AuditEvent(actor=actor, action="token.revoke", subject=token.name, details=details))
        catalog.commit()
    return token


def holder_of(workspace: Workspace, text: str) -> TokenHolder:
    """Whose token this is, with the roles that both it and its owner have.

    Raises `AccessDenied` with a sentence that says what is wrong with it.
    """
    form = FORM.fullmatch(text)
    if form is None:
        raise AccessDenied(
            f"this API token is malformed: one begins with clinic_ and has {LENGTH} characters; copy it again"
        )
    with workspace.catalog(read_only=True) as catalog:
        token = catalog.api_tokens.find(form["id"])
        user = catalog.users.get(token.user) if token else None
    # The id has found the row, so that only the hash, compared in constant time, depends on the secret.
    if token is None or user is None or not hmac.compare_digest(token.token_hash, hash_of(text)):
        if form["clinic"] != _clinic(workspace):
            raise AccessDenied(f"this API token is another clinic's; {NEW} here")
        raise AccessDenied(f"this API token is unknown: it has a typing error, or was deleted; {NEW}")
    if problem := ended(token):
        raise AccessDenied(f"this API token {problem}; {NEW}")
    if not user.active:
        raise AccessDenied("the account of this API token is deactivated; ask an admin to activate it")
    return TokenHolder(token=token, user=user, roles=roles_of(token, user))


def roles_of(token: ApiToken, user: User) -> tuple[str, ...]:
    """The token's roles that its owner still has."""
    return tuple(role for role in token.roles if role in grantable(user))


def grantable(user: User) -> tuple[str, ...]:
    """The roles that a person's tokens may have: their own; all for an admin, who may do everything."""
    return ROLES if "admin" in user.roles else user.roles


def ended(token: ApiToken) -> str | None:
    """How the token ended, in words that follow its name; None while it is valid."""
    if token.revoked is not None:
        return f"was revoked on {day_of(token.revoked)}"
    if token.expires is not None and token.expires <= now():
        return f"expired on {day_of(token.expires)}"
    return None


def note_use(workspace: Workspace, id: str) -> None:
    """Store that the token was used now."""
    with workspace.catalog() as catalog:
        catalog.api_tokens.set_used(id, now())
        catalog.commit()


def done_by_token(name: str) -> AbstractContextManager[None]:
    """Within the block, audit events name this API token."""
    return repositories.done_by_token(name)


def hash_of(text: str) -> str:
    """What the catalog stores of a token."""
    return hashlib.sha256(text.encode()).hexdigest()


def day_of(moment: float) -> str:
    """The UTC date of a moment."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d")


def _clinic(workspace: Workspace) -> str:
    """The part of this workspace's tokens that distinguishes them from another's."""
    return hashlib.sha256(identity_of(workspace.engine).encode()).hexdigest()[:8]


def _refuse_others(catalog: Catalog, user: User) -> None:
    if not user.active:
        raise Conflict(
            f"the account {user.name!r} is deactivated, and its API tokens would be; activate it first"
        )
    if catalog.guests.find(user.name) is not None:
        raise Conflict(f"{user.name!r} joined by an invitation; guests have no API tokens")


def _checked_name(text: str) -> str:
    name = " ".join(text.split())
    if not name or not name.isprintable() or len(name) > MOST_NAME:
        raise InputRefused(
            f"an API token's name has 1 to {MOST_NAME} visible characters, and this one has {len(name):,}"
        )
    return name


def _checked_days(days: Days) -> Days:
    if days != "never" and not 1 <= days <= MOST_DAYS:
        raise InputRefused(
            f'an API token lasts 1 to {MOST_DAYS:,} days, or "never" expires; this says {days}'
        )
    return days


def _checked_roles(roles: Collection[str], user: User) -> tuple[str, ...]:
    if not roles or not set(roles) <= set(grantable(user)):
        raise InputRefused(
            f"an API token has one or more of its owner's roles, and {user.name} has "
            f"{', '.join(grantable(user))}; this asks for {', '.join(sorted(roles)) or 'none'}"
        )
    return tuple(role for role in ROLES if role in roles)
