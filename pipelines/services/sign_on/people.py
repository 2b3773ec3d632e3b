"""The account of a person whom a provider let in: linked by issuer and subject, its roles by their groups."""

import re
import secrets
from collections.abc import Mapping
from typing import Any

from dataengine.errors import AccessDenied
from dataengine.records import ROLES, AuditEvent, Identity, Session, User, now
from pipelines.services.sign_on.config import SignOnConfig
from storage import accounts
from storage.catalog import Catalog
from storage.passwords import NO_PASSWORD
from storage.workspace import Workspace

ACTOR = "sign-on"
"""Who opens accounts and changes roles in the audit trail."""
MOST_NAME = 60


def sign_on(
    workspace: Workspace,
    config: SignOnConfig,
    subject: str,
    values: Mapping[str, Any],
    seconds: float,
    client: str = "",
) -> tuple[User, Session, str]:
    """Open a session for the person of that subject, whose checked claims are `values`; its token is returned
    once.

    An account is found by issuer and subject alone, and made at the first sign-in; its roles become those
    of the claims. Raises `AccessDenied` for a person without a role or with a deactivated account;
    both are audited.
    """
    with workspace.catalog() as catalog:
        try:
            user = _admitted(catalog, config, subject, values)
            token = secrets.token_urlsafe(32)
            session = accounts.open_session(
                catalog, user.name, token, secrets.token_urlsafe(32), seconds, client
            )
        finally:
            catalog.commit()
    return user, session, token


def _admitted(catalog: Catalog, config: SignOnConfig, subject: str, values: Mapping[str, Any]) -> User:
    identity = catalog.identities.find(config.issuer, subject)
    name = identity.user if identity else ""
    roles = roles_of(config, values)
    if is_first_admin(config, subject, values) and not _has_other_admin(catalog, name):
        roles = tuple(role for role in ROLES if role in {*roles, "admin"})
    if not roles:
        _shut_out(catalog, name)
        _refuse(catalog, name or f"{subject} at {config.name}", "no role")
        raise AccessDenied(
            f"{config.name} knows you, but none of your groups has a role here; ask an admin for one"
        )
    if identity is None:
        if not catalog.users.count() and "admin" not in roles:
            _refuse(catalog, f"{subject} at {config.name}", "no admin yet")
            raise AccessDenied("nobody is admin here yet, so an admin has to sign in first")
        return _created(catalog, config, subject, values, roles)
    user = catalog.users.get(name)
    if not user.active:
        _refuse(catalog, name, "deactivated")
        raise AccessDenied("your account is deactivated; ask an admin to activate it")
    if set(roles) != set(user.roles):
        accounts.set_roles(catalog, name, roles, ACTOR)
    return catalog.users.get(name)


def _created(
    catalog: Catalog, config: SignOnConfig, subject: str, values: Mapping[str, Any], roles: tuple[str, ...]
) -> User:
    user = User(name=free_name(catalog, wanted_name(config, subject, values)), roles=roles)
    catalog.users.add(user, NO_PASSWORD)
    catalog.identities.add(Identity(issuer=config.issuer, subject=subject, user=user.name))
    details = {"roles": list(roles), "issuer": config.issuer}
    catalog.audit.add(AuditEvent(actor=ACTOR, action="user.create", subject=user.name, details=details))
    return user


def _shut_out(catalog: Catalog, name: str) -> None:
    """End the sessions and API tokens of a person whose groups have no role any more."""
    catalog.sessions.revoke_all(name)
    for token in catalog.api_tokens.of_user(name):
        if token.revoked is None:
            catalog.api_tokens.revoke(token.id, now())
            details = {"id": token.id, "person": name}
            event = AuditEvent(actor=ACTOR, action="token.revoke", subject=token.name, details=details)
            catalog.audit.add(event)


def _refuse(catalog: Catalog, subject: str, why: str) -> None:
    details = {"reason": why}
    catalog.audit.add(AuditEvent(actor=ACTOR, action="session.refused", subject=subject, details=details))


def _has_other_admin(catalog: Catalog, name: str) -> bool:
    return any(user.active and "admin" in user.roles and user.name != name for user in catalog.users.list())


def roles_of(config: SignOnConfig, values: Mapping[str, Any]) -> tuple[str, ...]:
    """The roles of a person by their groups."""
    granted = set(config.default_roles)
    for group in groups_of(config, values):
        granted.update(config.roles_by_group.get(group, ()))
    return tuple(role for role in ROLES if role in granted)


def groups_of(config: SignOnConfig, values: Mapping[str, Any]) -> tuple[str, ...]:
    """The groups in the claims; one that is a text is one group, anything else is none."""
    found: Any = values
    for part in (config.groups_claim,) if config.groups_claim in values else config.groups_claim.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    listed = [found] if isinstance(found, str) else found if isinstance(found, list) else []
    return tuple(group for group in listed if isinstance(group, str))


def is_first_admin(config: SignOnConfig, subject: str, values: Mapping[str, Any]) -> bool:
    """Whether the settings name this person as the first admin; an e-mail address counts only if verified."""
    wanted = config.first_admin
    if not wanted:
        return False
    email = values.get("email")
    verified = values.get("email_verified") is True and isinstance(email, str)
    return wanted == subject or (verified and str(email).casefold() == wanted.casefold())


def wanted_name(config: SignOnConfig, subject: str, values: Mapping[str, Any]) -> str:
    """The name that a new account asks for: by its claim, the e-mail address or the subject."""
    for claim in (config.name_claim, "email"):
        text = values.get(claim)
        if isinstance(text, str) and (name := cleaned(text)):
            return name
    return cleaned(subject) or "person"


def cleaned(text: str) -> str:
    """A text as the name of an account may be."""
    return re.sub(r"[^A-Za-z0-9._@-]+", "-", text).lstrip("._@-").rstrip("-")[:MOST_NAME]


def free_name(catalog: Catalog, name: str) -> str:
    """The name, with a number behind it where it is taken: an account is never shared by its name."""
    taken = {user.name for user in catalog.users.list()}
    if name not in taken:
        return name
    return next(fresh for number in range(2, len(taken) + 3) if (fresh := f"{name}-{number}") not in taken)
