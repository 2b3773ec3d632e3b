"""Training and evaluation sets: which images they contain, and with which targets.

Every set is a list of snapshot rows, built from one read of the catalog: labels of this round ("true"), older
labels ("previous"), artifact-free real images ("real"), the teacher's maps ("pseudo"), and, if asked for,
images with an injected artifact ("injected"). Outside a round (`round_id` None) every label made in this
workspace is "true", and imported ones are "previous".
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from dataengine.curation.agreement import majority
from dataengine.diagnosis.config import DetectorTrainingConfig
from dataengine.errors import ConfigRefused
from dataengine.masks import PackedMap, unpack_label_map
from dataengine.records import AND, INJECTED, Image, Label, SampleKind, SnapshotItem, Split
from pipelines.config import PublishConfig
from pipelines.detectors.predict import predict
from pipelines.detectors.training_data import TrainingData, categories_of, read_training_data
from pipelines.runtime.context import Context
from storage.stores.blobs import Blobs

NEVER_SHRUNK = 1.0
"""The highest confidence of an image without a prediction: dynamic shrink leaves it as it is."""


def build_training_set(
    context: Context,
    weights: PublishConfig,
    round_id: str | None = None,
    training: DetectorTrainingConfig | None = None,
) -> list[SnapshotItem]:
    """The training set of a joint training: labels, real images, pseudo-labels of the rest, and as many
    injected artifacts as `weights` asks for.

    With the settings of the training, images that it may shrink are measured (see `measure_confidence`).
    Raises `ConfigRefused` when injected artifacts are asked for and have no share in its mixture.
    """
    if training is not None:
        require_share(weights, training)
    data = read_training_data(context.workspace, weights.labels, round_id, injected=weights.injected_limit)
    items = labelled_or_real(context.workspace.blobs, data, "train", weights)
    if training is not None:
        items = measure_confidence(context, data, items, training)
    items += pseudo_labelled_items(data, {item.image_id for item in items}, weights)
    return items + injected_items(data, weights)


def require_share(weights: PublishConfig, training: DetectorTrainingConfig) -> None:
    """Raise `ConfigRefused` when injected artifacts would be in the training set and in no batch."""
    if weights.injected_limit and not training.mixture.get(INJECTED):
        raise ConfigRefused(
            f"up to {weights.injected_limit} images with an injected artifact would be in the training set, "
            "but none in a batch: give “injected” a share in the mixture, or set the injected limit to 0"
        )


def measure_confidence(
    context: Context, data: TrainingData, items: Sequence[SnapshotItem], training: DetectorTrainingConfig
) -> list[SnapshotItem]:
    """The rows with the detector's highest confidence wherever dynamic shrink depends on it.

    Images that the detector has not predicted are predicted now, and the predictions are stored.
    """
    augmentation = training.augmentation
    unseen = {
        item.image_id
        for item in items
        if item.kind in augmentation.shrink_kinds and item.image_id not in data.confidence
    }
    if augmentation.shrink == 0 or data.detector is None or not unseen:
        return list(items)
    with context.workspace.catalog(read_only=True) as catalog:
        images = catalog.images.get_many(sorted(unseen))
    found = {one.image_id: one.max for one in predict(context, data.detector, images, training.batch)}
    return [replace(item, max_confidence=found.get(item.image_id, item.max_confidence)) for item in items]


def labelled_or_real(
    blobs: Blobs, data: TrainingData, split: Split, weights: PublishConfig
) -> list[SnapshotItem]:
    """The split's labelled images and its real ones without a label."""
    return labelled_items(blobs, data, split, weights) + real_items(data, split, weights)


def labelled_items(
    blobs: Blobs, data: TrainingData, split: Split, weights: PublishConfig
) -> list[SnapshotItem]:
    """Rows of the split's labelled images.

    Several labels of one image are merged by majority. Split "benchmark" is the newest frozen benchmark, with
    its settled labels, once there is one.
    """
    if split == "benchmark" and data.benchmark is not None:
        return _benchmark_items(data, "drawn")
    images = data.images[split]
    categories = categories_of(data.prompts, data.round_id, images)
    return [
        _from_label(image, merge_labels(blobs, data.labels[image.id]), data, weights, categories)
        for image in images
        if image.id in data.labels
    ]


def merge_labels(blobs: Blobs, labels: Sequence[Label]) -> Label:
    """Merge the labels of one image into one: the majority per pixel as its map, all authors joined."""
    newest = labels[-1]
    if len(labels) == 1:
        return newest
    label_maps = [
        np.zeros((label.height, label.width), np.uint8)
        if label.label_map is None
        else unpack_label_map(blobs.get(label.label_map), label.height, label.width)
        for label in labels
    ]
    packed = PackedMap.of(majority(label_maps))
    blob = blobs.put(packed.data) if packed.areas else None
    authors = AND.join(sorted(label.author for label in labels))
    return replace(newest, label_map=blob, clean=blob is None, author=authors)


def real_items(data: TrainingData, split: Split, weights: PublishConfig) -> list[SnapshotItem]:
    """Rows of real images without a label, assumed free of artifacts; for the benchmark, those it
    contains."""
    if split == "benchmark" and data.benchmark is not None:
        return _benchmark_items(data, "real")
    free = [image for image in data.images[split] if image.source == "real" and image.id not in data.answered]
    return [
        _item(image, "real", None, weights.real_weight, data.confidence.get(image.id, NEVER_SHRUNK))
        for image in free[: weights.real_limit]
    ]


def pseudo_labelled_items(
    data: TrainingData, taken: Collection[str], weights: PublishConfig
) -> list[SnapshotItem]:
    """Rows of training images with a pseudo-label that are not in `taken` and that no person labelled.

    A label that does not count, such as a returned one, is no reason to believe the detector instead.
    """
    left_out = data.answered | set(taken)
    images = [
        image for image in data.images["train"] if image.id in data.pseudo_labels and image.id not in left_out
    ]
    categories = categories_of(data.prompts, data.round_id, images)
    return [
        _item(
            image,
            "pseudo",
            data.pseudo_labels[image.id].map_ref,
            weights.pseudo_weight,
            max_confidence=data.pseudo_labels[image.id].max,
            category=categories.get(image.id),
        )
        for image in images
    ]


def injected_items(data: TrainingData, weights: PublishConfig) -> list[SnapshotItem]:
    """Rows of training images with an injected artifact; their category is that of the clean image."""
    return [
        _item(image, INJECTED, label.label_map, weights.injected_weight, author=label.author)
        for image, label in data.injected
    ]


def count_by_kind(items: Sequence[SnapshotItem]) -> dict[str, int]:
    """Number of rows of each kind."""
    counts: dict[str, int] = {}
    for item in items:
        counts[item.kind] = counts.get(item.kind, 0) + 1
    return dict(sorted(counts.items()))


def _benchmark_items(data: TrainingData, kind: str) -> list[SnapshotItem]:
    """The frozen benchmark's rows of one kind."""
    sample: SampleKind = "real" if kind == "real" else "true"
    return [
        _item(image, sample, item.target, 1.0) for item, image in data.benchmark or () if item.kind == kind
    ]


def _from_label(
    image: Image, label: Label, data: TrainingData, weights: PublishConfig, categories: Mapping[str, str]
) -> SnapshotItem:
    ours = label.round_id == data.round_id if data.round_id else label.source != "import"
    return _item(
        image,
        "true" if ours else "previous",
        None if label.clean else label.label_map,
        weights.true_weight if ours else weights.previous_weight,
        data.confidence.get(image.id, NEVER_SHRUNK),
        category=categories.get(image.id),
        author=label.author,
    )


def _item(
    image: Image,
    kind: SampleKind,
    target: str | None,
    weight: float,
    max_confidence: float = NEVER_SHRUNK,
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
