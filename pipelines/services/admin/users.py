"""Accounts and roles, for the Admin desk and the command line."""

from collections.abc import Sequence

from dataengine.errors import InputRefused
from storage import accounts
from storage.catalog import Catalog
from storage.workspace import Workspace

# Without an active admin, browsers are locked out of administration; the command line is not, so it passes
# `keep_admin=False`.


def add_user(
    workspace: Workspace, name: str, password: str, roles: Sequence[str], actor: str, keep_admin: bool = True
) -> None:
    """Open an account. Raises `InputRefused` for a bad name, password or role, `Conflict` if the name is
    taken; with `keep_admin`, `InputRefused` where the first account is no admin.
    """
    with workspace.catalog() as catalog:
        if keep_admin and not catalog.users.count() and "admin" not in roles:
            raise InputRefused(
                "the first account must have the admin role, because it disables the start-up link"
            )
        accounts.create_user(catalog, name, password, roles, actor)
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


def set_password(workspace: Workspace, name: str, password: str, actor: str) -> None:
    """Change a password and end the person's sessions. Raises `NotFound`, `InputRefused`."""
    with workspace.catalog() as catalog:
        accounts.set_password(catalog, name, password, actor)
        catalog.commit()


def set_active(workspace: Workspace, name: str, active: bool, actor: str, keep_admin: bool = True) -> None:
    """Open or close an account; closing ends its sessions. Raises as `set_roles`."""
    with workspace.catalog() as catalog:
        accounts.set_active(catalog, name, active, actor)
        if keep_admin:
            require_admin(catalog)
        catalog.commit()


def remove_user(workspace: Workspace, name: str, actor: str) -> None:
    """Delete an account and its sessions; labels and votes stay. Raises `NotFound`."""
    with workspace.catalog() as catalog:
        accounts.remove_user(catalog, name, actor)
        catalog.commit()


def require_admin(catalog: Catalog) -> None:
    """Raise `InputRefused` unless an account is an active admin's."""
    if not any(user.active and "admin" in user.roles for user in catalog.users.list()):
        raise InputRefused("this would leave no active admin; give another account the admin role first")
