"""Conversion between records and rows."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from dataclasses import replace as with_changes
from functools import cache
from typing import Any, Generic, TypeVar

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Delete,
    Float,
    Integer,
    Select,
    Table,
    bindparam,
    delete,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.dml import Insert
from sqlalchemy.sql.functions import FunctionElement

from dataengine.errors import NotFound
from dataengine.records import Draft, Label, Region

CHUNK = 1000
"""Number of values in one SQL list, below every database's limit of parameters."""

R = TypeVar("R")
T = TypeVar("T")


Regioned = TypeVar("Regioned", Label, Draft)


def with_regions(record: Regioned) -> Regioned:
    """The record with the tuples of its column `regions` as regions."""
    if not record.regions:
        return record
    return with_changes(record, regions=tuple(Region(*one) for one in record.regions))


class database_time(FunctionElement[float]):
    """The database's clock in epoch seconds, for heartbeats: the clocks of workers differ."""

    type = Float()
    inherit_cache = True


@compiles(database_time, "sqlite")
def _sqlite_time(element: Any, compiler: Any, **options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(database_time, "postgresql")
def _postgres_time(element: Any, compiler: Any, **options: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"


def chunks(values: Iterable[T], size: int = CHUNK) -> Iterator[list[T]]:
    """The values in order, in lists of at most `size`."""
    chunk: list[T] = []
    for value in values:
        chunk.append(value)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _plain(column: Column[Any], value: Any) -> Any:
    """NumPy scalars as Python values: SQLite's driver would store them as bytes."""
    if value is None:
        return None
    if isinstance(column.type, Boolean):
        return bool(value)
    if isinstance(column.type, Integer):
        return int(value)
    return float(value) if isinstance(column.type, Float) else value


def insert_new(
    connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]], unique: Sequence[str] = ()
) -> int:
    """Insert the rows with new values of the `unique` columns (default: the primary key); returns their
    number."""
    if not rows:
        return 0
    key = tuple(unique) or tuple(column.key for column in table.primary_key)
    statement = _inserting(table, key, connection.dialect.name)
    ordered = sorted(
        rows, key=lambda row: tuple(row[name] for name in key)
    )  # the same lock order for all writers
    return sum(connection.execute(statement, chunk).rowcount for chunk in chunks(ordered, 10 * CHUNK))


@cache
def _inserting(table: Table, key: tuple[str, ...], dialect: str) -> Insert:
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    statement = insert(table).on_conflict_do_nothing(index_elements=[table.c[name] for name in key])
    return statement.execution_options(preserve_rowcount=True)


@cache
def _columns_of(table: Table, makes: Any) -> dict[str, Column[Any]]:
    return {field.name: table.c[field.name] for field in fields(makes)}


@cache
def _selecting(table: Table, makes: Any, by: tuple[str, ...] = (), newest: str | None = None) -> Select[Any]:
    """Select a record's columns, where each of the columns `by` equals the parameter of its name.

    With `newest` only the row with the highest value of that column.
    """
    named = (table.c[name] == bindparam(name) for name in by)
    columns = (column.label(field) for field, column in _columns_of(table, makes).items())
    statement = select(*columns).where(*named)
    return statement if newest is None else statement.order_by(table.c[newest].desc()).limit(1)


@cache
def _deleting(table: Table, by: tuple[str, ...]) -> Delete:
    return delete(table).where(*(table.c[name] == bindparam(name) for name in by))


def replace(connection: Connection, table: Table, row: Mapping[str, Any]) -> None:
    """Insert the row, or overwrite the one with its primary key."""
    key = [column.name for column in table.primary_key]
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    values = {name: value for name, value in row.items() if name not in key}
    connection.execute(insert(table).values(row).on_conflict_do_update(index_elements=key, set_=values))


class Rows(Generic[R]):
    """A table of one record type, through a unit of work's connection."""

    table: Table
    makes: type[R]
    what: str

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._columns = _columns_of(self.table, self.makes)  # type: ignore[arg-type]

    def _row(self, record: R) -> dict[str, Any]:
        return {name: _plain(column, getattr(record, name)) for name, column in self._columns.items()}

    def _records(self, statement: Select[Any], values: Mapping[str, Any] | None = None) -> list[R]:
        return [self.makes(**row) for row in self._connection.execute(statement, values).mappings()]

    def _select(self) -> Select[Any]:
        return _selecting(self.table, self.makes)  # type: ignore[arg-type]

    def _one(self, newest: str | None = None, **key: Any) -> R | None:
        """The record with these column values; of several, the one with the highest value of column
        `newest`."""
        statement = _selecting(self.table, self.makes, tuple(key), newest)  # type: ignore[arg-type]
        return next(iter(self._records(statement, key)), None)

    def _drop(self, **key: Any) -> int:
        """Delete the rows with these column values; returns their number."""
        return self._connection.execute(_deleting(self.table, tuple(key)), key).rowcount

    def _insert(self, records: Iterable[R], **extra: Any) -> int:
        return insert_new(self._connection, self.table, [self._row(record) | extra for record in records])

    def _in(self, column: Column[Any], values: Iterable[Any], *conditions: Any) -> list[R]:
        records: list[R] = []
        for chunk in chunks(values):
            records += self._records(self._select().where(column.in_(chunk), *conditions))
        return records


class Named(Rows[R]):
    """Rows with one text key `id`."""

    def add(self, record: R) -> int:
        """Store the record unless its id is taken; returns 1 or 0, the number of new rows."""
        return self._insert([record])

    def get(self, id: str) -> R:
        """The record with that id. Raises `NotFound`."""
        record = self._one(id=id)
        if record is None:
            raise NotFound(f"there is no {self.what} {id!r}; list them to see the ids in use")
        return record

    def list(self) -> list[R]:
        """All records, oldest first."""
        return self._records(self._select().order_by(self.table.c.created, self.table.c.id))

    def _update(self, id: str, **values: Any) -> None:
        changed = self._connection.execute(self.table.update().where(self.table.c.id == id).values(values))
        if not changed.rowcount:
            raise NotFound(f"there is no {self.what} {id!r}; list them to see the ids in use")
