"""Accounts, sessions, studies, votes, the audit trail, and what an admin registered."""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, Select, delete, func, select, update

from dataengine.errors import InputRefused, NotFound
from dataengine.masks import MAX_CLASS
from dataengine.records import (
    DEFAULT_CLASSES,
    AuditEvent,
    Endpoint,
    Guest,
    Invitation,
    Session,
    Study,
    User,
    Vote,
)
from storage import schema
from storage.repositories.rows import Named, Rows, insert_new


class Studies(Named[Study]):
    """Blind pairwise comparisons."""

    table = schema.studies
    makes = Study
    what = "study"

    def close(self, study_id: str) -> None:
        """Take no more votes. Raises `NotFound`."""
        self._update(study_id, state="closed")


class Votes(Rows[Vote]):
    """One answer for each study, pair, rater and question."""

    table = schema.votes
    makes = Vote
    what = "vote"

    def add(self, *votes: Vote) -> int:
        """Store the votes unless that rater already answered; returns how many were new."""
        return self._insert(votes)

    def of_study(self, study_id: str, rater: str | None = None) -> list[Vote]:
        """A study's votes (one rater's with `rater`), in order of pairs."""
        table = self.table.c
        order = table.pair, table.question, table.rater
        statement = self._select().where(table.study_id == study_id).order_by(*order)
        return self._records(statement if rater is None else statement.where(table.rater == rater))


class Invitations(Rows[Invitation]):
    """Links with which strangers become raters of one study."""

    table = schema.invitations
    makes = Invitation
    what = "invitation"

    def add(self, invitation: Invitation) -> int:
        """Store the invitation; returns 1 or 0."""
        return self._insert([invitation])

    def find(self, token_hash: str) -> Invitation | None:
        """The invitation of that token's hash, expired or not."""
        return next(iter(self._records(self._select().where(self.table.c.token_hash == token_hash))), None)

    def of_study(self, study_id: str) -> list[Invitation]:
        """A study's invitations, oldest first."""
        table = self.table.c
        return self._records(self._select().where(table.study_id == study_id).order_by(table.created))

    def take(self, token_hash: str, at: float) -> bool:
        """Take one place if there is one and the link has not expired; exactly one taker gets the last."""
        table = self.table.c
        free = table.token_hash == token_hash, table.taken < table.places, table.expires > at
        return bool(
            self._connection.execute(
                update(self.table).where(*free).values(taken=self.table.c.taken + 1)
            ).rowcount
        )

    def end(self, study_id: str, at: float) -> int:
        """Let a study's open invitations expire now; returns how many there were."""
        table = self.table.c
        open_ones = table.study_id == study_id, table.expires > at
        return self._connection.execute(update(self.table).where(*open_ones).values(expires=at)).rowcount


class Guests(Rows[Guest]):
    """Accounts that judge one study and nothing else."""

    table = schema.guests
    makes = Guest
    what = "guest"

    def add(self, guest: Guest) -> int:
        """Store the guest; returns 1 or 0."""
        return self._insert([guest])

    def find(self, name: str) -> Guest | None:
        """The guest of that account, None for everybody else."""
        return next(iter(self._records(self._select().where(self.table.c.name == name))), None)

    def of_study(self, study_id: str) -> list[Guest]:
        """A study's guests, oldest first."""
        table = self.table.c
        return self._records(self._select().where(table.study_id == study_id).order_by(table.created))


class Users(Rows[User]):
    """Accounts; `storage.accounts` makes and checks the password hashes."""

    table = schema.users
    makes = User
    what = "user"

    def add(self, user: User, password_hash: str) -> int:
        """Store the account unless its name is taken; returns 1 or 0."""
        return self._insert([user], password_hash=password_hash)

    def get(self, name: str) -> User:
        """The account of that name. Raises `NotFound`."""
        found = self._one(name=name)
        if found is None:
            raise NotFound(f"there is no user {name!r}; `clinic users` lists them")
        return found

    def password_hash(self, name: str) -> str | None:
        """The salted hash, or None without such an account."""
        return self._connection.scalar(select(self.table.c.password_hash).where(self.table.c.name == name))

    def set_password_hash(self, name: str, password_hash: str) -> None:
        """Replace the salted hash. Raises `NotFound`."""
        self._change(name, password_hash=password_hash)

    def set_roles(self, name: str, roles: Sequence[str]) -> None:
        """Replace the roles. Raises `NotFound`."""
        self._change(name, roles=tuple(roles))

    def set_active(self, name: str, active: bool) -> None:
        """Open or close the account. Raises `NotFound`."""
        self._change(name, active=active)

    def remove(self, name: str) -> int:
        """Delete the account and its sessions, not the work under that name; returns 1 or 0."""
        return self._connection.execute(delete(self.table).where(self.table.c.name == name)).rowcount

    def count(self) -> int:
        """How many accounts there are."""
        return self._connection.scalar(select(func.count()).select_from(self.table)) or 0

    def list(self) -> list[User]:
        """All accounts by name."""
        return self._records(self._select().order_by(self.table.c.name))

    def _change(self, name: str, **values: object) -> None:
        changed = self._connection.execute(update(self.table).where(self.table.c.name == name).values(values))
        if not changed.rowcount:
            raise NotFound(f"there is no user {name!r}; `clinic users` lists them")


class Sessions(Rows[Session]):
    """Signed-in browsers; a row's end signs it out."""

    table = schema.sessions
    makes = Session
    what = "session"

    def add(self, session: Session) -> int:
        """Store the session; returns 1 or 0."""
        return self._insert([session])

    def find(self, token_hash: str) -> Session | None:
        """The session of that token's hash, expired or not."""
        return self._one(token_hash=token_hash)

    def of_user(self, name: str) -> list[Session]:
        """A person's sessions, oldest first."""
        return self._records(self._select().where(self.table.c.user == name).order_by(self.table.c.created))

    def extend(self, token_hash: str, expires: float) -> None:
        """Move the end of a session."""
        mine = self.table.c.token_hash == token_hash
        self._connection.execute(update(self.table).where(mine).values(expires=expires))

    def revoke(self, token_hash: str) -> int:
        """End one session; returns 1 or 0."""
        return self._connection.execute(
            delete(self.table).where(self.table.c.token_hash == token_hash)
        ).rowcount

    def revoke_all(self, name: str) -> int:
        """End every session of a person; returns how many there were."""
        return self._connection.execute(delete(self.table).where(self.table.c.user == name)).rowcount

    def purge(self, now: float) -> int:
        """Remove expired sessions; returns how many there were."""
        return self._connection.execute(delete(self.table).where(self.table.c.expires <= now)).rowcount


class Audit(Rows[AuditEvent]):
    """Who did what, and when. Events are only ever added."""

    table = schema.audit_events
    makes = AuditEvent
    what = "audit event"

    def add(self, event: AuditEvent) -> None:
        """Append an event."""
        self._connection.execute(self.table.insert().values(self._row(event)))

    def count(self, action: str, subject: str, since: float) -> int:
        """How often the action met the subject since that time."""
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
        """The newest events first; `before` is the time of the last one of the page before."""
        table = self.table.c
        statement = self._select().order_by(table.at.desc(), table.id.desc()).limit(limit)
        if actor is not None:
            statement = statement.where(table.actor == actor)
        if action is not None:
            statement = statement.where(table.action == action)
        return self._records(statement if before is None else statement.where(table.at < before))


class Endpoints(Named[Endpoint]):
    """Paths, models and services that an admin registered."""

    table = schema.endpoints
    makes = Endpoint
    what = "registered endpoint"

    def of_kind(self, kind: str) -> Sequence[Endpoint]:
        """The endpoints of one kind, oldest first."""
        return [endpoint for endpoint in self.list() if endpoint.kind == kind]

    def remove(self, id: str) -> int:
        """Delete one; returns 1 or 0."""
        return self._connection.execute(delete(self.table).where(self.table.c.id == id)).rowcount


@cache
def _class_names() -> Select[Any]:
    table = schema.label_classes
    return select(table.c.name).order_by(table.c.value)


class Classes:
    """The workspace's label classes: label map value 1 is the first name, and so on."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def names(self) -> tuple[str, ...]:
        """The names in order of their values; the project's three as long as nobody set others."""
        return tuple(self._connection.scalars(_class_names())) or DEFAULT_CLASSES

    def set(self, names: Iterable[str]) -> None:
        """Rename classes or append new ones, up to `masks.MAX_CLASS`. Raises `InputRefused` if one would go.

        Label maps hold the values, so a class that labels may use can be renamed but not removed.
        """
        wanted, have = [name.strip() for name in names], self.names()
        if not len(have) <= len(wanted) <= MAX_CLASS or len(set(wanted)) < len(wanted) or not all(wanted):
            raise InputRefused(
                f"{len(wanted)} class names given; expected {len(have)} to {MAX_CLASS} distinct, "
                "non-empty ones: labels refer to the classes by number, so rename or append only"
            )
        self._connection.execute(delete(schema.label_classes))
        rows = [{"value": value, "name": name} for value, name in enumerate(wanted, 1)]
        insert_new(self._connection, schema.label_classes, rows)
