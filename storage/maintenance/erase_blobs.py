"""The blobs' part of an erasure: packs without the erased maps, blobs that nobody else uses, exports."""

import shutil
from collections.abc import Sequence

from sqlalchemy import Connection, select

from dataengine.records import AND
from storage import tables
from storage.maintenance.erase_rows import Mark, is_used, values
from storage.workspace import Workspace

MAP_COLUMNS = (tables.predictions.c.map_ref, tables.pseudo_labels.c.map_ref)


def map_refs(connection: Connection, ids: Sequence[str]) -> set[str]:
    """References to the images' artifact maps."""
    return {
        ref for column in MAP_COLUMNS for ref in values(connection, column, column.table.c["image_id"], ids)
    }


def repack(workspace: Workspace, packs: set[str], erased: set[str]) -> dict[str, str]:
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


def delete_unused(workspace: Workspace, mark: Mark) -> tuple[int, tuple[str, ...]]:
    """Delete the blobs that no other image, label or map refers to; returns their number, and the packs that
    are kept."""
    with workspace.catalog(read_only=True) as catalog:
        free = unused(catalog.connection, mark)
    deleted = sum(workspace.blobs.purge(name) for name in sorted(free))
    return deleted, tuple(sorted(mark.packs - free))


def unused(connection: Connection, mark: Mark) -> set[str]:
    """The blobs and packs of an erasure that nothing refers to any more."""
    free = {blob for blob in mark.blobs if not is_used(connection, blob)}
    return free | {pack for pack in mark.packs if not _pack_used(connection, pack)}


def _pack_used(connection: Connection, pack: str) -> bool:
    columns = (*MAP_COLUMNS, tables.snapshot_items.c.target)
    statements = (select(column).where(column.startswith(pack + ":")).limit(1) for column in columns)
    return any(connection.scalar(statement) is not None for statement in statements)


def remove_exports(
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
