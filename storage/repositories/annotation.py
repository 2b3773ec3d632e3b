"""Repositories of annotation besides labels: drafts, idempotency keys, comments, gold images and scores."""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Select, exists, func, select

from dataengine.errors import Conflict, NotFound
from dataengine.records import (
    Comment,
    Draft,
    GoldImage,
    GoldScore,
    IdempotencyKey,
)
from storage import tables
from storage.repositories.rows import Rows, replace, with_regions


class Drafts(Rows[Draft]):
    """Unfinished label maps, one per image and person."""

    table = tables.drafts
    makes = Draft
    what = "draft"

    def _records(self, statement: Select[Any], values: Mapping[str, Any] | None = None) -> list[Draft]:
        return [with_regions(draft) for draft in super()._records(statement, values)]

    def save(self, draft: Draft) -> None:
        """Store the draft, replacing an older one. Raises `NotFound` if there is no such image."""
        replace(self._connection, self.table, self._row(draft))

    def get(self, image_id: str, author: str) -> Draft | None:
        """The person's draft of the image."""
        return self._one(image_id=image_id, author=author)

    def count_of(self, author: str, besides: str) -> int:
        """Number of the person's drafts of other images than `besides`."""
        drafts = self.table.c
        own = select(func.count()).where(drafts.author == author, drafts.image_id != besides)
        return self._connection.scalar(own) or 0

    def discard(self, image_id: str, author: str) -> int:
        """Delete a draft; returns 1 or 0."""
        return self._drop(image_id=image_id, author=author)


class IdempotencyKeys(Rows[IdempotencyKey]):
    """Used idempotency keys."""

    table = tables.receipts
    makes = IdempotencyKey
    what = "idempotency key"

    def find(self, author: str, key: str, digest: str) -> IdempotencyKey | None:
        """The stored answer of that key. Raises `Conflict` if it was another answer."""
        stored = self._one(author=author, key=key)
        if stored is not None and stored.digest != digest:
            raise Conflict(
                "this idempotency key was used for another answer; send each answer with its own key"
            )
        return stored

    def add(self, key: IdempotencyKey) -> int:
        """Store the key; 0 where it stands already. Raises `Conflict` if it stands for another answer."""
        if self._insert([key]):
            return 1
        self.find(key.author, key.key, key.digest)
        return 0


class Comments(Rows[Comment]):
    """People's comments on images."""

    table = tables.comments
    makes = Comment
    what = "comment"

    def add(self, image_id: str, author: str, text: str) -> Comment:
        """Store a comment. Raises `NotFound` if there is no such image."""
        comment = Comment(id=secrets.token_hex(12), image_id=image_id, author=author, text=text)
        self._insert([comment])
        return comment

    def of_image(self, image_id: str) -> list[Comment]:
        """An image's comments, oldest first."""
        table = self.table.c
        order = table.created, table.id
        return self._records(self._select().where(table.image_id == image_id).order_by(*order))

    def newest(self, limit: int = 100) -> list[Comment]:
        """The newest comments on any image."""
        return self._records(self._select().order_by(self.table.c.created.desc()).limit(limit))


class Gold(Rows[GoldImage]):
    """Images with a known right answer, mixed into the queue, and people's scores on them."""

    table = tables.gold_images
    makes = GoldImage
    what = "gold image"

    def choose(self, gold: GoldImage) -> None:
        """Make an image gold, or change its right answer. Raises `NotFound` if there is no such image."""
        replace(self._connection, self.table, self._row(gold))

    def drop(self, image_id: str) -> int:
        """Remove an image from the gold images; returns 1 or 0. Its scores are kept."""
        return self._drop(image_id=image_id)

    def find(self, image_id: str) -> GoldImage | None:
        """The right answer of a gold image, None for any other."""
        return self._one(image_id=image_id)

    def get(self, image_id: str) -> GoldImage:
        """As `find`. Raises `NotFound`."""
        gold = self.find(image_id)
        if gold is None:
            raise NotFound(f"image {image_id!r} is not a gold image; list the gold images to see their ids")
        return gold

    def list(self) -> list[GoldImage]:
        """All gold images, oldest first."""
        return self._records(self._select().order_by(self.table.c.created, self.table.c.image_id))

    def unseen(self, annotator: str) -> GoldImage | None:
        """The oldest gold image that this person has not labelled yet."""
        labels, gold = tables.labels.c, self.table.c
        labelled = exists(select(labels.image_id)).where(
            labels.image_id == gold.image_id, labels.author == annotator
        )
        oldest = self._select().where(~labelled).order_by(gold.created, gold.image_id).limit(1)
        return next(iter(self._records(oldest)), None)

    def score(self, score: GoldScore) -> None:
        """Store a person's score."""
        Scores(self._connection).add(score)

    def scores(self, author: str | None = None) -> Sequence[GoldScore]:
        """All scores, or one person's, oldest first. For curators only."""
        return Scores(self._connection).of(author)


class Scores(Rows[GoldScore]):
    """The scores of `Gold`."""

    table = tables.gold_scores
    makes = GoldScore
    what = "gold score"

    def add(self, score: GoldScore) -> None:
        """Store a score, replacing one of the same revision."""
        replace(self._connection, self.table, self._row(score))

    def of(self, author: str | None) -> Sequence[GoldScore]:
        """All scores, or one person's, oldest first."""
        statement = self._select().order_by(self.table.c.created)
        if author is not None:
            statement = statement.where(self.table.c.author == author)
        return self._records(statement)
