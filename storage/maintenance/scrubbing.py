"""Replacing a name in texts, JSON values and table rows."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import quote

from sqlalchemy import Column, ColumnElement, Connection, String, Table, cast, or_, select, true, update

from storage.maintenance.personal_columns import PEOPLE, Handling
from storage.repositories.work import FINISHED

TOKEN = re.compile(r"[0-9A-Za-z]+")
LONG = 12
"""Shorter ids are ordinary words as well, and are replaced only where they are the whole value."""
ENDED = {"jobs": FINISHED, "rounds": ("done", "failed", "cancelled")}
"""States of work whose settings nobody reads any more."""
ROWS = 5000
FEW = 20
"""Up to so many forms of a name are searched for one by one."""


@dataclass(frozen=True)
class PersonScrub:
    """Replaces a person's name as a whole word, in any case: "Ask @Ada." is about ada, "ada-b" and "adam"
    are others. The characters that names may contain join words only where a letter or digit follows.
    """

    name: str
    pseudonym: str
    ordinary = True
    """The name can be an ordinary word, too, such as the name of a recipe."""

    def __call__(self, text: str) -> str:
        return self._pattern.sub(self.pseudonym, text)

    @property
    def forms(self) -> tuple[str, ...]:
        """The name as it is written in text, in JSON and in a URL."""
        return tuple(dict.fromkeys((self.name, json.dumps(self.name)[1:-1], quote(self.name))))

    def may_be_in(self, columns: Iterable[Column[Any]]) -> ColumnElement[bool]:
        """A condition that every row with the name meets; capitals of letters like "Ö" are told apart."""
        texts = [cast(column, String) for column in columns]
        return or_(*(text.icontains(form, autoescape=True) for text in texts for form in self.forms))

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        alternatives = "|".join(map(re.escape, sorted(self.forms, key=len, reverse=True)))
        return re.compile(rf"(?<!\w)(?<!\w[.@-])(?:{alternatives})(?![.@-]*\w)", re.IGNORECASE)


@dataclass(frozen=True)
class IdScrub:
    """Replaces ids and hashes, thousands of them in one pass."""

    ids: frozenset[str]
    pseudonym: str
    ordinary = False

    def __call__(self, text: str) -> str:
        return self.pseudonym if text in self.ids else TOKEN.sub(self._token, text)

    @property
    def forms(self) -> tuple[str, ...]:
        """The ids that can be told from words."""
        return tuple(id for id in sorted(self.ids) if len(id) >= LONG)

    def may_be_in(self, columns: Iterable[Column[Any]]) -> ColumnElement[bool]:
        """As `PersonScrub.may_be_in`; for many ids a condition costs more than it saves."""
        if len(self.forms) < len(self.ids) or len(self.ids) > FEW:
            return true()
        texts = [cast(column, String) for column in columns]
        return or_(*(text.contains(form, autoescape=True) for text in texts for form in self.forms))

    def _token(self, found: re.Match[str]) -> str:
        token = found[0]
        return self.pseudonym if len(token) >= LONG and token in self.ids else token


Scrub = PersonScrub | IdScrub


def scrubbed(value: Any, scrub: Scrub) -> Any:
    """A text or JSON value without the name, at every depth, keys included."""
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, list | tuple):
        return [scrubbed(each, scrub) for each in value]
    if isinstance(value, Mapping):
        return {scrub(key): scrubbed(each, scrub) for key, each in value.items()}
    return value


def scrubbed_settings(value: Any, scrub: Scrub, of_people: bool = False) -> Any:
    """As `scrubbed`, but keys stay, and so do values that are an ordinary word, unless under `PEOPLE`."""
    if isinstance(value, str):
        changed = scrub(value)
        return value if scrub.ordinary and changed == scrub.pseudonym and not of_people else changed
    if isinstance(value, list | tuple):
        return [scrubbed_settings(each, scrub, of_people) for each in value]
    if isinstance(value, Mapping):
        return {
            key: scrubbed_settings(each, scrub, of_people or str(key).lower() in PEOPLE)
            for key, each in value.items()
        }
    return value


def scrub_columns(
    connection: Connection, table: Table, columns: Mapping[str, Handling], scrub: Scrub
) -> dict[str, int]:
    """Scrub these columns of all rows; returns how many values of each column were changed.

    Settings of work that has not ended are left.
    """
    keys, states = list(table.primary_key.columns), ENDED.get(table.name)
    state = [table.c.state] if states else []
    statement = select(*keys, *(table.c[name] for name in columns), *state)
    statement = statement.where(scrub.may_be_in(table.c[name] for name in columns))
    counts = dict.fromkeys(columns, 0)
    changes: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    for row in connection.execute(statement.execution_options(yield_per=ROWS)):
        ended = not states or row[-1] in states
        new: dict[str, Any] = {}
        for (name, how), value in zip(columns.items(), row[len(keys) :], strict=False):
            if how == "scrub settings":
                changed = scrubbed_settings(value, scrub) if ended else value
            else:
                changed = scrubbed(value, scrub)
            if _differ(value, changed):
                new[name] = changed
                counts[name] += 1
        if new:
            changes.append((tuple(row[: len(keys)]), new))
    for key, new in changes:
        where = [column == part for column, part in zip(keys, key, strict=True)]
        connection.execute(update(table).where(*where).values(new))
    return counts


def mentions(connection: Connection, column: Column[Any], scrub: Scrub, labels: Iterable[str]) -> list[Any]:
    """The rows whose value in this column holds the name: the values of their columns `labels`."""
    statement = select(*(column.table.c[label] for label in labels), column).where(
        column.is_not(None), scrub.may_be_in([column])
    )
    return [
        tuple(row[:-1])
        for row in connection.execute(statement.execution_options(yield_per=ROWS))
        if row[-1] and _differ(row[-1], scrubbed(row[-1], scrub))
    ]


def _differ(old: Any, new: Any) -> bool:
    return bool(old) and json.dumps(old) != json.dumps(new)
