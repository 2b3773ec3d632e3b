"""Repositories of images, predictions, VQA answers, pseudo-labels, prompts and features."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Connection, delete, exists, func, select, update

from dataengine.errors import Conflict, NotFound
from dataengine.records import (
    INJECTED,
    CategoryAnswer,
    HardCategory,
    Image,
    Prediction,
    Prompt,
    PseudoLabel,
    Split,
)
from storage import tables
from storage.repositories.rows import Rows, chunks, insert_new


class Images(Rows[Image]):
    """Images, generated or real."""

    table = tables.images
    makes = Image
    what = "image"

    def add_many(self, images: Iterable[Image]) -> int:
        """Store the images with new ids; returns their number."""
        return self._insert(images)

    def get(self, id: str) -> Image:
        """The image with that id. Raises `NotFound`."""
        image = self._one(id=id)
        if image is None:
            raise NotFound(f"there is no image {id!r}: it was erased or never imported. Check the id")
        return image

    def get_many(self, ids: Iterable[str]) -> list[Image]:
        """The images with those ids, in that order; missing ids are omitted."""
        wanted_ids = list(ids)
        by_id = {image.id: image for image in self._in(self.table.c.id, wanted_ids)}
        return [by_id[id] for id in wanted_ids if id in by_id]

    def find(self, *, after: str | None = None, limit: int | None = None, **filters: Any) -> list[Image]:
        """Images that match all filters, ordered by id; `after` is the last id of the previous page.

        Filters: `split`, `source`, `category`, `generator_id`, `round_id`, `purpose`, `status`, `sha256`,
        `group` (each a value or a collection of values) and `has_prompt` (bool).
        """
        return self._records(self._page(self._select(), after, limit, filters))

    def ids(self, *, after: str | None = None, limit: int | None = None, **filters: Any) -> list[str]:
        """As `find`, ids only."""
        return list(self._connection.scalars(self._page(select(self.table.c.id), after, limit, filters)))

    def count(self, **filters: Any) -> int:
        """Number of images that match the filters of `find`."""
        statement = select(func.count()).select_from(self.table).where(*self._conditions(filters))
        return self._connection.scalar(statement) or 0

    def groups(self, prefix: str = "") -> dict[str, str]:
        """The split of every group of images whose name starts with `prefix`."""
        group, split = self.table.c.group, self.table.c.split
        named = group.startswith(prefix, autoescape=True)
        rows = self._connection.execute(select(group, split).distinct().where(named, group != ""))
        return {row.group: row.split for row in rows}

    def set_purpose(self, ids: Iterable[str], purpose: str) -> None:
        """Set what the images were generated for."""
        for chunk in chunks(ids):
            self._connection.execute(
                update(self.table).where(self.table.c.id.in_(chunk)).values(purpose=purpose)
            )

    def decide(self, id: str, status: Literal["active", "refused"]) -> None:
        """Accept or refuse a proposed image. Raises `NotFound`, and `Conflict` if that was done before."""
        table = self.table.c
        decided = self._connection.execute(
            update(self.table).where(table.id == id, table.status == "proposed").values(status=status)
        )
        if not decided.rowcount:
            raise Conflict(f"image {self.get(id).id!r} is {self.get(id).status} and waits for no decision")

    def describe(self, id: str, **values: str | int) -> None:
        """Set an image's `prompt`, `seed`, `category` or `licence`."""
        self._connection.execute(update(self.table).where(self.table.c.id == id).values(values))
        if "category" in values:
            self._set_category(str(values["category"]), [id])

    def set_categories(self, answers: Iterable[CategoryAnswer]) -> int:
        """Store each model's answers and set the images' categories; returns the number of new answers.

        A second answer of the same model for the same image changes nothing, and a category that came with
        the image stays.
        """
        table, fresh = tables.category_answers, list(answers)
        known: set[tuple[str, str]] = set()
        given: set[str] = set()
        for chunk in chunks({answer.image_id for answer in fresh}):
            rows = self._connection.execute(
                select(table.c.image_id, table.c.model).where(table.c.image_id.in_(chunk))
            )
            known.update((row.image_id, row.model) for row in rows)
            with_category = select(self.table.c.id).where(
                self.table.c.id.in_(chunk), self.table.c.category.is_not(None)
            )
            given.update(self._connection.scalars(with_category))
        given -= {image_id for image_id, _ in known}
        fresh = [answer for answer in fresh if (answer.image_id, answer.model) not in known]
        kept = [
            {
                "image_id": answer.image_id,
                "model": answer.model,
                "category": answer.category,
                "confidence": float(answer.confidence),
            }
            for answer in fresh
        ]
        new = insert_new(self._connection, table, kept)
        by_category: dict[str, list[str]] = {}
        for answer in fresh:
            if answer.image_id not in given:
                by_category.setdefault(answer.category, []).append(answer.image_id)
        for category, ids in sorted(by_category.items()):
            self._set_category(category, sorted(ids))
        return new

    def _set_category(self, category: str, ids: Sequence[str]) -> None:
        for chunk in chunks(ids):
            for table, column in ((self.table, "id"), (tables.predictions, "image_id")):
                self._connection.execute(
                    update(table).where(table.c[column].in_(chunk)).values(category=category)
                )

    def answers(self, image_id: str) -> list[CategoryAnswer]:
        """The answers of all VQA models for the image."""
        table = tables.category_answers
        rows = self._connection.execute(
            select(table).where(table.c.image_id == image_id).order_by(table.c.model)
        )
        return [CategoryAnswer(**row) for row in rows.mappings()]

    def _page(self, statement: Any, after: str | None, limit: int | None, filters: dict[str, Any]) -> Any:
        statement = statement.where(*self._conditions(filters)).order_by(self.table.c.id).limit(limit)
        return statement if after is None else statement.where(self.table.c.id > after)

    def set_split(self, conditions: Sequence[ColumnElement[bool]], split: Split) -> int:
        """Move the images that meet the conditions to a split; returns the number of moved ones."""
        moved = update(self.table).where(*conditions, self.table.c.split != split).values(split=split)
        return self._connection.execute(moved).rowcount

    def _conditions(self, filters: dict[str, Any]) -> list[ColumnElement[bool]]:
        conditions: list[ColumnElement[bool]] = []
        for name, value in filters.items():
            if value is None:
                continue
            if name == "has_prompt":
                conditions.append((self.table.c.prompt != "") if value else (self.table.c.prompt == ""))
            elif isinstance(value, str):
                conditions.append(self.table.c[name] == value)
            else:
                conditions.append(self.table.c[name].in_(list(value)))
        return conditions


class Predictions(Rows[Prediction]):
    """Predictions, one per image and detector."""

    table = tables.predictions
    makes = Prediction
    what = "prediction"

    def add_many(self, predictions: Iterable[Prediction]) -> int:
        """Store the predictions with a new pair of image and detector; returns their number."""
        total = 0
        for chunk in chunks(predictions):
            categories = self._categories({prediction.image_id for prediction in chunk})
            rows = [self._row(one) | {"category": categories.get(one.image_id)} for one in chunk]
            total += insert_new(self._connection, self.table, rows)
        return total

    def _categories(self, ids: Iterable[str]) -> dict[str, str]:
        images = tables.images.c
        # The share lock makes a concurrent `set_categories` wait, so that it sees the rows that follow.
        statement = select(images.id, images.category).with_for_update(read=True).order_by(images.id)
        rows = self._connection.execute(statement.where(images.id.in_(sorted(ids))))
        return {row.id: row.category for row in rows}

    def get(self, image_id: str, detector_id: str) -> Prediction | None:
        """The detector's prediction for the image, or None."""
        key = self.table.c.image_id == image_id, self.table.c.detector_id == detector_id
        return next(iter(self._records(self._select().where(*key))), None)

    def of(self, detector_id: str, image_ids: Iterable[str] | None = None) -> list[Prediction]:
        """The detector's predictions for these images (without `image_ids`: all), by image id."""
        of_detector = self.table.c.detector_id == detector_id
        if image_ids is None:
            return self._records(self._select().where(of_detector).order_by(self.table.c.image_id))
        predictions = self._in(self.table.c.image_id, image_ids, of_detector)
        return sorted(predictions, key=lambda prediction: prediction.image_id)

    def detectors_of(self, image_id: str) -> set[str]:
        """The detectors of which a map of the image is stored."""
        table = self.table.c
        mapped = table.image_id == image_id, table.map_ref.is_not(None)
        return set(self._connection.scalars(select(table.detector_id).where(*mapped)))

    def any_of(self, detector_id: str) -> bool:
        """Whether there is any prediction of the detector."""
        statement = select(self.table.c.image_id).where(self.table.c.detector_id == detector_id).limit(1)
        return self._connection.execute(statement).first() is not None

    def missing(self, detector_id: str, image_ids: Iterable[str]) -> list[str]:
        """The images without a prediction of the detector, in the order given."""
        ids = list(image_ids)
        done: set[str] = set()
        for chunk in chunks(ids):
            statement = select(self.table.c.image_id).where(
                self.table.c.detector_id == detector_id, self.table.c.image_id.in_(chunk)
            )
            done.update(self._connection.scalars(statement))
        return [id for id in ids if id not in done]


class PseudoLabels(Rows[PseudoLabel]):
    """Pseudo-labels by round; those made outside rounds have the round ""."""

    table = tables.pseudo_labels
    makes = PseudoLabel
    what = "pseudo-label"

    def add_many(self, labels: Iterable[PseudoLabel]) -> int:
        """Store the new pseudo-labels; returns their number."""
        return self._insert(labels)

    def of_round(self, round_id: str) -> list[PseudoLabel]:
        """A round's pseudo-labels, by image id."""
        table = self.table.c
        return self._records(self._select().where(table.round_id == round_id).order_by(table.image_id))

    def newest(self) -> dict[str, PseudoLabel]:
        """Every image's newest pseudo-label, of a round or of none."""
        labels = self._records(self._select().order_by(self.table.c.created))
        return {label.image_id: label for label in labels}


class HardCategories(Rows[HardCategory]):
    """The verdicts on the categories of a round."""

    table = tables.hard_categories
    makes = HardCategory
    what = "hard category"

    def record(self, round_id: str, verdicts: Iterable[HardCategory]) -> int:
        """Store a round's new verdicts; returns their number."""
        return self._insert(verdicts, round_id=round_id)

    def of_round(self, round_id: str) -> list[HardCategory]:
        """A round's verdicts, highest statistic first."""
        table = self.table.c
        order = table.statistic.desc(), table.category
        return self._records(self._select().where(table.round_id == round_id).order_by(*order))


class Prompts(Rows[Prompt]):
    """The prompts of each round, numbered within their purpose."""

    table = tables.prompts
    makes = Prompt
    what = "prompt"

    def add_many(self, prompts: Iterable[Prompt]) -> int:
        """Store the prompts with a new triple of round, purpose and number; returns their number."""
        return self._insert(prompts)

    def of_round(self, round_id: str, purpose: str | None = None) -> list[Prompt]:
        """A round's prompts of one purpose (default: of all), in order."""
        table = self.table.c
        statement = self._select().where(table.round_id == round_id).order_by(table.purpose, table.index)
        return self._records(statement if purpose is None else statement.where(table.purpose == purpose))


FEATURE_LENGTH = 192
"""Bytes of a stored feature vector; a multiple of three, so that many decode as one text."""
NO_FEATURES = base64.b64encode(bytes(FEATURE_LENGTH)).decode()
"""The vector of an image that cannot be read: zeros. Such images are neither compared nor placed."""


class Features:
    """Feature vectors, one per image and kind of features, for similarity search and the map."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add_many(self, features: str, vectors: Mapping[str, NDArray[np.int8]]) -> int:
        """Store vectors by image id, int8 of length 192; returns the number of new ones."""
        rows = [
            {"image_id": id, "features": features, "vector": base64.b64encode(vector.tobytes()).decode()}
            for id, vector in vectors.items()
        ]
        return insert_new(self._connection, tables.image_features, rows)

    def missing(self, features: str) -> list[str]:
        """Ids of active images without a vector of these features, in order; injected artifacts are no
        images to find."""
        images, vectors = tables.images.c, tables.image_features.c
        has = exists(
            select(vectors.image_id).where(vectors.image_id == images.id, vectors.features == features)
        )
        statement = (
            select(images.id)
            .where(images.status == "active", images.source != INJECTED, ~has)
            .order_by(images.id)
        )
        return list(self._connection.scalars(statement))

    def of(self, features: str, limit: int) -> tuple[list[str], NDArray[np.int8]]:
        """Ids in order and vectors, int8 N×192, of at most `limit` active images that could be read."""
        images, vectors = tables.images, tables.image_features.c
        statement = (
            select(vectors.image_id, vectors.vector)
            .join(images, images.c.id == vectors.image_id)
            .where(vectors.features == features, vectors.vector != NO_FEATURES, images.c.status == "active")
            .order_by(vectors.image_id)
            .limit(limit)
        )
        rows = self._connection.execute(statement).all()
        raw = base64.b64decode("".join(row.vector for row in rows))
        return [row.image_id for row in rows], np.frombuffer(raw, np.int8).reshape(-1, FEATURE_LENGTH)

    def get(self, features: str, image_id: str) -> NDArray[np.int8] | None:
        """One image's vector, or None."""
        vectors = tables.image_features.c
        key = vectors.features == features, vectors.image_id == image_id
        vector = self._connection.scalar(select(vectors.vector).where(*key))
        return None if vector is None else np.frombuffer(base64.b64decode(vector), np.int8)


class MapPlaces:
    """The places of images on the newest map, as whole numbers in [0, 65535]."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def current(self) -> str | None:
        """The id of the newest map, or None."""
        return self._connection.scalar(select(tables.map_places.c.map_id).limit(1))

    def replace(self, map_id: str, ids: Sequence[str], places: NDArray[np.uint16]) -> None:
        """Store a map, N×2 for the images in order, in place of the one before. Images that were erased since
        are left out."""
        images, places_table = tables.images.c, tables.map_places
        self._connection.execute(delete(places_table))
        present = set(self._connection.scalars(select(images.id)))
        rows = [
            {"image_id": id, "map_id": map_id, "x": x, "y": y}
            for id, (x, y) in zip(ids, places.tolist(), strict=True)
            if id in present
        ]
        if rows:
            self._connection.execute(places_table.insert(), rows)

    def missing(self, map_id: str | None, features: str) -> int:
        """Number of active images that have such features and no place on the map."""
        images, places, vectors = tables.images.c, tables.map_places.c, tables.image_features.c
        placed = exists().where(places.image_id == images.id, places.map_id == map_id)
        has = exists().where(
            vectors.image_id == images.id, vectors.features == features, vectors.vector != NO_FEATURES
        )
        statement = select(func.count()).where(images.status == "active", has, ~placed)
        return self._connection.scalar(statement) or 0
