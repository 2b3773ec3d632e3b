"""References of the catalog to blobs."""

import json
import re
from collections.abc import Iterator

from sqlalchemy import JSON, Connection, String, Table, TypeDecorator, select

from storage import tables
from storage.stores.blobs import Blobs
from storage.stores.checkpoints import Checkpoints

MANIFEST_BYTES = 4 * 1024 * 1024

_SHA256 = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_MANY = frozenset(
    {
        *("images", "image_features", "predictions", "pseudo_labels", "snapshot_items", "benchmark_items"),
        *("map_places", "labels", "label_map_facts", "gold_images"),
    }
)
"""Tables of single images: their references are never checkpoints."""


def referenced(connection: Connection, blobs: Blobs, checkpoints: Checkpoints) -> set[str]:
    """Every SHA-256 anywhere in the catalog, with the files of the checkpoints among them.

    Anything that has the form of a hash counts, in any column and inside any JSON, so that future kinds of
    references are kept as well.
    """
    references: set[str] = set()
    for table in tables.metadata.sorted_tables:
        names = set(_named_in(connection, table))
        references |= names
        if table.name not in _MANY:
            for name in names:
                references |= _files(name, blobs, checkpoints)
    return references


def _named_in(connection: Connection, table: Table) -> Iterator[str]:
    columns = [column for column in table.c if isinstance(column.type, String | JSON | TypeDecorator)]
    if not columns:
        return
    for row in connection.execute(select(*columns).execution_options(yield_per=5000)):
        for value in row:
            if value:
                yield from _SHA256.findall(value if isinstance(value, str) else json.dumps(value))


def _files(name: str, blobs: Blobs, checkpoints: Checkpoints) -> set[str]:
    """The files of a checkpoint; empty for any other blob."""
    if (
        not blobs.has(name)
        or blobs.size(name) > MANIFEST_BYTES
        or not blobs.get(name).startswith(b'{"files"')
    ):
        return set()
    return {file.sha256 for file in checkpoints.files(name)}
