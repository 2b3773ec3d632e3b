"""What still uses a generator or a detector: read before one is taken off the lists."""

from sqlalchemy import ColumnElement, String, Text, cast, func, or_, select

from storage import tables
from storage.catalog import Catalog

Use = tuple[str, str, ColumnElement[bool]]
"""What it is called once and several times, and the rows that are meant."""


def uses_of_generator(catalog: Catalog, id: str) -> list[str]:
    """Each use in a few words, such as "3 images"; empty for an unused generator."""
    images, generators = tables.images.c, tables.generators.c
    treatments, studies = tables.treatments.c, tables.studies.c
    return _counted(
        catalog,
        ("image", "images", images.generator_id == id),
        ("treated copy of it", "treated copies of it", generators.parent == id),
        ("treatment", "treatments", or_(treatments.generator_id == id, treatments.treated_id == id)),
        ("study", "studies", or_(studies.before_id == id, studies.after_id == id)),
        open_rounds(id),
    )


def uses_of_detector(catalog: Catalog, id: str) -> list[str]:
    """As `uses_of_generator`, of a detector."""
    champion, suggested = catalog.detectors.champion(), tables.queue_items.c.detector_id
    return (["the champion’s place"] if champion and champion.id == id else []) + _counted(
        catalog,
        ("artifact map", "artifact maps", tables.predictions.c.detector_id == id),
        ("detector trained from it", "detectors trained from it", tables.detectors.c.parent == id),
        ("treatment guided by it", "treatments guided by it", tables.treatments.c.detector_id == id),
        ("queued image with its suggestions", "queued images with its suggestions", suggested == id),
        open_rounds(id),
    )


def open_rounds(id: str) -> Use:
    """Rounds that have not ended and name it in their recipe."""
    rounds = tables.rounds.c
    named = cast(cast(rounds.recipe, String), Text).contains(f'"{id}"', autoescape=True)
    return (
        "open round that names it",
        "open rounds that name it",
        rounds.state.in_(("running", "waiting")) & named,
    )


def _counted(catalog: Catalog, *uses: Use) -> list[str]:
    counts = [
        (catalog.connection.scalar(select(func.count()).where(condition)) or 0, one, several)
        for one, several, condition in uses
    ]
    return [f"{count:,} {one if count == 1 else several}" for count, one, several in counts if count]
