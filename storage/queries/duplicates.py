"""Groups of near-duplicates, as the import formed them by perceptual hash."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, func, or_, select

from dataengine.errors import InputRefused
from storage import tables
from storage.catalog import Catalog
from storage.queries.images import collected

LOOKS = "look:"
"""How the import names such groups: this, and the hash of the first member."""
SHOWN = 24
"""Images of a group that are listed."""


@dataclass(frozen=True, slots=True)
class DuplicateGroup:
    """A group, its number of images, and the ids of the first of them, the largest image first."""

    name: str
    count: int
    ids: tuple[str, ...]


def duplicate_groups(
    catalog: Catalog, after: str | None, limit: int
) -> tuple[list[DuplicateGroup], str | None]:
    """Groups of two or more images, the largest first, and the cursor of the next page. Raises
    `InputRefused` for what is no cursor."""
    images = tables.images.c
    size = func.count().label("size")
    statement = select(images.group, size).where(*_grouped()).group_by(images.group).having(size > 1)
    if after is not None:
        count, name = _cursor(after)
        statement = statement.having(or_(size < count, and_(size == count, images.group > name)))
    rows = catalog.connection.execute(statement.order_by(size.desc(), images.group).limit(limit + 1)).all()
    groups = [DuplicateGroup(name, count, _members(catalog, name)) for name, count in rows[:limit]]
    last = groups[-1] if len(rows) > limit else None
    return groups, None if last is None else f"{last.count}:{last.name}"


def count_of_groups(catalog: Catalog) -> dict[str, int]:
    """The number of groups, and of images in them."""
    images = tables.images.c
    size = func.count().label("size")
    sizes = select(size).where(*_grouped()).group_by(images.group).having(size > 1).subquery()
    found = catalog.connection.execute(select(func.count(), func.coalesce(func.sum(sizes.c.size), 0))).one()
    return {"total": int(found[0]), "images": int(found[1])}


def _grouped() -> list[ColumnElement[bool]]:
    images = tables.images.c
    return [images.status == "active", images.group.startswith(LOOKS), collected()]


def _members(catalog: Catalog, name: str) -> tuple[str, ...]:
    images = tables.images.c
    order = (images.height * images.width).desc(), images.created, images.id
    statement = select(images.id).where(*_grouped(), images.group == name).order_by(*order).limit(SHOWN)
    return tuple(catalog.connection.scalars(statement))


def _cursor(after: str) -> tuple[int, str]:
    count, separator, name = after.partition(":")
    if not separator or not count.isdecimal() or len(count) > 9:
        raise InputRefused(f"{after!r} is not a valid cursor; reload the list")
    return int(count), name
