"""The catalog's part of an erasure: deleted rows, pseudonyms, the mark of an unfinished erasure."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, delete, insert, or_, select, update

from dataengine.records import INJECTED, REPAIRED, Image, now
from storage import tables
from storage.catalog import Catalog
from storage.maintenance.personal_columns import Handling
from storage.maintenance.scrubbing import Scrub, mentions, scrub_columns
from storage.repositories.rows import chunks

BEGUN = "erase.begin"
"""The audit event of an erasure that has not ended; it names a digest of what is erased, and blobs."""
MARKED = ("blobs", "packs", "snapshots", "images")
NAMED_BY: Mapping[str, tuple[str, ...]] = {
    "prompts": ("round_id",),
    "image_tags": ("image_id", "tag"),
    "snapshot_items": ("snapshot_id",),
    "benchmark_items": ("benchmark_id",),
    "settings": ("name",),
}
"""Columns by which the rows of a table are named in the answer; elsewhere the id."""


@dataclass(frozen=True)
class Mark:
    """An erasure under way: what another run needs to continue it after a kill."""

    key: str
    pseudonym: str
    blobs: frozenset[str]
    packs: frozenset[str]
    snapshots: frozenset[str]
    images: frozenset[str] = frozenset()
    """Ids of images made of the erased ones, by which they are found no more."""


def find_mark(connection: Connection, key: str) -> Mark | None:
    """The mark of an unfinished erasure of the same."""
    events = tables.audit_events.c
    for pseudonym, details in connection.execute(
        select(events.subject, events.details).where(events.action == BEGUN)
    ):
        if details["key"] == key:
            return Mark(key, pseudonym, *(frozenset(details.get(name, ())) for name in MARKED))
    return None


def write_mark(connection: Connection, mark: Mark) -> None:
    """Store the mark, replacing the one of an earlier run."""
    remove_mark(connection, mark.pseudonym)
    details = {"key": mark.key} | {name: sorted(getattr(mark, name)) for name in MARKED}
    event = {"actor": mark.pseudonym, "action": BEGUN, "subject": mark.pseudonym, "details": details}
    connection.execute(insert(tables.audit_events).values(**event, at=now()))


def remove_mark(connection: Connection, pseudonym: str) -> None:
    events = tables.audit_events.c
    connection.execute(delete(tables.audit_events).where(events.action == BEGUN, events.subject == pseudonym))


def handle_rows(
    connection: Connection,
    columns: Mapping[str, Handling],
    keys: Mapping[str, Sequence[str]],
    scrub: Scrub,
) -> dict[str, int]:
    """Do to every column what the table says.

    `keys` are the values that delete a row, by column; `""` stands for all other columns. Returns the number
    of deleted rows or changed values by column, without zeros.
    """
    counts: dict[str, int] = {}
    texts: dict[str, dict[str, Handling]] = {}
    for place, how in columns.items():
        column = column_of(place)
        wanted = keys.get(place, keys.get("", ()))
        if how == "delete":
            counts[place] = delete_rows(connection, column, wanted)
        elif how == "replace":
            counts[place] = _replace(connection, column, wanted, scrub.pseudonym)
        elif how in ("scrub", "scrub settings"):
            texts.setdefault(column.table.name, {})[column.name] = how
    for name, wanted_columns in texts.items():
        found = scrub_columns(connection, tables.metadata.tables[name], wanted_columns, scrub)
        counts |= {f"{name}.{column}": count for column, count in found.items()}
    return {place: count for place, count in counts.items() if count}


def rows_that_keep(
    connection: Connection, columns: Mapping[str, Handling], scrub: Scrub
) -> dict[str, list[str]]:
    """What still holds the name, by column: ids of rows that are kept because others depend on them."""
    kept: dict[str, list[str]] = {}
    for place, how in columns.items():
        if how in ("report", "scrub settings"):
            column = column_of(place)
            labels = NAMED_BY.get(column.table.name, ("id",))
            found = mentions(connection, column, scrub, labels)
            if found:
                kept[place] = sorted({" ".join(map(str, row)) for row in found})
    return kept


def made_of(catalog: Catalog, image_ids: Iterable[str]) -> set[str]:
    """These images, with their repairs and those with an artifact injected into them, and what was made of
    those: all show the same, but for a region."""
    ids = set(image_ids)
    groups = {image.group for image in catalog.images.get_many(sorted(ids))} - {""}
    derived = catalog.images.find(source=(INJECTED, REPAIRED), group=sorted(groups)) if groups else []
    while made := {image.id for image in derived if _original(image) in ids} - ids:
        ids |= made
    return ids


def _original(image: Image) -> str | None:
    """The id of the image that a repair or an injection was made of."""
    injected, repaired = (image.settings.get(source, {}) for source in (INJECTED, REPAIRED))
    return injected.get("of") or repaired.get("image")


def column_of(place: str) -> Column[Any]:
    """The column of "table.column"."""
    table, _, name = place.partition(".")
    return tables.metadata.tables[table].c[name]


def drop_answers_made_of(connection: Connection, maps: Iterable[str]) -> dict[str, int]:
    """Drop gold images and unsettle items of a draft benchmark whose right answer is one of these label maps:
    the gold image becomes an ordinary one, the item has to be settled again. Frozen benchmarks are kept.
    """
    gold, items, benchmarks = tables.gold_images, tables.benchmark_items, tables.benchmarks
    drafts = select(benchmarks.c.id).where(benchmarks.c.state != "frozen")
    counts = {"gold_images.label_map": 0, "benchmark_items.target": 0}
    for chunk in chunks(sorted(maps)):
        dropped = connection.execute(delete(gold).where(gold.c.label_map.in_(chunk)))
        unsettled = connection.execute(
            update(items)
            .where(items.c.target.in_(chunk), items.c.benchmark_id.in_(drafts))
            .values(settled=False, target=None, settled_by="", how="")
        )
        counts["gold_images.label_map"] += dropped.rowcount
        counts["benchmark_items.target"] += unsettled.rowcount
    return {place: count for place, count in counts.items() if count}


def drop_playbacks(connection: Connection, images: Collection[str]) -> tuple[int, set[str]]:
    """Empty the results of jobs that played these images; returns how many, and the blobs of their frames.

    Their packs of maps are left to the garbage collection, since equal maps of other images share them.
    """
    jobs, dropped, frames = tables.jobs.c, 0, set[str]()
    for id, args, result in connection.execute(
        select(jobs.id, jobs.args, jobs.result).where(jobs.kind == "play")
    ).all():
        if result and args.get("image") in images:
            connection.execute(update(tables.jobs).where(jobs.id == id).values(result={}))
            dropped, frames = dropped + 1, frames | {step["clean"] for step in result.get("steps", ())}
    return dropped, frames


def only_drawn_by(connection: Connection, name: str) -> set[str]:
    """The label maps that this person drew and nobody else."""
    labels = tables.labels.c
    mine = values(connection, labels.label_map, labels.author, [name])
    others: set[str] = set()
    for chunk in chunks(sorted(mine)):
        shared = select(labels.label_map).where(labels.label_map.in_(chunk), labels.author != name)
        others.update(connection.scalars(shared))
    return mine - others


def frozen_benchmarks_with(
    connection: Connection, images: Sequence[str], maps: Iterable[str]
) -> tuple[str, ...]:
    """Versions of frozen benchmarks with one of the images, or settled by one of the label maps."""
    items, benchmarks = tables.benchmark_items.c, tables.benchmarks.c
    ids = values(connection, items.benchmark_id, items.image_id, images)
    ids |= values(connection, items.benchmark_id, items.target, sorted(maps))
    if not ids:
        return ()
    frozen = select(benchmarks.version).where(benchmarks.id.in_(ids), benchmarks.state == "frozen")
    return tuple(str(version) for version in sorted(connection.scalars(frozen)))


def values(
    connection: Connection, column: ColumnElement[Any], where: ColumnElement[Any], keys: Sequence[str]
) -> set[str]:
    """The distinct values of a column in the rows where another has one of the keys."""
    found: set[str | None] = set()
    for chunk in chunks(keys):
        found.update(connection.scalars(select(column).where(where.in_(chunk)).distinct()))
    return {value for value in found if value}


def set_values(connection: Connection, column: Column[Any], old: str, new: str) -> int:
    """Replace a value in all rows; returns their number."""
    return connection.execute(update(column.table).where(column == old).values({column: new})).rowcount


def is_used(connection: Connection, blob: str) -> bool:
    """Whether an image, label, gold image or benchmark refers to the blob."""
    images, labels = tables.images.c, tables.labels.c
    gold, items = tables.gold_images.c, tables.benchmark_items.c
    return any(
        connection.scalar(statement.limit(1)) is not None
        for statement in (
            select(images.id).where(or_(images.sha256 == blob, images.thumbnail == blob)),
            select(labels.image_id).where(labels.label_map == blob),
            select(gold.image_id).where(gold.label_map == blob),
            select(items.image_id).where(items.target == blob),
        )
    )


def delete_rows(connection: Connection, column: Column[Any], keys: Sequence[str]) -> int:
    """Delete the rows whose column has one of the keys; returns their number."""
    return sum(
        connection.execute(delete(column.table).where(column.in_(chunk))).rowcount for chunk in chunks(keys)
    )


def _replace(connection: Connection, column: Column[Any], keys: Sequence[str], pseudonym: str) -> int:
    return sum(set_values(connection, column, key, pseudonym) for key in keys)
