"""Building blocks of the catalog's tables: shared metadata, and short helpers for columns."""

from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Dialect,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    Text,
    TypeDecorator,
)

from storage.locations import Places, every_text

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    }
)


class Tuples(TypeDecorator[tuple[Any, ...]]):
    """JSON lists that are read as tuples, at every depth."""

    impl = JSON
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Dialect) -> tuple[Any, ...] | None:
        return None if value is None else _as_tuple(value)


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


class Located(TypeDecorator[str]):
    """Text that may be a path, stored relative to a folder that can be moved (see `storage.locations`)."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        places = places_of(dialect)
        return value if places is None or value is None else places.stored(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        places = places_of(dialect)
        return value if places is None or value is None else places.resolved(value)


class LocatedJson(TypeDecorator[Any]):
    """JSON whose texts may be paths, stored as those of `Located`."""

    impl = JSON
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        places = places_of(dialect)
        return value if places is None else every_text(value, places.stored)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        places = places_of(dialect)
        return value if places is None else every_text(value, places.resolved)


def places_of(dialect: Dialect) -> Places | None:
    """The folders of the engine's workspace, which `storage.engine.make_engine` left there; None for an
    engine without a workspace."""
    return getattr(dialect, "places", None)


def key(name: str) -> Column[Any]:
    return Column(name, Text, primary_key=True)


def text(name: str) -> Column[Any]:
    return Column(name, Text, nullable=False)


def location(name: str) -> Column[Any]:
    return Column(name, Located, nullable=False)


def optional_text(name: str) -> Column[Any]:
    return Column(name, Text)


def integer(name: str, field: str = "") -> Column[Any]:
    """`field` is what records and queries call the column where its stored name is an older one."""
    return Column(name, Integer, key=field or name, nullable=False)


def float_(name: str) -> Column[Any]:
    return Column(name, Float, nullable=False)


def boolean(name: str) -> Column[Any]:
    return Column(name, Boolean, nullable=False)


def json(name: str) -> Column[Any]:
    return Column(name, LocatedJson, nullable=False)


def image_key() -> Column[Any]:
    return Column("image_id", Text, ForeignKey("images.id", ondelete="CASCADE"), primary_key=True)
