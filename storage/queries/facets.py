"""Counts beside the values of the grid's filters, and what the grid leaves out without a filter."""

from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, func, select, text

from storage import tables
from storage.catalog import Catalog
from storage.queries.images import COUNT_LIMIT, ImageFilter, conditions_of

MOST_COUNTED = 50_000
"""Images up to which values are counted: beyond, counting takes longer than a person waits."""
FACETS: dict[str, tuple[str, ColumnElement[Any]]] = {
    "category": ("category", tables.images.c.category),
    "generator": ("generator_id", tables.images.c.generator_id),
    "split": ("split", tables.images.c.split),
    "source": ("source", tables.images.c.source),
    "round": ("round_id", tables.images.c.round_id),
}
"""The filters by their name in an address: the filter's field, and the column."""


def facet_counts(catalog: Catalog, image_filter: ImageFilter) -> dict[str, dict[str, int]]:
    """By filter and value, how many images match when that filter has that value and the others stay; empty
    where more than `MOST_COUNTED` would be counted."""
    counts = {}
    for name, (field, column) in FACETS.items():
        conditions = conditions_of(catalog, replace(image_filter, **{field: None}))  # type: ignore[arg-type]
        values = select(column.label("value")).where(*conditions).limit(MOST_COUNTED + 1).subquery()
        rows = catalog.connection.execute(select(values.c.value, func.count()).group_by(values.c.value)).all()
        if sum(count for _, count in rows) > MOST_COUNTED:
            return {}
        counts[name] = {str(value): int(count) for value, count in rows if value is not None}
    return counts


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
