"""Counts beside the values of the grid's filters, and what the grid leaves out without a filter."""

from collections import Counter
from dataclasses import replace
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Table, case, exists, func, literal, select, text

from storage import tables
from storage.catalog import Catalog
from storage.queries.images import (
    COUNT_LIMIT,
    STATES,
    ImageFilter,
    conditions_of,
    count_of_images,
    ids_within,
    in_state,
    newest_revision,
)
from storage.repositories.labels import MAX_FILTER_CLASS
from storage.repositories.rows import chunks

MOST_COUNTED = 50_000
"""Images up to which values are counted: beyond, counting takes longer than a person waits."""
MOST_JOINED = COUNT_LIMIT
"""Images, and labels or tags, up to which one is looked up for each of the other."""
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
    values: list[Counter[Any]]
    """How many have each value of each of `COLUMNS`; of none where there is no total."""
    ids: list[str]
    """Their ids where these are at most `MOST_JOINED`."""

    @property
    def few(self) -> bool:
        """Whether they can be joined with whatever there is."""
        return self.total is not None and self.total <= MOST_JOINED

    def include(self, image_id: ColumnElement[Any]) -> list[ColumnElement[bool]]:
        """Conditions of which an image that is among them meets exactly one."""
        if self.few:
            return [image_id.in_(chunk) for chunk in chunks(self.ids)]
        return [exists().where(tables.images.c.id == image_id, *self.conditions)]


def facet_counts(catalog: Catalog, image_filter: ImageFilter) -> dict[str, Counts]:
    """By filter and value, how many images match when that filter has that value and the others stay; a
    value without images may be left out.

    Reads a bounded number of rows: a filter is left out where more than `MOST_COUNTED` images match without
    it, and status, class and tag where that are more than `MOST_JOINED` and there are as many labels or tags.
    """
    known: dict[ImageFilter, Others] = {}

    def others(field: str) -> Others:
        left_open = replace(image_filter, **{field: None})  # type: ignore[arg-type]
        if left_open not in known:
            known[left_open] = _others(catalog, left_open)
        return known[left_open]

    counts: dict[str, Counts | None] = {}
    for at, (name, (field, _)) in enumerate(COLUMNS.items()):
        if (found := others(field)).total is not None:
            counts[name] = {str(value): count for value, count in found.values[at].items()}
    counts["state"] = _of_states(catalog, others("state"), replace(image_filter, state="refused"))
    counts["class"] = _of_classes(catalog, others("label_class"))
    counts["tag"] = _of_tags(catalog, others("tag"))
    return {name: known for name, known in counts.items() if known is not None}


def _others(catalog: Catalog, image_filter: ImageFilter) -> Others:
    conditions = conditions_of(catalog, image_filter)
    if count_of_images(catalog, image_filter, MOST_COUNTED + 1) > MOST_COUNTED:
        return Others(conditions, None, [], [])
    # In one pass: to find the images costs more than to count their values.
    inside = ids_within(catalog, image_filter).limit(MOST_COUNTED)
    columns = [column for _, column in COLUMNS.values()]
    statement = select(*columns, tables.images.c.id).where(tables.images.c.id.in_(inside))
    rows = catalog.connection.execute(statement).all()
    values = [Counter(row[at] for row in rows if row[at] is not None) for at in range(len(columns))]
    return Others(conditions, len(rows), values, [row.id for row in rows] if len(rows) <= MOST_JOINED else [])


def _of_states(catalog: Catalog, others: Others, refused: ImageFilter) -> Counts | None:
    labelled = tables.labels.c.image_id
    counts: Counts = dict.fromkeys(STATES)
    if others.total is not None:
        counts["refused"] = _others(catalog, refused).total
    if others.few or _is_short(catalog, tables.queue_items):
        counts["waiting"] = _distinct(catalog, in_state("waiting").subquery().c.image_id, others)
    if others.few or _is_short(catalog, tables.labels):
        if others.total is not None:
            counts["unlabelled"] = others.total - _distinct(catalog, labelled, others)
        for state in ("unreviewed", "approved", "returned"):
            counts[state] = _distinct(catalog, in_state(state).subquery().c.image_id, others)
    return counts


def _of_classes(catalog: Catalog, others: Others) -> Counts | None:
    if not (others.few or _is_short(catalog, tables.labels)):
        return None
    labels, statistics = tables.labels.c, tables.label_map_facts.c
    values = [one.value for one in catalog.classes.list() if one.value <= MAX_FILTER_CLASS]
    bits = [statistics.classes.bitwise_and(1 << (value - 1)) != 0 for value in values]
    statement = (
        select(*(func.count(case((bit, labels.image_id)).distinct()) for bit in bits))
        .select_from(tables.labels.join(tables.label_map_facts, statistics.sha256 == labels.label_map))
        .where(newest_revision(labels))
    )
    rows = [
        catalog.connection.execute(statement.where(part)).one() for part in others.include(labels.image_id)
    ]
    return {str(value): sum(row[at] for row in rows) for at, value in enumerate(values)}


def _of_tags(catalog: Catalog, others: Others) -> Counts | None:
    if not (others.few or _is_short(catalog, tables.image_tags)):
        return None
    tags, counts = tables.image_tags.c, Counter[str]()
    for part in others.include(tags.image_id):
        statement = select(tags.tag, func.count()).where(part).group_by(tags.tag)
        counts.update(dict(catalog.connection.execute(statement).tuples().all()))
    return dict(counts)


def _distinct(catalog: Catalog, image_id: ColumnElement[Any], others: Others) -> int:
    """How many of the images a column names."""
    counted = select(func.count(image_id.distinct()))
    parts = others.include(image_id)
    return sum(catalog.connection.scalar(counted.where(part)) or 0 for part in parts)


def _is_short(catalog: Catalog, table: Table) -> bool:
    """Whether a table has at most `MOST_JOINED` rows."""
    rows = select(literal(1)).select_from(table).limit(MOST_JOINED + 1).subquery()
    return (catalog.connection.scalar(select(func.count()).select_from(rows)) or 0) <= MOST_JOINED


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
