"""Accounts, roles and sessions, for the desks and the command line."""

from collections.abc import Sequence
from dataclasses import dataclass

from dataengine.errors import InputRefused
from dataengine.records import AuditEvent, Session, User, now
from storage import accounts
from storage.catalog import Catalog
from storage.maintenance import rename_person
from storage.passwords import PasswordHash, hash_new_password, password_matches
from storage.queries.people import WorkDone, work_by_person
from storage.workspace import Workspace

SESSION_ID = 16
"""Hexadecimal digits of a session's id on pages."""

# Without an active admin, browsers are locked out of administration; the command line is not, so it passes
# `keep_admin=False`.


def add_user(
    workspace: Workspace, name: str, password: str, roles: Sequence[str], actor: str, keep_admin: bool = True
) -> None:
    """Open an account. Raises `InputRefused` for a bad name, password or role, `Conflict` if the name is
    taken; with `keep_admin`, `InputRefused` where the first account is no admin.

    Where an admin's page adds it (`keep_admin`) and it is not the first, its person has to choose another
    password after signing in.
    """
    accounts.check_name(name)
    hashed = hash_new_password(password)
    with workspace.catalog() as catalog:
        first = not catalog.users.count()
        must_change = keep_admin and not first
        accounts.create_user(catalog, name, hashed, roles, actor, must_change)
        if keep_admin and first and "admin" not in roles:
            raise InputRefused(
                "the first account must have the admin role, because it disables the start-up link"
            )
        catalog.commit()


def set_roles(
    workspace: Workspace, name: str, roles: Sequence[str], actor: str, keep_admin: bool = True
) -> None:
    """Change what a person may do. Raises `NotFound`, and `InputRefused` for an unknown role or, with
    `keep_admin`, where no active admin would be left.
    """
    with workspace.catalog() as catalog:
        accounts.set_roles(catalog, name, roles, actor)
        if keep_admin:
            require_admin(catalog)
        catalog.commit()


def set_password(
    workspace: Workspace, name: str, password: str, actor: str, must_change: bool = False
) -> None:
    """Change a password and end the person's sessions; with `must_change` they have to choose another one
    after signing in. Raises `NotFound`, `InputRefused`.
    """
    hashed = hash_new_password(password)
    with workspace.catalog() as catalog:
        accounts.set_password(catalog, name, hashed, actor, must_change)
        catalog.commit()


def change_own_password(workspace: Workspace, token: str, current: str, password: str) -> None:
    """Change the password of the person whose session has this token, and end their other sessions.

    Raises `AccessDenied` for a wrong current password, or a session that has ended; `InputRefused` for the
    same or an invalid new password.
    """
    with workspace.catalog(read_only=True) as catalog:
        name = accounts.required_session(catalog, token)[0].user
        accounts.check_guesses(catalog, name)
        stored = catalog.users.password_hash(name)
    matches = password_matches(current, stored)
    if matches and password == current:
        raise InputRefused("the new password is the current one; choose another")
    new = hash_new_password(password) if matches else PasswordHash()
    with workspace.catalog() as catalog:
        try:
            session, _ = accounts.required_session(catalog, token)
            matches = matches and catalog.users.password_hash(name) == stored
            accounts.change_own_password(catalog, session, matches, new)
        finally:
            catalog.commit()


def sign_in_link(workspace: Workspace, name: str, actor: str) -> str:
    """The path of a link that signs a person in once, within ten minutes, however many passwords were
    guessed. Raises `NotFound`, `Conflict`."""
    with workspace.catalog() as catalog:
        token = accounts.make_link(catalog, name, actor)
        catalog.commit()
    return f"/login?link={token}"


def set_active(workspace: Workspace, name: str, active: bool, actor: str, keep_admin: bool = True) -> None:
    """Activate or deactivate an account; deactivating ends its sessions. Raises as `set_roles`."""
    with workspace.catalog() as catalog:
        accounts.set_active(catalog, name, active, actor)
        if keep_admin:
            require_admin(catalog)
        catalog.commit()


def remove_user(workspace: Workspace, name: str, actor: str, keep_admin: bool = False) -> None:
    """Delete an account and its sessions; labels and votes stay. Raises as `set_roles`."""
    with workspace.catalog() as catalog:
        accounts.remove_user(catalog, name, actor)
        if keep_admin:
            require_admin(catalog)
        catalog.commit()


def rename_user(workspace: Workspace, name: str, new_name: str, actor: str) -> None:
    """Rename an account and its work. Raises as `rename_person`."""
    with workspace.catalog() as catalog:
        rename_person.rename_person(catalog, name, new_name, actor)
        catalog.commit()


def session_id(session: Session) -> str:
    """What pages call a session by: a part of what the catalog stores of its token."""
    return session.token_hash[:SESSION_ID]


def end_session(workspace: Workspace, name: str, id: str, actor: str) -> int:
    """End one session of a person; returns 1, or 0 for one that has ended or is not theirs."""
    with workspace.catalog() as catalog:
        found = [one for one in catalog.sessions.list(now(), name) if session_id(one) == id]
        for session in found:
            catalog.sessions.revoke(session.token_hash)
            catalog.audit.add(AuditEvent(actor=actor, action="session.end", subject=name))
        catalog.commit()
    return len(found)


def end_sessions(workspace: Workspace, name: str, actor: str, but: str = "") -> int:
    """End all sessions of a person except the one with token hash `but`; returns their number."""
    with workspace.catalog() as catalog:
        ended = catalog.sessions.revoke_all(name, but)
        catalog.audit.add(
            AuditEvent(actor=actor, action="session.end", subject=name, details={"sessions": ended})
        )
        catalog.commit()
    return ended


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """An account with its work and its open sessions, newest first."""

    user: User
    work: WorkDone
    sessions: tuple[Session, ...]


def list_accounts(workspace: Workspace) -> list[Account]:
    """All accounts by name."""
    with workspace.catalog(read_only=True) as catalog:
        people, work, sessions = catalog.users.list(), work_by_person(catalog), catalog.sessions.list(now())
    return [
        Account(
            user=user,
            work=work.get(user.name, WorkDone()),
            sessions=tuple(one for one in sessions if one.user == user.name),
        )
        for user in people
    ]


def sessions_of(workspace: Workspace, name: str) -> list[Session]:
    """A person's open sessions, newest first."""
    with workspace.catalog(read_only=True) as catalog:
        return catalog.sessions.list(now(), name)


def is_guest(workspace: Workspace, name: str) -> bool:
    """Whether the account came by an invitation to a study, so that it has no password."""
    with workspace.catalog(read_only=True) as catalog:
        return catalog.guests.find(name) is not None


def require_admin(catalog: Catalog) -> None:
    """Raise `InputRefused` unless an account is an active admin's."""
    if not any(user.active and "admin" in user.roles for user in catalog.users.list()):
        raise InputRefused("this would leave no active admin; give another account the admin role first")
