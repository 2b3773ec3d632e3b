"""Which images a detector learns from or is measured on, and with which target.

Every set is a list of snapshot rows, read from the catalog: what people answered in this round ("true"),
what was labelled before it ("previous"), artifact-free real pictures ("real"), the teacher's maps
("pseudo"). Outside a round (`round_id` None) every answer given in this workspace is "true", and what was
imported with its labels is "previous".
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from dataengine.curation.agreement import majority
from dataengine.masks import PackedMap, unpack_label_map
from dataengine.records import AND, Image, Label, SampleKind, SnapshotItem, Split
from pipelines.config import PublishConfig
from pipelines.runtime.context import Context
from pipelines.runtime.round_data import prompts_of, results_of
from storage.queries.labels import counting_labels


def training_set(context: Context, weights: PublishConfig, round_id: str | None = None) -> list[SnapshotItem]:
    """Everything that a joint training learns from: labels, real pictures, and pseudo-labels of the rest."""
    items = labelled(context, round_id, "train", weights) + real(context, "train", weights)
    return items + pseudo(context, round_id, {item.image_id for item in items}, weights)


def labelled(
    context: Context, round_id: str | None, split: Split, weights: PublishConfig
) -> list[SnapshotItem]:
    """Images with a label that counts (see `storage.queries.labels.counting_labels`).

    Where several people's labels count, their majority does. Split "benchmark" is the newest frozen benchmark
    once there is one, with its settled truth.
    """
    if split == "benchmark" and (frozen := _frozen(context, "drawn")) is not None:
        return frozen
    with context.workspace.catalog(read_only=True) as catalog:
        images = catalog.images.find(split=split, status="active")
        counting = counting_labels(catalog, [image.id for image in images], weights.labels)
    seen = _seen_confidence(context, round_id, counting)
    categories = categories_of(context, round_id, images)
    return [
        _from_label(image, merged_labels(context, counting[image.id]), round_id, weights, seen, categories)
        for image in images
        if image.id in counting
    ]


def merged_labels(context: Context, labels: Sequence[Label]) -> Label:
    """The one label itself, or the newest with the majority of all as its map and the names of all."""
    newest = labels[-1]
    if len(labels) == 1:
        return newest
    blobs = context.workspace.blobs
    drawn = [
        np.zeros((label.height, label.width), np.uint8)
        if label.label_map is None
        else unpack_label_map(blobs.get(label.label_map), label.height, label.width)
        for label in labels
    ]
    together = majority(drawn)
    packed = PackedMap.of(together)
    blob = blobs.put(packed.data) if packed.areas else None
    authors = AND.join(sorted(label.author for label in labels))
    return replace(newest, label_map=blob, clean=blob is None, author=authors)


def real(context: Context, split: Split, weights: PublishConfig) -> list[SnapshotItem]:
    """Real pictures that nobody labelled, taken as free of artifacts; of the benchmark, those in it."""
    if split == "benchmark" and (frozen := _frozen(context, "real")) is not None:
        return frozen
    with context.workspace.catalog(read_only=True) as catalog:
        images = catalog.images.find(source="real", split=split, status="active")
        answered = {label.image_id for label in catalog.labels.of_images([image.id for image in images])}
    free = [image for image in images if image.id not in answered]
    return [_item(image, "real", None, weights.real_weight) for image in free[: weights.real_limit]]


def pseudo(
    context: Context, round_id: str | None, taken: Iterable[str], weights: PublishConfig
) -> list[SnapshotItem]:
    """The round's (the newest) pseudo-labels on training images that are not `taken` already."""
    with context.workspace.catalog(read_only=True) as catalog:
        rounds = [round_id] if round_id else [row.id for row in catalog.rounds.list()]
        found = [label for each in rounds for label in catalog.pseudo_labels.of_round(each)]
        labels = {label.image_id: label for label in sorted(found, key=lambda label: label.created)}
        images = catalog.images.get_many(sorted(set(labels) - set(taken)))
    categories = categories_of(context, round_id, images)
    return [
        _item(
            image,
            "pseudo",
            labels[image.id].map_ref,
            weights.pseudo_weight,
            max_confidence=labels[image.id].max,
            category=categories.get(image.id),
        )
        for image in images
        if image.split == "train" and image.status == "active"
    ]


def categories_of(context: Context, round_id: str | None, images: Iterable[Image]) -> dict[str, str]:
    """Category by image id: what the VQA model said, else what the prompt was written for, in this round or,
    outside a round, in any."""
    images = list(images)
    rounds = {round_id} if round_id else {image.round_id for image in images if not image.category}
    written = {
        prompt.text: prompt.category
        for purpose in ("survey", "hard", "judge")
        for each in sorted(filter(None, rounds))
        for prompt in prompts_of(context, each, purpose)
    }
    known = {image.id: image.category or written.get(image.prompt) for image in images}
    return {image_id: category for image_id, category in known.items() if category}


def composition(items: Sequence[SnapshotItem]) -> dict[str, int]:
    """How many rows of each kind."""
    counts: dict[str, int] = {}
    for item in items:
        counts[item.kind] = counts.get(item.kind, 0) + 1
    return dict(sorted(counts.items()))


def _frozen(context: Context, kind: str) -> list[SnapshotItem] | None:
    """The rows of one kind of the newest frozen benchmark; None while there is none."""
    with context.workspace.catalog(read_only=True) as catalog:
        benchmark = catalog.benchmarks.newest_frozen()
        if benchmark is None:
            return None
        items = {item.image_id: item for item in catalog.benchmarks.items(benchmark.id) if item.kind == kind}
        images = catalog.images.get_many(items)
    sample: SampleKind = "real" if kind == "real" else "true"
    return [_item(image, sample, items[image.id].target, 1.0) for image in images]


def _seen_confidence(context: Context, round_id: str | None, image_ids: Iterable[str]) -> dict[str, float]:
    """The highest confidence that the round's first detector (the champion) saw in each image; decides on
    dynamic shrink."""
    with context.workspace.catalog(read_only=True) as catalog:
        champion = catalog.detectors.champion()
    detector = champion.id if champion else None
    if round_id:
        detector = results_of(context, round_id).get("diagnose", {}).get("detector")
    if detector is None:
        return {}
    with context.workspace.catalog(read_only=True) as catalog:
        return {found.image_id: found.max for found in catalog.predictions.of(detector, list(image_ids))}


def _from_label(
    image: Image,
    label: Label,
    round_id: str | None,
    weights: PublishConfig,
    seen: dict[str, float],
    categories: dict[str, str],
) -> SnapshotItem:
    ours = label.round_id == round_id if round_id else label.source != "import"
    return _item(
        image,
        "true" if ours else "previous",
        None if label.clean else label.label_map,
        weights.true_weight if ours else weights.previous_weight,
        # An image that no detector has seen is only shrunk if it is known to be clean.
        max_confidence=seen.get(image.id, 0.0 if label.clean else 1.0),
        category=categories.get(image.id),
        author=label.author,
    )


def _item(
    image: Image,
    kind: SampleKind,
    target: str | None,
    weight: float,
    max_confidence: float = 0.0,
    category: str | None = None,
    author: str | None = None,
) -> SnapshotItem:
    return SnapshotItem(
        image_id=image.id,
        image_sha256=image.sha256,
        kind=kind,
        target=target,
        category=category or image.category,
        max_confidence=max_confidence,
        weight=weight,
        split=image.split,
        author=author,
    )
