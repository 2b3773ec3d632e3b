"""Erase an image, or all of a person's data, and report what was derived from it.

Snapshots, detectors and treatments are not changed: the returned list shows what may have to be retrained.
"""

import secrets
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Table, delete, or_, select, update

from dataengine.errors import NotFound
from dataengine.records import AND, AuditEvent
from storage import tables
from storage.catalog import Catalog
from storage.repositories.rows import chunks
from storage.stores.maps import MapRef
from storage.workspace import Workspace

MAP_COLUMNS = (tables.predictions.c.map_ref, tables.pseudo_labels.c.map_ref)


@dataclass(frozen=True, kw_only=True, slots=True)
class Erased:
    """Counts of erased records, and the ids of what was derived from them."""

    images: int = 0
    labels: int = 0
    votes: int = 0
    reviews: int = 0
    blobs: int = 0
    snapshots: tuple[str, ...] = ()
    detectors: tuple[str, ...] = ()
    treatments: tuple[str, ...] = ()
    generators: tuple[str, ...] = ()
    packs_kept: tuple[str, ...] = ()
    """Packs that contain an erased map and are kept, because a snapshot refers to their other maps."""


def erase_images(workspace: Workspace, image_ids: Iterable[str], actor: str) -> Erased:
    """Delete images with their labels, predictions and queue items, and every blob that only they refer to.

    Exported shards that contain one of them are removed from this machine and can be exported again without
    it. Raises `NotFound`, erasing nothing, if one of the images does not exist.
    """
    ids = sorted(set(image_ids))
    with workspace.catalog(read_only=True) as catalog:
        existing = {image.id: image for image in catalog.images.get_many(ids)}
        if missing := [id for id in ids if id not in existing]:
            raise NotFound(f"there is no image {missing[0]!r}; nothing was erased. Check the ids")
        doomed = {blob for image in existing.values() for blob in (image.sha256, image.thumbnail) if blob}
        labels = _values(catalog.connection, tables.labels.c.label_map, tables.labels.c.image_id, ids)
        packs = {MapRef.parse(ref).pack for ref in _map_refs(catalog.connection, ids)}
        items = tables.snapshot_items.c
        lineage = _lineage(catalog, _values(catalog.connection, items.snapshot_id, items.image_id, ids))
    moved = _repack(workspace, packs, set(ids))
    with workspace.catalog() as catalog:
        for old, new in moved.items():
            for column in MAP_COLUMNS:
                _set(catalog.connection, column, old, new)
        count = sum(_delete(catalog.connection, tables.labels, tables.labels.c.image_id, ids))
        images = sum(_delete(catalog.connection, tables.images, tables.images.c.id, ids))
        details = {"images": images, "labels": count, "snapshots": list(lineage.snapshots)}
        catalog.audit.add(
            AuditEvent(actor=actor, action="erase.images", subject=str(images), details=details)
        )
        catalog.commit()
    blobs, kept = _delete_unused(workspace, doomed | labels, packs)
    _remove_exports(workspace, lineage.snapshots, "image_id", ids)
    return Erased(
        images=images,
        labels=count,
        blobs=blobs,
        snapshots=lineage.snapshots,
        detectors=lineage.detectors,
        treatments=lineage.treatments,
        generators=lineage.generators,
        packs_kept=kept,
    )


def erase_person(workspace: Workspace, name: str, actor: str) -> Erased:
    """Delete a person's account, sessions, labels, reviews and votes, and the label maps that only they drew.

    The audit trail and their job requests keep a pseudonym. Images that they had labelled are not queued
    again. Raises `NotFound` if there is no data of that name.
    """
    with workspace.catalog(read_only=True) as catalog:
        maps = _values(catalog.connection, tables.labels.c.label_map, tables.labels.c.author, [name])
        lineage = _lineage(catalog, {one.id for one in catalog.snapshots.drawn_by(name)})
    pseudonym = f"erased-{secrets.token_hex(4)}"
    with workspace.catalog() as catalog:
        connection = catalog.connection
        gone = {
            table.name: sum(_delete(connection, table, column, [name]))
            for table, column in (
                (tables.reviews, tables.reviews.c.reviewer),
                (tables.labels, tables.labels.c.author),
                (tables.votes, tables.votes.c.rater),
                (tables.leases, tables.leases.c.annotator),
                (tables.drafts, tables.drafts.c.author),
                (tables.receipts, tables.receipts.c.author),
                (tables.comments, tables.comments.c.author),
                (tables.gold_scores, tables.gold_scores.c.author),
                (tables.queue_answers, tables.queue_answers.c.author),
                (tables.queue_takers, tables.queue_takers.c.person),
                (tables.users, tables.users.c.name),
            )
        }
        renamed = 0
        for column in (
            tables.audit_events.c.actor,
            tables.audit_events.c.subject,
            tables.jobs.c.requested_by,
            tables.benchmarks.c.created_by,
            tables.benchmarks.c.frozen_by,
            tables.benchmark_items.c.settled_by,
        ):
            renamed += _set(connection, column, name, pseudonym)
        if not renamed and not any(gone.values()):
            raise NotFound(f"there is no data of a person {name!r}; check the name")
        details = {"labels": gone["labels"], "snapshots": list(lineage.snapshots)}
        event_actor = pseudonym if actor == name else actor
        catalog.audit.add(
            AuditEvent(actor=event_actor, action="erase.person", subject=pseudonym, details=details)
        )
        catalog.commit()
    blobs, _ = _delete_unused(workspace, maps, set())
    _remove_exports(workspace, lineage.snapshots, "author", [name])
    return Erased(
        labels=gone["labels"],
        votes=gone["votes"],
        reviews=gone["reviews"],
        blobs=blobs,
        snapshots=lineage.snapshots,
        detectors=lineage.detectors,
        treatments=lineage.treatments,
        generators=lineage.generators,
    )


def _lineage(catalog: Catalog, snapshots: set[str]) -> Erased:
    """Add what was derived from the snapshots: detectors, treatments and generators."""
    detectors = {one.id for one in catalog.detectors.list() if one.snapshot_id in snapshots}
    _add_descendants(detectors, [(one.id, one.parent) for one in catalog.detectors.list()])
    treatments = {one.id for one in catalog.treatments.list() if one.detector_id in detectors}
    generators = {one.id for one in catalog.generators.list() if one.treatment_id in treatments}
    _add_descendants(generators, [(one.id, one.parent) for one in catalog.generators.list()])
    return Erased(
        snapshots=tuple(sorted(snapshots)),
        detectors=tuple(sorted(detectors)),
        treatments=tuple(sorted(treatments)),
        generators=tuple(sorted(generators)),
    )


def _add_descendants(ids: set[str], parents: Sequence[tuple[str, str | None]]) -> None:
    while children := {id for id, parent in parents if parent in ids} - ids:
        ids |= children


def _values(
    connection: Connection, column: ColumnElement[str], where: ColumnElement[str], keys: Sequence[str]
) -> set[str]:
    values: set[str | None] = set()
    for chunk in chunks(keys):
        values.update(connection.scalars(select(column).where(where.in_(chunk)).distinct()))
    return {value for value in values if value}


def _map_refs(connection: Connection, ids: Sequence[str]) -> set[str]:
    return {
        ref for column in MAP_COLUMNS for ref in _values(connection, column, column.table.c["image_id"], ids)
    }


def _delete(
    connection: Connection, table: Table, column: ColumnElement[str], keys: Sequence[str]
) -> list[int]:
    return [connection.execute(delete(table).where(column.in_(chunk))).rowcount for chunk in chunks(keys)]


def _set(connection: Connection, column: ColumnElement[str], old: str, new: str) -> int:
    table = column.table
    return connection.execute(update(table).where(column == old).values({column: new})).rowcount


def _repack(workspace: Workspace, packs: set[str], erased: set[str]) -> dict[str, str]:
    """Repack the maps that share a pack with an erased one; returns old references to new ones.

    A pack that a snapshot refers to is not changed: its references are part of the snapshot's hash.
    """
    moved: dict[str, str] = {}
    for pack in sorted(packs):
        with workspace.catalog(read_only=True) as catalog:
            if _in_snapshot(catalog.connection, pack):
                continue
            shared = sorted(
                {
                    ref
                    for column in MAP_COLUMNS
                    for ref in catalog.connection.scalars(
                        select(column).where(
                            column.startswith(pack + ":"), column.table.c["image_id"].not_in(erased)
                        )
                    )
                }
            )
        if shared:
            moved |= dict(zip(shared, workspace.maps.put_many(workspace.maps.get_many(shared)), strict=True))
    return moved


def _in_snapshot(connection: Connection, pack: str) -> bool:
    target = tables.snapshot_items.c.target
    return connection.scalar(select(target).where(target.startswith(pack + ":")).limit(1)) is not None


def _delete_unused(workspace: Workspace, names: set[str], packs: set[str]) -> tuple[int, tuple[str, ...]]:
    """Delete the blobs that no other image, label or map refers to; returns their number, and the packs that
    are kept."""
    with workspace.catalog(read_only=True) as catalog:
        free = {name for name in names if not _used(catalog.connection, name)}
        kept = {pack for pack in packs if _pack_used(catalog.connection, pack)}
    deleted = sum(workspace.blobs.delete(name) for name in sorted(free | (packs - kept)))
    return deleted, tuple(sorted(kept))


def _used(connection: Connection, name: str) -> bool:
    images, labels = tables.images.c, tables.labels.c
    by_image = select(images.id).where(or_(images.sha256 == name, images.thumbnail == name)).limit(1)
    by_label = select(labels.image_id).where(labels.label_map == name).limit(1)
    gold = tables.gold_images.c
    by_gold = select(gold.image_id).where(gold.label_map == name).limit(1)
    return any(connection.scalar(statement) is not None for statement in (by_image, by_label, by_gold))


def _pack_used(connection: Connection, pack: str) -> bool:
    columns = (*MAP_COLUMNS, tables.snapshot_items.c.target)
    statements = (select(column).where(column.startswith(pack + ":")).limit(1) for column in columns)
    return any(connection.scalar(statement) is not None for statement in statements)


def _remove_exports(
    workspace: Workspace, snapshots: Sequence[str], column: str, values: Sequence[str]
) -> None:
    """Remove this machine's exported shards that contain such a row, and the folders that link to them."""
    import pyarrow.parquet as parquet

    folder, erased = workspace.snapshots.folder, set(values)
    for snapshot in snapshots:
        shutil.rmtree(folder / snapshot, ignore_errors=True)
    for shard in folder.glob("shards/*.parquet"):
        held = filter(None, parquet.read_table(shard, columns=[column])[column].to_pylist())
        if any(not erased.isdisjoint(value.split(AND)) for value in held):
            shard.unlink(missing_ok=True)
