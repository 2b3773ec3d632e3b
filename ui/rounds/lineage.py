"""From a treated generator back to every label behind it, for the rounds desk."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from dataengine.csv_files import as_csv
from dataengine.records import round_name
from storage.catalog import Catalog
from storage.queries.lineage import DetectorLineage, TreatmentLineage, labels_under, lineage, snapshots_under

COLUMNS = ("snapshot", "image", "kind", "author", "revision", "at", "clean", "prompt", "category")


def lineage_of(catalog: Catalog, generator_id: str) -> dict[str, Any]:
    """The chain as a tree of names and ids. Raises `NotFound`."""
    steps, base = lineage(catalog, generator_id)
    numbers = catalog.rounds.numbers()
    snapshots = snapshots_under(steps)
    authors: dict[str, set[tuple[str, int | None]]] = {}
    for label in labels_under(catalog, snapshots):
        authors.setdefault(label.author, set()).add((label.image_id, label.revision))
    counts = sorted(((name, len(found)) for name, found in authors.items()), key=lambda one: -one[1])
    return {
        "generator": generator_id,
        "steps": [step_of(step, numbers) for step in steps],
        "base": {"id": base.id, "name": base.name, "location": base.location, "licence": base.licence},
        "snapshots": len(snapshots),
        "labels": sum(map(len, authors.values())),
        "authors": dict(counts),
    }


def step_of(step: TreatmentLineage, numbers: Mapping[str, int]) -> dict[str, Any]:
    """One treatment."""
    result = step.treatment.result
    return {
        "generator": {"id": step.generator.id, "name": step.generator.name, "lora": step.generator.lora},
        "treatment": {
            "id": step.treatment.id,
            "round": step.treatment.round_id,
            "round_name": round_name(numbers, step.treatment.round_id or ""),
            "created": step.treatment.created,
            "kept": result.get("kept"),
            "updates": result.get("updates"),
        },
        "detectors": [detector_of(one, numbers) for one in step.detectors],
    }


def detector_of(one: DetectorLineage, numbers: Mapping[str, int]) -> dict[str, Any]:
    """One detector and its training set."""
    found = one.trained_on
    return {
        "id": one.detector.id,
        "name": one.detector.name,
        "role": one.detector.role,
        "round": one.detector.round_id,
        "round_name": round_name(numbers, one.detector.round_id or ""),
        "snapshot": None
        if found is None
        else {
            "id": found.snapshot.id,
            "rows": found.snapshot.rows,
            "kinds": found.kinds,
            "authors": found.authors,
        },
    }


def labels_csv(catalog: Catalog, generator_id: str) -> str:
    """Every label behind the generator, once for each training set that contains it."""
    found = list(labels_under(catalog, snapshots_under(lineage(catalog, generator_id)[0])))
    images = {image.id: image for image in catalog.images.get_many({one.image_id for one in found})}
    return as_csv(
        COLUMNS,
        (
            (
                one.snapshot_id,
                one.image_id,
                one.kind,
                one.author,
                one.revision if one.revision is not None else "erased",
                moment(one.created),
                int(one.clean),
                images[one.image_id].prompt if one.image_id in images else "",
                (images[one.image_id].category or "") if one.image_id in images else "",
            )
            for one in found
        ),
    )


def moment(at: float | None) -> str:
    """A time in UTC; empty for None."""
    return "" if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
