"""Which images come from the world that a detector was made for."""

from collections.abc import Iterable

from sqlalchemy import ColumnElement, func, or_, select

from dataengine.records import CLINIC_GENERATOR, CLINIC_ORIGIN
from storage import tables
from storage.catalog import Catalog
from storage.repositories.rows import chunks


def elsewhere(catalog: Catalog) -> ColumnElement[bool]:
    """Images that are neither the embedded clinic's drawings nor made by its generator or a treated one."""
    images = tables.images.c
    made_elsewhere = or_(
        images.generator_id.is_(None), images.generator_id.not_in(_clinic_generators(catalog))
    )
    return ~images.origin.startswith(CLINIC_ORIGIN, autoescape=True) & made_elsewhere


def count_elsewhere(catalog: Catalog, image_ids: Iterable[str]) -> int:
    """How many of the images `elsewhere` selects."""
    condition = elsewhere(catalog)
    statement = select(func.count()).select_from(tables.images)
    return sum(
        catalog.connection.scalar(statement.where(tables.images.c.id.in_(chunk), condition)) or 0
        for chunk in chunks(image_ids)
    )


def _clinic_generators(catalog: Catalog) -> list[str]:
    parents = {one.id: one.parent for one in catalog.generators.list()}
    known = {CLINIC_GENERATOR}
    while more := {id for id, parent in parents.items() if parent in known} - known:
        known |= more
    return sorted(known)
