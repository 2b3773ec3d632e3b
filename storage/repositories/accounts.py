"""Repositories of users, sessions, API tokens, identities, audit events and endpoints."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace

from sqlalchemy import Connection, delete, func, insert, select, update

from dataengine.errors import NotFound
from dataengine.records import ApiToken, AuditEvent, Endpoint, Identity, Session, User
from storage import tables
from storage.repositories.rows import Named, Rows

BY_TOKEN = "token"
"""The audit detail that names the API token by which something was done."""
_token: ContextVar[str] = ContextVar("api_token", default="")


@contextmanager
def done_by_token(name: str) -> Iterator[None]:
    """Within the block, audit events name this API token."""
    before = _token.set(name)
    try:
        yield
    finally:
        _token.reset(before)


class Users(Rows[User]):
    """Accounts; `storage.accounts` creates and checks the password hashes."""

    table = tables.users
    makes = User
    what = "user"

    def add(self, user: User, password_hash: str) -> int:
        """Store the account unless its name is taken; returns 1 or 0."""
        return self._insert([user], password_hash=password_hash)

    def get(self, name: str) -> User:
        """The account of that name. Raises `NotFound`."""
        user = self._one(name=name)
        if user is None:
            raise NotFound(f"there is no user {name!r}; `clinic users` lists them")
        return user

    def password_hash(self, name: str) -> str | None:
        """The salted password hash, or None without such an account."""
        return self._connection.scalar(select(self.table.c.password_hash).where(self.table.c.name == name))

    def set_password_hash(self, name: str, password_hash: str, must_change: bool = False) -> None:
        """Replace the salted password hash. Raises `NotFound`."""
        self._change(name, password_hash=password_hash, must_change=must_change)

    def set_seen(self, name: str, seen: float) -> None:
        """Note when the person was last seen; nothing without such an account."""
        self._connection.execute(update(self.table).where(self.table.c.name == name).values(seen=seen))

    def set_roles(self, name: str, roles: Sequence[str]) -> None:
        """Replace the roles. Raises `NotFound`."""
        self._change(name, roles=tuple(roles))

    def set_active(self, name: str, active: bool) -> None:
        """Activate or deactivate the account. Raises `NotFound`."""
        self._change(name, active=active)

    def remove(self, name: str) -> int:
        """Delete the account and its sessions, but no labels or votes; returns 1 or 0."""
        return self._connection.execute(delete(self.table).where(self.table.c.name == name)).rowcount

    def count(self) -> int:
        """Number of accounts."""
        return self._connection.scalar(select(func.count()).select_from(self.table)) or 0

    def list(self) -> list[User]:
        """All accounts by name."""
        return self._records(self._select().order_by(self.table.c.name))

    def _change(self, name: str, **values: object) -> None:
        changed = self._connection.execute(update(self.table).where(self.table.c.name == name).values(values))
        if not changed.rowcount:
            raise NotFound(f"there is no user {name!r}; `clinic users` lists them")


class Sessions(Rows[Session]):
    """Sessions of signed-in browsers; deleting a row signs the browser out."""

    table = tables.sessions
    makes = Session
    what = "session"

    def add(self, session: Session) -> int:
        """Store the session; returns 1 or 0."""
        return self._insert([session])

    def find(self, token_hash: str) -> Session | None:
        """The session of that token hash, expired or not."""
        return self._one(token_hash=token_hash)

    def revoke(self, token_hash: str) -> int:
        """End one session; returns 1 or 0."""
        return self._connection.execute(
            delete(self.table).where(self.table.c.token_hash == token_hash)
        ).rowcount

    def revoke_all(self, name: str, but: str = "") -> int:
        """End all sessions of a person except the one of token hash `but`; returns their number."""
        table = self.table.c
        return self._connection.execute(
            delete(self.table).where(table.user == name, table.token_hash != but)
        ).rowcount

    def list(self, now: float, name: str | None = None) -> list[Session]:
        """The sessions that have not expired, of one person or all, newest first."""
        statement = self._select().where(self.table.c.expires > now).order_by(self.table.c.created.desc())
        return self._records(statement if name is None else statement.where(self.table.c.user == name))

    def purge(self, now: float) -> int:
        """Delete expired sessions; returns their number."""
        return self._connection.execute(delete(self.table).where(self.table.c.expires <= now)).rowcount


class ApiTokens(Named[ApiToken]):
    """Tokens of people's programs; they go with their owner's account."""

    table = tables.api_tokens
    makes = ApiToken
    what = "API token"

    def find(self, id: str) -> ApiToken | None:
        """The token of that id, revoked or expired or not."""
        return self._one(id=id)

    def of_user(self, name: str) -> Sequence[ApiToken]:
        """A person's tokens, oldest first."""
        return [token for token in self.list() if token.user == name]

    def revoke(self, id: str, at: float) -> None:
        """Make a token invalid from now on. Raises `NotFound`."""
        self._update(id, revoked=at)

    def set_used(self, id: str, at: float) -> None:
        """Note when the token was last used; nothing without such a token."""
        self._connection.execute(update(self.table).where(self.table.c.id == id).values(used=at))

    def purge(self, before: float) -> int:
        """Delete those that expired or were revoked before that time; returns their number."""
        table = self.table.c
        return self._connection.execute(
            delete(self.table).where((table.expires < before) | (table.revoked < before))
        ).rowcount


class Identities(Rows[Identity]):
    """Accounts at providers of single sign-on; they end with their account."""

    table = tables.identities
    makes = Identity
    what = "identity"

    def add(self, identity: Identity) -> int:
        """Store the identity unless it is known; returns 1 or 0."""
        return self._insert([identity])

    def find(self, issuer: str, subject: str) -> Identity | None:
        """The identity of that subject at that issuer."""
        return self._one(issuer=issuer, subject=subject)

    def of_user(self, name: str) -> list[Identity]:
        """The identities of an account, oldest first."""
        table = self.table.c
        return self._records(self._select().where(table.user == name).order_by(table.created))


class FailedAttempts:
    """Failed attempts, by the hash of whose they are."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, key: str, at: float) -> int:
        """Store one; returns its number."""
        added = self._connection.execute(insert(tables.failed_attempts).values(key=key, at=at))
        number: int = (added.inserted_primary_key or (0,))[0]
        return number

    def count(self, key: str, since: float) -> int:
        """Number of the key's failures after `since`."""
        table = tables.failed_attempts.c
        counted = select(func.count()).where(table.key == key, table.at > since)
        return self._connection.scalar(counted) or 0

    def forgive(self, key: str) -> None:
        """Delete the key's newest failure."""
        table = tables.failed_attempts.c
        newest = self._connection.scalar(select(func.max(table.id)).where(table.key == key))
        if newest is not None:
            self._connection.execute(delete(tables.failed_attempts).where(table.id == newest))

    def drop(self, number: int) -> None:
        """Delete the failure with that number."""
        found = tables.failed_attempts.c.id == number
        self._connection.execute(delete(tables.failed_attempts).where(found))

    def clear(self, keys: Sequence[str]) -> None:
        """Delete all failures of the keys."""
        found = tables.failed_attempts.c.key.in_(tuple(keys))
        self._connection.execute(delete(tables.failed_attempts).where(found))

    def purge(self, before: float) -> None:
        """Delete the failures of all keys from before that time."""
        self._connection.execute(delete(tables.failed_attempts).where(tables.failed_attempts.c.at <= before))


class Audit(Rows[AuditEvent]):
    """The audit trail; append-only."""

    table = tables.audit_events
    makes = AuditEvent
    what = "audit event"

    def add(self, event: AuditEvent) -> None:
        """Append an event, with the name of the API token that caused it (`done_by_token`)."""
        if name := _token.get():
            event = replace(event, details={**event.details, BY_TOKEN: name})
        self._connection.execute(self.table.insert().values(self._row(event)))

    def count(self, action: str, subject: str, since: float) -> int:
        """Number of events of that action and subject since that time."""
        table = self.table.c
        conditions = table.action == action, table.subject == subject, table.at >= since
        return self._connection.scalar(select(func.count()).select_from(self.table).where(*conditions)) or 0

    def list(
        self,
        limit: int = 100,
        actor: str | None = None,
        action: str | None = None,
        before: float | None = None,
    ) -> list[AuditEvent]:
        """The newest events first; `before` is the time of the previous page's last event."""
        table = self.table.c
        statement = self._select().order_by(table.at.desc(), table.id.desc()).limit(limit)
        if actor is not None:
            statement = statement.where(table.actor == actor)
        if action is not None:
            statement = statement.where(table.action == action)
        return self._records(statement if before is None else statement.where(table.at < before))


class Endpoints(Named[Endpoint]):
    """Paths, models and services that an admin registered."""

    table = tables.endpoints
    makes = Endpoint
    what = "registered endpoint"

    def of_kind(self, kind: str) -> Sequence[Endpoint]:
        """The endpoints of one kind, oldest first."""
        return [endpoint for endpoint in self.list() if endpoint.kind == kind]

    def remove(self, id: str) -> int:
        """Delete one; returns 1 or 0."""
        return self._connection.execute(delete(self.table).where(self.table.c.id == id)).rowcount
