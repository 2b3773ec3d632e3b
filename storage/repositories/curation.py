"""What the curation desk keeps beside labels: facts of label maps, detector features, who takes an image."""

import base64
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, delete, exists, select, update

from dataengine.records import QueueItem, now
from storage import schema
from storage.repositories.labelling import Queue
from storage.repositories.rows import chunks, insert_new

FEATURE_LENGTH = 96
"""Bytes of a stored feature vector; a multiple of three, so that many decode as one text."""

EDIT_FIRST = 20.0
"""Priority of an image that a curator opened: it comes before everything else."""
EDIT_SECONDS = 900.0
"""How long it waits for them before they have the page open, which renews the lease."""


class LabelMapFacts:
    """What packed label maps hold, by their hash; it never changes."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def missing(self, limit: int) -> list[tuple[str, int, int]]:
        """Maps of labels that nobody has looked into, as (hash, height, width), at most `limit`."""
        labels, facts = schema.labels.c, schema.label_map_facts.c
        known = exists(select(facts.sha256).where(facts.sha256 == labels.label_map))
        statement = (
            select(labels.label_map, labels.height, labels.width)
            .where(labels.label_map.is_not(None), ~known)
            .distinct()
            .limit(limit)
        )
        return [(row.label_map, row.height, row.width) for row in self._connection.execute(statement)]

    def add_many(self, facts: Iterable[tuple[str, Sequence[int], float]]) -> int:
        """Store (hash, classes painted, share of the image covered) that are new; returns how many were."""
        rows = [
            {"sha256": sha256, "classes": sum(1 << (value - 1) for value in set(classes)), "area": area}
            for sha256, classes, area in facts
        ]
        return insert_new(self._connection, schema.label_map_facts, rows)


class Features:
    """One short vector for each image and detector, for "more like this"."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add_many(self, detector_id: str, vectors: Mapping[str, NDArray[np.int8]]) -> int:
        """Store vectors by image id, int8 of length 96; returns how many were new."""
        rows = [
            {
                "image_id": id,
                "detector_id": detector_id,
                "vector": base64.b64encode(vector.tobytes()).decode(),
            }
            for id, vector in vectors.items()
        ]
        return insert_new(self._connection, schema.image_features, rows)

    def missing(self, detector_id: str) -> list[str]:
        """Ids of active images without a vector of that detector, in order."""
        images, mine = schema.images.c, schema.image_features.c
        has = exists(select(mine.image_id).where(mine.image_id == images.id, mine.detector_id == detector_id))
        statement = select(images.id).where(images.status == "active", ~has).order_by(images.id)
        return list(self._connection.scalars(statement))

    def of(self, detector_id: str, limit: int) -> tuple[list[str], NDArray[np.int8]]:
        """Ids and vectors, int8 N×96, of at most `limit` images of that detector."""
        mine = schema.image_features.c
        statement = select(mine.image_id, mine.vector).where(mine.detector_id == detector_id).limit(limit)
        rows = self._connection.execute(statement).all()
        raw = base64.b64decode("".join(row.vector for row in rows))
        return [row.image_id for row in rows], np.frombuffer(raw, np.int8).reshape(-1, FEATURE_LENGTH)

    def get(self, detector_id: str, image_id: str) -> NDArray[np.int8] | None:
        """One image's vector, or None."""
        mine = schema.image_features.c
        key = mine.detector_id == detector_id, mine.image_id == image_id
        found = self._connection.scalar(select(mine.vector).where(*key))
        return None if found is None else np.frombuffer(base64.b64decode(found), np.int8)


class Takers:
    """Who alone may take a queue item; items without takers are open to all."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add_many(
        self, image_ids: Iterable[str], round_id: str, people: Sequence[str], kind: str = "draw"
    ) -> int:
        """Reserve items for people; returns how many rows were new."""
        rows = [
            {"image_id": id, "round_id": round_id, "kind": kind, "person": person}
            for id in image_ids
            for person in people
        ]
        return insert_new(self._connection, schema.queue_takers, rows)

    def hand(self, image_id: str, person: str) -> None:
        """Lease one person an image to draw now, whoever else holds it or has drawn it before."""
        round_id, items, answers = f"edit by {person}", schema.queue_items, schema.queue_answers
        item = QueueItem(
            image_id=image_id, round_id=round_id, priority=EDIT_FIRST, reason="opened from the curation desk"
        )
        if not Queue(self._connection).add_many([item]):
            mine = answers.c.image_id == image_id, answers.c.round_id == round_id
            self._connection.execute(delete(answers).where(*mine))
            again = items.c.image_id == image_id, items.c.round_id == round_id
            self._connection.execute(update(items).where(*again).values(given=0, done=False))
        self.add_many([image_id], round_id, [person])
        Queue(self._connection).lend(image_id, round_id, person, now() + EDIT_SECONDS)

    def of(self, image_ids: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """The people who alone may take each image, by image."""
        table = schema.queue_takers.c
        found: dict[str, tuple[str, ...]] = {}
        for chunk in chunks(image_ids):
            statement = select(table.image_id, table.person).where(table.image_id.in_(chunk)).distinct()
            for row in self._connection.execute(statement.order_by(table.person)):
                found[row.image_id] = (*found.get(row.image_id, ()), row.person)
        return found
