"""Counts beside the values of the grid's filters, and what the grid leaves out without a filter."""

from dataclasses import replace
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Table, case, exists, func, literal, select, text

from storage import tables
from storage.catalog import Catalog
from storage.queries.images import (
    COUNT_LIMIT,
    STATES,
    ImageFilter,
    State,
    conditions_of,
    in_state,
    newest_revision,
)
from storage.repositories.labels import MAX_FILTER_CLASS

MOST_COUNTED = 50_000
"""Rows up to which values are counted: beyond, counting takes longer than a person waits."""
COLUMNS: dict[str, tuple[str, ColumnElement[Any]]] = {
    "category": ("category", tables.images.c.category),
    "generator": ("generator_id", tables.images.c.generator_id),
    "split": ("split", tables.images.c.split),
    "source": ("source", tables.images.c.source),
    "round": ("round_id", tables.images.c.round_id),
}
"""The filters of one column by their name in an address: the filter's field, and the column."""

Counts = dict[str, int | None]
"""Images by value; None for a value that would take too long to count."""


class Others(NamedTuple):
    """The images that match a filter when one of its fields is left open."""

    conditions: list[ColumnElement[bool]]
    total: int | None
    """None for more than `MOST_COUNTED`."""

    def include(self, image_id: ColumnElement[Any]) -> ColumnElement[bool]:
        """Whether an image is among them: looked up among few, else checked by itself."""
        if self.total is not None:
            return image_id.in_(select(tables.images.c.id).where(*self.conditions))
        return exists().where(tables.images.c.id == image_id, *self.conditions)


def facet_counts(catalog: Catalog, image_filter: ImageFilter) -> dict[str, Counts]:
    """By filter and value, how many images match when that filter has that value and the others stay; a
    value without images may be left out.

    Reads a bounded number of rows: a filter is left out where more than `MOST_COUNTED` images match without
    it; status, class and tag only where there are also more than that many labels or tags.
    """
    known: dict[ImageFilter, Others] = {}

    def others(field: str) -> Others:
        left_open = replace(image_filter, **{field: None})  # type: ignore[arg-type]
        if left_open not in known:
            known[left_open] = _others(catalog, left_open)
        return known[left_open]

    counts = {name: _of_column(catalog, others(field), column) for name, (field, column) in COLUMNS.items()}
    counts["state"] = _of_states(catalog, others("state"), replace(image_filter, state="refused"))
    counts["class"] = _of_classes(catalog, others("label_class"))
    counts["tag"] = _of_tags(catalog, others("tag"))
    return {name: found for name, found in counts.items() if found is not None}


def _others(catalog: Catalog, image_filter: ImageFilter) -> Others:
    conditions = conditions_of(catalog, image_filter)
    found = select(tables.images.c.id).where(*conditions).limit(MOST_COUNTED + 1).subquery()
    count = catalog.connection.scalar(select(func.count()).select_from(found)) or 0
    return Others(conditions, count if count <= MOST_COUNTED else None)


def _of_column(catalog: Catalog, others: Others, column: ColumnElement[Any]) -> Counts | None:
    if others.total is None:
        return None
    statement = select(column, func.count()).where(*others.conditions, column.is_not(None)).group_by(column)
    return {str(value): int(count) for value, count in catalog.connection.execute(statement)}


def _of_states(catalog: Catalog, others: Others, refused: ImageFilter) -> Counts | None:
    labelled = tables.labels.c.image_id
    counts: Counts = dict.fromkeys(STATES)
    counts["refused"] = _others(catalog, refused).total
    if others.total is not None:
        counts["unlabelled"] = others.total - _distinct(catalog, labelled, others.include(labelled))
    if others.total is not None or _is_short(catalog, tables.queue_items):
        counts["waiting"] = _in_state(catalog, "waiting", others)
    if others.total is not None or _is_short(catalog, tables.labels):
        for state in ("unreviewed", "approved", "returned"):
            counts[state] = _in_state(catalog, state, others)
    return counts


def _in_state(catalog: Catalog, state: State, others: Others) -> int:
    image_id = in_state(state).subquery().c.image_id
    return _distinct(catalog, image_id, others.include(image_id))


def _of_classes(catalog: Catalog, others: Others) -> Counts | None:
    if others.total is None and not _is_short(catalog, tables.labels):
        return None
    labels, statistics = tables.labels.c, tables.label_map_facts.c
    values = [one.value for one in catalog.classes.list() if one.value <= MAX_FILTER_CLASS]
    bits = [statistics.classes.bitwise_and(1 << (value - 1)) != 0 for value in values]
    statement = (
        select(*(func.count(case((bit, labels.image_id)).distinct()) for bit in bits))
        .select_from(tables.labels.join(tables.label_map_facts, statistics.sha256 == labels.label_map))
        .where(newest_revision(labels), others.include(labels.image_id))
    )
    row = catalog.connection.execute(statement).one()
    return {str(value): int(count) for value, count in zip(values, row, strict=True)}


def _of_tags(catalog: Catalog, others: Others) -> Counts | None:
    if others.total is None and not _is_short(catalog, tables.image_tags):
        return None
    tags = tables.image_tags.c
    statement = select(tags.tag, func.count()).where(others.include(tags.image_id)).group_by(tags.tag)
    return {str(tag): int(count) for tag, count in catalog.connection.execute(statement)}


def _distinct(catalog: Catalog, image_id: ColumnElement[Any], condition: ColumnElement[bool]) -> int:
    return catalog.connection.scalar(select(func.count(image_id.distinct())).where(condition)) or 0


def _is_short(catalog: Catalog, table: Table) -> bool:
    """Whether a table has at most `MOST_COUNTED` rows."""
    rows = select(literal(1)).select_from(table).limit(MOST_COUNTED + 1).subquery()
    return (catalog.connection.scalar(select(func.count()).select_from(rows)) or 0) <= MOST_COUNTED


LEFT_OUT = {
    "injected": ("ix_images_source_split", "source = 'injected' AND status = 'active'"),
    "refused": ("ix_images_status_created_id", "status = 'refused' AND source <> 'injected'"),
}


def left_out(catalog: Catalog) -> dict[str, int]:
    """Images that the grid shows only when a filter names them: injected ones and refused ones; each counted
    up to the limit of counts."""
    # SQLite takes a rare value for as frequent as the others, and would read the whole table.
    named = catalog.connection.dialect.name == "sqlite"
    return {
        name: catalog.connection.scalar(
            text(
                f"SELECT count(*) FROM (SELECT 1 FROM images {f'INDEXED BY {index}' if named else ''} "
                f"WHERE {condition} LIMIT {COUNT_LIMIT}) AS found"
            )
        )
        for name, (index, condition) in LEFT_OUT.items()
    }
