"""Read models of repairs: proposed, accepted and rejected ones, with the images that they were made of."""

from base64 import b64decode
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import ColumnElement, func, select

from dataengine.masks import Mask, unpack_label_map
from dataengine.records import COLLECTED, REPAIRED, Image
from storage import tables
from storage.catalog import Catalog

RepairState = Literal["proposed", "accepted", "rejected"]
STATUS: dict[RepairState, Literal["proposed", "active", "refused"]] = {
    "proposed": "proposed",
    "accepted": "active",
    "rejected": "refused",
}
"""The status of the image that a repair of that state is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RepairPair:
    """A repair and its original, which may have been erased."""

    original: Image | None
    repaired: Image


def original_id(repaired: Image) -> str:
    """The id of the image that a repair was made of; "" for an imported one."""
    return str(repaired.settings.get(REPAIRED, {}).get("image", ""))


def mask_of_repair(repaired: Image) -> Mask:
    """The pixels that a repair may have changed, bool HW; all others equal the original's.

    Raises `MaskRefused` for an image that is no repair of a catalog image.
    """
    stored = repaired.settings.get(REPAIRED, {}).get("mask", "")
    return unpack_label_map(b64decode(stored), repaired.height, repaired.width) > 0


def repairable(ids: Collection[str] = ()) -> list[ColumnElement[bool]]:
    """Images that may be repaired: active ones, but repairs and those with an injected artifact; only those
    of `ids` if any."""
    images = tables.images.c
    conditions = [images.status == "active", images.source.in_(COLLECTED)]
    return [*conditions, images.id.in_(list(ids))] if ids else conditions


def repair_pairs(
    catalog: Catalog, state: RepairState, image_id: str | None = None, limit: int | None = None
) -> list[RepairPair]:
    """Repairs of a state, the newest first; only those of an image if one is given."""
    images = tables.images.c
    statement = (
        select(images.id)
        .where(images.status == STATUS[state], images.source == REPAIRED)
        .order_by(images.created.desc(), images.id)
        .limit(limit)
    )
    if image_id is not None:
        statement = statement.where(images.group == catalog.images.get(image_id).group)
    found = catalog.images.get_many(list(catalog.connection.scalars(statement)))
    repairs = [each for each in found if image_id in (None, original_id(each))]
    originals = {each.id: each for each in catalog.images.get_many(map(original_id, repairs))}
    return [RepairPair(original=originals.get(original_id(each)), repaired=each) for each in repairs]


def count_of_repairs(catalog: Catalog) -> dict[RepairState, int]:
    """Number of repairs of each state."""
    images = tables.images.c
    statement = select(images.status, func.count()).where(images.source == REPAIRED).group_by(images.status)
    counts = {status: count for status, count in catalog.connection.execute(statement)}
    return {state: counts.get(status, 0) for state, status in STATUS.items()}
