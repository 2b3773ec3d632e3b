"""A catalog as large as a busy team's, generated from a seed: images by category and a champion's
predictions."""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from sqlalchemy import Connection, Engine, text

from dataengine.records import DetectorVersion
from storage import tables
from storage.catalog import Catalog

CATEGORIES = (
    *("animal", "building", "car", "dish", "face", "flower"),
    *("furniture", "hand", "landscape", "mug", "sign", "tree"),
)
DETECTOR = "bench-champion"
CHUNK = 20_000


def fill_catalog(
    engine: Engine,
    images: int = 1_000_000,
    seed: int = 0,
    analyze: bool = True,
    prompts: Callable[[int], str] | None = None,
) -> str:
    """Store `images` images with one prediction each, of a detector that becomes champion; returns its id.

    Uncertainty peaks where the maximum is near 0.5, as it does for a real detector. Indexes are built
    afterwards, and the planner gets its statistics, since these once misled it. The catalog must be empty.
    `prompts` gives the prompt of an image by its number.
    """
    with Catalog(engine) as catalog:
        catalog.detectors.add(DetectorVersion(id=DETECTOR, name="bench", checkpoint=_sha256(0)))
        catalog.detectors.promote(DETECTOR, actor="bench", reason="filled for a measurement")
        filled = tables.images, tables.predictions
        for index in (index for table in filled for index in table.indexes):
            index.drop(catalog.connection)
        _insert(catalog.connection, images, np.random.default_rng(seed), prompts)
        for index in (index for table in filled for index in table.indexes):
            index.create(catalog.connection)
        catalog.commit()
        if analyze:
            catalog.connection.execute(text("ANALYZE"))
            catalog.commit()
    return DETECTOR


def _insert(
    connection: Connection,
    total: int,
    random: np.random.Generator,
    prompts: Callable[[int], str] | None,
) -> None:
    for start in range(0, total, CHUNK):
        count = min(CHUNK, total - start)
        rows = list(_rows(start, count, total, random))
        said = [image | {"prompt": prompts(image["seed"])} if prompts else image for image, _ in rows]
        connection.execute(tables.images.insert(), said)
        connection.execute(tables.predictions.insert(), [prediction for _, prediction in rows])


def _rows(
    start: int, count: int, total: int, random: np.random.Generator
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    highest = random.beta(0.6, 0.9, count)
    uncertainty = np.clip(1 - np.abs(2 * highest - 1) + random.normal(0, 0.1, count), 0, 1)
    category = random.integers(len(CATEGORIES), size=count)
    step = 16**12 // total
    for i in range(count):
        number = start + i
        id = f"{number * step:012x}{number:012x}"  # ascending, so that the tables grow at their end
        sha256 = _sha256(number)
        name = CATEGORIES[category[i]]
        yield (
            {
                "id": id,
                "sha256": sha256,
                "height": 512,
                "width": 512,
                "media_type": "image/jpeg",
                "prompt": f"a photo of a {name}, number {number}",
                "category": name,
                "generator_id": "bench",
                "seed": number,
                "settings": {},
                "source": "generated",
                "origin": "",
                "licence": "",
                "split": "train",
                "group": id,
                "round_id": "bench",
                "purpose": "survey",
                "thumbnail": sha256,
                "status": "active",
                "created": 1.7e9 + number,
            },
            {
                "image_id": id,
                "detector_id": DETECTOR,
                "max": float(highest[i]),
                "mean": float(highest[i]) / 20,
                "uncertainty": float(uncertainty[i]),
                "map_ref": None,
                "created": 1.7e9 + number,
                "category": name,
            },
        )


def _sha256(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()
