"""Read models of preference pairs that are no votes and no repairs."""

from sqlalchemy import Text, cast, select

from dataengine.records import Image
from storage import tables
from storage.catalog import Catalog


def corrected_images(catalog: Catalog) -> list[Image]:
    """The active images of the training split that were drawn with correction, by id."""
    images = tables.images.c
    statement = (
        select(images.id)
        .where(
            images.status == "active",
            images.split == "train",
            images.source == "generated",
            cast(images.settings, Text).like('%"correction"%'),
        )
        .order_by(images.id)
    )
    found = catalog.images.get_many(list(catalog.connection.scalars(statement)))
    return [image for image in found if "correction" in image.settings]
