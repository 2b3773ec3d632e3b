"""The licences of images that detectors are trained on."""

from collections import Counter
from collections.abc import Iterable

from sqlalchemy import func, or_, select

from storage import tables
from storage.catalog import Catalog
from storage.repositories.rows import chunks


def licences_of(catalog: Catalog, image_ids: Iterable[str]) -> dict[str, int]:
    """How many of these images are under each licence, the most frequent first; "" where none is stated."""
    licence = tables.images.c.licence
    counts: Counter[str] = Counter()
    for chunk in chunks(image_ids):
        statement = select(licence, func.count()).where(tables.images.c.id.in_(chunk)).group_by(licence)
        counts.update({name: count for name, count in catalog.connection.execute(statement)})
    return dict(counts.most_common())


def training_licences(catalog: Catalog) -> dict[str, int]:
    """As `licences_of`, of all images of split "train" that are labelled or real."""
    images = tables.images.c
    labelled = images.id.in_(select(tables.labels.c.image_id))
    statement = (
        select(images.licence, func.count())
        .where(images.split == "train", images.status == "active", or_(labelled, images.source == "real"))
        .group_by(images.licence)
        .order_by(func.count().desc())
    )
    return {name: count for name, count in catalog.connection.execute(statement)}
