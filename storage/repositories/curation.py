"""Repositories of curation: tags of images, saved views, pilots."""

from collections.abc import Iterable, Sequence

from sqlalchemy import ColumnElement, Connection, delete, exists, func, insert, literal, or_, select

from dataengine.records import Pilot, SavedView
from storage import tables
from storage.repositories.rows import Named, chunks


class Tags:
    """Tags of images: short words of the team's own."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, conditions: Sequence[ColumnElement[bool]], tags: Sequence[str]) -> int:
        """Tag the images that meet the conditions on `images`; returns the number of new tags."""
        images, table = tables.images.c, tables.image_tags
        added = 0
        for tag in tags:
            tagged = exists().where(table.c.image_id == images.id, table.c.tag == tag)
            rows = select(images.id, literal(tag)).where(*conditions, ~tagged)
            inserted = insert(table).from_select(["image_id", "tag"], rows)
            added += self._connection.execute(inserted.execution_options(preserve_rowcount=True)).rowcount
        return added

    def remove(self, conditions: Sequence[ColumnElement[bool]], tags: Sequence[str]) -> int:
        """Remove tags of the images that meet the conditions; returns their number."""
        table = tables.image_tags
        inside = select(tables.images.c.id).where(*conditions)
        gone = delete(table).where(table.c.tag.in_(tags), table.c.image_id.in_(inside))
        return self._connection.execute(gone).rowcount

    def of(self, image_ids: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """The tags of each image that has any, by name."""
        table, found = tables.image_tags.c, dict[str, tuple[str, ...]]()
        for chunk in chunks(image_ids):
            statement = select(table.image_id, table.tag).where(table.image_id.in_(chunk))
            for row in self._connection.execute(statement.order_by(table.tag)):
                found[row.image_id] = (*found.get(row.image_id, ()), row.tag)
        return found

    def counts(self) -> dict[str, int]:
        """The number of images of each tag in use, by name."""
        tag = tables.image_tags.c.tag
        statement = select(tag, func.count()).group_by(tag).order_by(tag)
        return {str(name): int(count) for name, count in self._connection.execute(statement)}


class SavedViews(Named[SavedView]):
    """Saved views of the image grid."""

    table = tables.saved_views
    makes = SavedView
    what = "saved view"

    def visible_to(self, person: str) -> list[SavedView]:
        """The person's own views and the shared ones, by name."""
        table = self.table.c
        statement = self._select().where(or_(table.owner == person, table.shared.is_(True)))
        return self._records(statement.order_by(func.lower(table.name), table.id))

    def change(self, id: str, name: str, shared: bool) -> None:
        """Rename a view, and share it or not. Raises `NotFound`."""
        self._update(id, name=name, shared=shared)

    def delete(self, id: str) -> int:
        """Delete a view; returns 1 or 0."""
        return self._drop(id=id)


class Pilots(Named[Pilot]):
    """Pilots, oldest first."""

    table = tables.pilots
    makes = Pilot
    what = "pilot"
