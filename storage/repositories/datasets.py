"""Repositories of snapshots and benchmarks."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, delete, func, select, update

from dataengine.errors import ConfigRefused, Conflict
from dataengine.records import (
    AND,
    AuditEvent,
    Benchmark,
    BenchmarkItem,
    Snapshot,
    SnapshotItem,
    digest,
    now,
)
from dataengine.records.datasets import label_by
from storage import tables
from storage.repositories.accounts import Audit
from storage.repositories.rows import Named, Rows, chunks, insert_new


class _BenchmarkItems(Rows[BenchmarkItem]):
    table = tables.benchmark_items
    makes = BenchmarkItem
    what = "benchmark item"

    def add(self, benchmark_id: str, items: Iterable[BenchmarkItem]) -> int:
        rows = [self._row(item) | {"benchmark_id": benchmark_id} for item in items]
        return insert_new(self._connection, self.table, rows)

    def of(self, benchmark_id: str) -> list[BenchmarkItem]:
        table = self.table.c
        of_benchmark = self._select().where(table.benchmark_id == benchmark_id)
        return self._records(of_benchmark.order_by(table.kind, table.stratum, table.image_id))


class Benchmarks(Named[Benchmark]):
    """A draft collects annotations and settles them; freezing computes its digest and makes it immutable."""

    table = tables.benchmarks
    makes = Benchmark
    what = "benchmark"

    def draft(
        self, name: str, items: Iterable[BenchmarkItem], actor: str, settings: Mapping[str, Any] | None = None
    ) -> Benchmark:
        """Create the next version as a draft and reserve its images, with their whole groups, for split
        "benchmark".

        Raises `Conflict` while another draft is open.
        """
        self.refuse_second_draft()
        version = 1 + (self._connection.scalar(select(func.max(self.table.c.version))) or 0)
        draft = Benchmark(
            id=digest("benchmark", version, now()),
            version=version,
            name=name,
            settings=dict(settings or {}),
            created_by=actor,
        )
        self._insert([draft])
        chosen = list(items)
        _BenchmarkItems(self._connection).add(draft.id, chosen)
        self._reserve([item.image_id for item in chosen])
        self._note(actor, "draft", draft, {"images": len(chosen)})
        return draft

    def open_draft(self) -> Benchmark | None:
        """The draft being built."""
        return next(iter(self._records(self._select().where(self.table.c.state == "draft"))), None)

    def refuse_second_draft(self) -> None:
        """Raise `Conflict` while a draft is open."""
        if open_one := self.open_draft():
            raise Conflict(f"benchmark {open_one.version} is still a draft; freeze or discard it first")

    def newest_frozen(self) -> Benchmark | None:
        """The newest frozen version, on which detectors are evaluated."""
        frozen = self._select().where(self.table.c.state == "frozen")
        return next(iter(self._records(frozen.order_by(self.table.c.version.desc()).limit(1))), None)

    def require_frozen(self) -> Benchmark:
        """As `newest_frozen`. Raises `ConfigRefused` when there is none, which blocks promotion."""
        benchmark = self.newest_frozen()
        if benchmark is None:
            raise ConfigRefused(
                "there is no frozen benchmark for an independent evaluation of the promotion; "
                "build one at /curate under Benchmark, freeze it, then try again"
            )
        return benchmark

    def items(self, benchmark_id: str) -> list[BenchmarkItem]:
        """Its images in a fixed order."""
        return _BenchmarkItems(self._connection).of(benchmark_id)

    def settle(self, benchmark_id: str, image_id: str, target: str | None, actor: str, how: str) -> None:
        """Settle an image's true label: the blob of a label map, None for a clean image.

        Raises `Conflict` if the benchmark is frozen, or for an image that is not in it.
        """
        self._open(benchmark_id)
        items = tables.benchmark_items.c
        of_image = items.benchmark_id == benchmark_id, items.image_id == image_id
        changed = self._connection.execute(
            update(tables.benchmark_items)
            .where(*of_image)
            .values(settled=True, target=target, settled_by=actor, how=how)
        )
        if not changed.rowcount:
            raise Conflict(f"image {image_id!r} is not in this benchmark; reload the benchmark")

    def rename_author(self, name: str, new_name: str) -> int:
        """Say that true labels are this person's under the new name; returns the number of changed rows."""
        how = tables.benchmark_items.c.how
        statement = update(tables.benchmark_items).where(how == label_by(name))
        return self._connection.execute(statement.values(how=label_by(new_name))).rowcount

    def freeze(self, benchmark_id: str, actor: str) -> Benchmark:
        """Make a draft immutable. Raises `Conflict` while an image is not settled, and for an empty draft."""
        draft = self._open(benchmark_id)
        items = self.items(benchmark_id)
        waiting = sum(not item.settled for item in items)
        if waiting or not items:
            obstacle = (
                f"{waiting} of {len(items)} images are not settled yet" if items else "it has no images"
            )
            raise Conflict(f"benchmark {draft.version} cannot be frozen: {obstacle}")
        values = {"state": "frozen", "digest": content_digest(items), "frozen_by": actor, "frozen": now()}
        self._update(benchmark_id, **values)
        self._note(actor, "freeze", draft, {"images": len(items), "digest": values["digest"]})
        return self.get(benchmark_id)

    def discard(self, benchmark_id: str, actor: str) -> None:
        """Discard a draft; its images stay reserved, so that the next draft takes them first."""
        draft = self._open(benchmark_id)
        self._connection.execute(delete(self.table).where(self.table.c.id == benchmark_id))
        self._note(actor, "discard", draft, {})

    def _open(self, benchmark_id: str) -> Benchmark:
        benchmark = self.get(benchmark_id)
        if benchmark.state == "frozen":
            raise Conflict(
                f"benchmark {benchmark.version} is frozen and cannot be changed; draft the next version"
            )
        return benchmark

    def _reserve(self, image_ids: list[str]) -> None:
        images = tables.images.c
        for chunk in chunks(image_ids):
            groups = select(images.group).where(images.id.in_(chunk), images.group != "")
            reserved = images.id.in_(chunk) | images.group.in_(groups)
            self._connection.execute(update(tables.images).where(reserved).values(split="benchmark"))

    def _note(self, actor: str, action: str, benchmark: Benchmark, details: dict[str, Any]) -> None:
        event = AuditEvent(
            actor=actor, action=f"benchmark.{action}", subject=f"version {benchmark.version}", details=details
        )
        Audit(self._connection).add(event)


def content_digest(items: Iterable[BenchmarkItem]) -> str:
    """SHA-256 over the sorted images and their true labels, so that equal benchmarks have equal digests."""
    rows = sorted((item.image_id, item.kind, item.target or "") for item in items)
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


class _SnapshotItems(Rows[SnapshotItem]):
    table = tables.snapshot_items
    makes = SnapshotItem
    what = "snapshot item"

    def add(self, snapshot_id: str, items: Iterable[SnapshotItem]) -> int:
        rows = [
            self._row(item) | {"snapshot_id": snapshot_id, "position": position}
            for position, item in enumerate(items)
        ]
        return insert_new(self._connection, self.table, rows)

    def of(self, snapshot_id: str) -> list[SnapshotItem]:
        table = self.table.c
        return self._records(self._select().where(table.snapshot_id == snapshot_id).order_by(table.position))


def _names(author: ColumnElement[Any], name: str) -> ColumnElement[bool]:
    """Whether a person is the author, or one of several."""
    return (AND + author + AND).contains(AND + name + AND, autoescape=True)


class Snapshots(Named[Snapshot]):
    """Immutable training sets and their rows."""

    table = tables.snapshots
    makes = Snapshot
    what = "snapshot"

    def add(self, record: Snapshot, items: Iterable[SnapshotItem] = ()) -> int:
        """Store the snapshot with its rows unless its id is taken; returns 1 or 0."""
        new = super().add(record)
        if new:
            _SnapshotItems(self._connection).add(record.id, items)
        return new

    def items(self, snapshot_id: str) -> Sequence[SnapshotItem]:
        """The snapshot's rows in their order."""
        return _SnapshotItems(self._connection).of(snapshot_id)

    def authors(self, snapshot_id: str) -> dict[int, str]:
        """The authors of the rows that have any, by position, under today's names and the pseudonyms of
        erased people; the manifest keeps the former names."""
        items = tables.snapshot_items.c
        drawn = items.snapshot_id == snapshot_id, items.author.is_not(None)
        rows = self._connection.execute(select(items.position, items.author).where(*drawn))
        return {row.position: row.author for row in rows}

    def rename_author(self, name: str, new_name: str) -> int:
        """Give a person's labels in snapshots the new name, alone and merged with others'; returns the number
        of changed rows."""
        author = tables.snapshot_items.c.author
        known = self._connection.scalars(select(author).where(_names(author, name)).distinct()).all()
        changed = 0
        for names in known:
            renamed = AND.join(sorted(new_name if one == name else one for one in names.split(AND)))
            statement = update(tables.snapshot_items).where(author == names).values(author=renamed)
            changed += self._connection.execute(statement).rowcount
        return changed

    def containing(self, image_id: str) -> Sequence[Snapshot]:
        """The snapshots that contain an image, oldest first; also for an erased image."""
        return self._where_item(tables.snapshot_items.c.image_id == image_id)

    def drawn_by(self, author: str) -> Sequence[Snapshot]:
        """The snapshots that contain a person's labels, alone or merged with others', oldest first."""
        return self._where_item(_names(tables.snapshot_items.c.author, author))

    def _where_item(self, condition: Any) -> Sequence[Snapshot]:
        inside = select(tables.snapshot_items.c.snapshot_id).where(condition)
        table = self.table.c
        return self._records(self._select().where(table.id.in_(inside)).order_by(table.created, table.id))
