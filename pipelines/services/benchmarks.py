"""Draft, settle and freeze benchmarks."""

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field

from dataengine.curation.stratify import BenchmarkCandidate, bands_at, sample_strata
from dataengine.errors import InputRefused
from dataengine.masks import LabelMap, PackedMap
from dataengine.records import COLLECTED, THRESHOLD, Benchmark, BenchmarkItem, Label, QueueItem, threshold_of
from dataengine.records.datasets import label_by
from pipelines.services.agreement import disagreements, merged_map
from pipelines.services.schemas import Name, RequestBody
from storage.catalog import Catalog
from storage.queries.datasets import benchmark_candidates
from storage.queries.images import champion_id
from storage.queries.labels import choices, valid_labels
from storage.repositories.datasets import content_digest
from storage.workspace import Workspace


def freeze_benchmark(workspace: Workspace, benchmark_id: str, actor: str) -> Benchmark:
    """Freeze a draft. Raises `Conflict` while an image is unresolved, and for an empty draft."""
    with workspace.catalog() as catalog:
        frozen = catalog.benchmarks.freeze(benchmark_id, actor)
        catalog.commit()
    return frozen


def freeze_known(workspace: Workspace, actor: str, name: str = "") -> Benchmark:
    """Draft and freeze every image of split "benchmark" with a label that counts, and every real one without.

    The same images again return the existing version. Raises `Conflict` if there is nothing to freeze or
    another draft is open.
    """
    with workspace.catalog() as catalog:
        images = catalog.images.find(split="benchmark", status="active", source=COLLECTED)
        labels = valid_labels(catalog, [image.id for image in images])
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
            real_item(image.id, image.category or "", actor)
            for image in images
            if image.source == "real" and image.id not in labels
        ]
        newest = catalog.benchmarks.newest_frozen()
        if newest is not None and newest.digest == content_digest(items):
            return newest
        draft = catalog.benchmarks.draft(name, items, actor)
        frozen = catalog.benchmarks.freeze(draft.id, actor)  # at once: a crash must not leave the draft open
        catalog.commit()
    return frozen


def real_item(image_id: str, category: str, actor: str) -> BenchmarkItem:
    """A real photo as a settled item, assumed to be free of artifacts."""
    return BenchmarkItem(
        image_id=image_id,
        stratum=f"real {category}".strip(),
        kind="real",
        annotations_per_image=0,
        settled=True,
        settled_by=actor,
        how="a real photo, assumed to be free of artifacts",
    )


class NewBenchmark(RequestBody):
    """How a draft is sampled."""

    name: str = Field(default="", max_length=100)
    per_stratum: int = Field(default=5, ge=1, le=1000)
    annotations_per_image: int = Field(
        default=3,
        ge=1,
        le=9,
        validation_alias=AliasChoices("annotations_per_image", "opinions"),
        serialization_alias="opinions",
    )
    """How many people annotate each image; answered, and still read, as `opinions`."""
    real: int = Field(default=20, ge=0, le=10_000)
    categories: list[Annotated[str, Field(max_length=200)]] = Field(default_factory=list, max_length=500)
    people: list[Name] = Field(default_factory=list, max_length=200)
    seed: int = Field(default=0, ge=0, lt=2**31)


class Settle(RequestBody):
    """An image's ground truth: the merged map, "clean", or one person's map (`author`)."""

    image: Name
    choice: Literal["majority", "clean", "author"]
    author: Name | None = None


class SettleAgreed(RequestBody):
    """Resolve all images with enough labels and at most this disagreement."""

    disagreement: float = Field(default=0.3, ge=0, le=1)


def round_of(benchmark: Benchmark) -> str:
    """The round id of its queue items and labels."""
    return f"benchmark-{benchmark.version}"


def draft_benchmark(workspace: Workspace, body: NewBenchmark, actor: str) -> Benchmark:
    """Sample images by category and confidence, add real photos, and queue the images for annotators.

    Raises `InputRefused` without images to choose from or with too few people, `Conflict` while another draft
    is open.
    """
    with workspace.catalog() as catalog:
        made = _draft(catalog, body, actor)
        catalog.commit()
    return made


def _draft(catalog: Catalog, body: NewBenchmark, actor: str) -> Benchmark:
    if 0 < len(set(body.people)) < body.annotations_per_image:
        raise InputRefused(
            f"{body.annotations_per_image} annotators per image are required, and only "
            f"{len(set(body.people))} assigned"
        )
    catalog.benchmarks.refuse_second_draft()
    detector = champion_id(catalog)
    candidates = [
        BenchmarkCandidate(image_id=id, category=category, confidence=highest, reserved=reserved)
        for id, category, highest, reserved in benchmark_candidates(catalog, detector, real=False)
        if not body.categories or category in body.categories
    ]
    threshold = threshold_of(catalog.detectors.get(detector)) if detector else THRESHOLD
    chosen = sample_strata(candidates, body.per_stratum, body.seed, bands_at(threshold))
    if not chosen:
        raise InputRefused(
            "no diagnosed image is available for a benchmark (labelled, queued and training images are "
            "excluded); generate or import more images and run `clinic diagnose`"
        )
    photos = benchmark_candidates(catalog, detector, real=True)
    photos = sorted(photos, key=lambda one: (not one[3], one[0]))[: body.real]
    items = [
        BenchmarkItem(image_id=one.image_id, stratum=name, annotations_per_image=body.annotations_per_image)
        for one, name in chosen
    ]
    items += [real_item(id, category, actor) for id, category, *_ in photos]
    made = catalog.benchmarks.draft(body.name, items, actor, body.model_dump(by_alias=True))
    to_draw = [one.image_id for one, _ in chosen]
    catalog.queue.add_many(
        QueueItem(
            image_id=id,
            round_id=round_of(made),
            priority=2.0,
            annotations_per_image=body.annotations_per_image,
            reason=f"benchmark {made.version}",
            detector_id=detector,
        )
        for id in to_draw
    )
    catalog.assignees.add_many(to_draw, round_of(made), sorted(set(body.people)))
    return made


def discard_benchmark(workspace: Workspace, benchmark_id: str, actor: str) -> None:
    """Discard a draft and withdraw its images from the queue. Raises `Conflict` for a frozen one."""
    with workspace.catalog() as catalog:
        round_id = round_of(catalog.benchmarks.get(benchmark_id))
        for item in catalog.benchmarks.items(benchmark_id):
            catalog.queue.withdraw(item.image_id, round_id)
        catalog.benchmarks.discard(benchmark_id, actor)
        catalog.commit()


def describe_benchmark(catalog: Catalog, benchmark: Benchmark) -> dict[str, Any]:
    """A benchmark as the list shows it."""
    items = catalog.benchmarks.items(benchmark.id)
    sampled = {image.category for image in catalog.images.get_many([item.image_id for item in items])}
    return {
        "id": benchmark.id,
        "version": benchmark.version,
        "name": benchmark.name,
        "state": benchmark.state,
        "digest": benchmark.digest,
        "created": benchmark.created,
        "created_by": benchmark.created_by,
        "frozen": benchmark.frozen,
        "frozen_by": benchmark.frozen_by,
        "images": len(items),
        "real": sum(item.kind == "real" for item in items),
        "settled": sum(item.settled for item in items),
        "strata": len({item.stratum for item in items}),
        "missing": [name for name in choices(catalog).categories if name not in sampled],
    }


def items_of(workspace: Workspace, benchmark_id: str) -> dict[str, Any]:
    """A benchmark's images with their labels, those that need a decision first."""
    with workspace.catalog(read_only=True) as catalog:
        about = describe_benchmark(catalog, catalog.benchmarks.get(benchmark_id))
        items = catalog.benchmarks.items(benchmark_id)
        labels = valid_labels(catalog, [item.image_id for item in items])
    apart = disagreements(workspace, labels)
    rows = [
        {
            "image": item.image_id,
            "stratum": item.stratum,
            "kind": item.kind,
            "opinions": item.annotations_per_image,
            "given": len(labels.get(item.image_id, [])),
            "authors": [label.author for label in labels.get(item.image_id, [])],
            "disagreement": apart.get(item.image_id),
            "settled": item.settled,
            "clean": item.settled and item.target is None,
            "settled_by": item.settled_by,
            "how": item.how,
        }
        for item in items
    ]
    return {**about, "items": sorted(rows, key=urgency)}


def urgency(row: dict[str, Any]) -> tuple[Any, ...]:
    """Sort key: complete and unresolved first, by disagreement; resolved ones last."""
    complete = row["given"] >= row["opinions"]
    return row["settled"], not complete, -(row["disagreement"] or 0.0), row["stratum"], row["image"]


def settle_image(workspace: Workspace, benchmark_id: str, body: Settle, actor: str) -> None:
    """Record the chosen map as an image's ground truth.

    Raises `InputRefused` without such a label, `Conflict` for a frozen benchmark or an image outside of it.
    """
    target, how = truth(workspace, body)
    with workspace.catalog() as catalog:
        catalog.benchmarks.settle(benchmark_id, body.image, target, actor, how)
        catalog.commit()


def truth(workspace: Workspace, body: Settle) -> tuple[str | None, str]:
    """The blob of the chosen map (None: clean) and how it was chosen. Raises `InputRefused`."""
    if body.choice == "clean":
        return None, "marked clean by a curator"
    with workspace.catalog(read_only=True) as catalog:
        counting = valid_labels(catalog, [body.image]).get(body.image, [])
    if body.choice == "author":
        counting = [label for label in counting if label.author == body.author]
    if not counting:
        raise InputRefused(f"image {body.image!r} has no such label that counts; it may have been returned")
    how = label_by(body.author or "") if body.choice == "author" else merged_words(counting)
    return stored(workspace, merged_map(workspace, counting)), how


def settle_where_agreed(workspace: Workspace, benchmark_id: str, limit: float, actor: str) -> int:
    """Use the merged map of every image with enough agreeing labels; returns how many were resolved."""
    with workspace.catalog(read_only=True) as catalog:
        items = {item.image_id: item for item in catalog.benchmarks.items(benchmark_id) if not item.settled}
        labels = valid_labels(catalog, items)
    apart = disagreements(workspace, labels)
    ready = [
        id
        for id, item in items.items()
        if len(labels.get(id, [])) >= item.annotations_per_image and apart.get(id, 0.0) <= limit
    ]
    truths = {id: stored(workspace, merged_map(workspace, labels[id])) for id in ready}
    with workspace.catalog() as catalog:
        for id, target in truths.items():
            catalog.benchmarks.settle(benchmark_id, id, target, actor, merged_words(labels[id]))
        catalog.commit()
    return len(ready)


def merged_words(labels: list[Label]) -> str:
    """The source of a merged map, in words."""
    return f"majority of {len(labels)} labels" if len(labels) > 1 else label_by(labels[0].author)


def stored(workspace: Workspace, label_map: LabelMap) -> str | None:
    """The blob of a label map; None for a clean one."""
    packed = PackedMap.of(label_map)
    return workspace.blobs.put(packed.data) if packed.areas else None
