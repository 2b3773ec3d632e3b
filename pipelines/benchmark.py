"""A benchmark of images whose truth is known from the start: drawn worlds, imported masks, clean photos.

Input: images of split "benchmark", with labels or real. Output: a frozen version, the next one only if the
images changed. What people must answer first is built at /curate instead. Cost: one transaction.
"""

from dataengine.records import Benchmark, BenchmarkItem
from storage.queries.curation import counting_labels
from storage.repositories.benchmarks import content_digest
from storage.workspace import Workspace


def freeze_known(workspace: Workspace, actor: str, name: str = "") -> Benchmark:
    """Freeze every image of split "benchmark" with a label that counts, and every real one without.

    Doing it again with the same images returns the version that there is. Raises `Conflict` if there is
    nothing to freeze or somebody has an open draft.
    """
    with workspace.catalog() as catalog:
        images = catalog.images.find(split="benchmark", status="active")
        labels = counting_labels(catalog, [image.id for image in images])
        items = [
            BenchmarkItem(
                image_id=image.id,
                stratum=image.category or "",
                settled=True,
                target=labels[image.id][-1].label_map,
                settled_by=labels[image.id][-1].author,
                how="known beforehand",
            )
            for image in images
            if image.id in labels
        ]
        items += [
            BenchmarkItem(
                image_id=image.id,
                stratum=f"real {image.category or ''}".strip(),
                kind="real",
                opinions=0,
                settled=True,
                settled_by=actor,
                how="a real photo, taken as free of artifacts",
            )
            for image in images
            if image.source == "real" and image.id not in labels
        ]
        newest = catalog.benchmarks.newest_frozen()
        if newest is not None and newest.digest == content_digest(items):
            return newest
        draft = catalog.benchmarks.draft(name, items, actor)
        frozen = catalog.benchmarks.freeze(draft.id, actor)
        catalog.commit()
    return frozen
