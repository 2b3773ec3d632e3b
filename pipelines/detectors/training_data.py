"""Rows of the catalog that training and evaluation sets are built from, read in one transaction."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from dataengine.records import COLLECTED, INJECTED, BenchmarkItem, Image, Label, Prompt, PseudoLabel, Split
from dataengine.records.images import HARD, JUDGE, SURVEY
from storage.catalog import Catalog
from storage.queries.labels import Policy, valid_labels
from storage.workspace import Workspace

PURPOSES = (SURVEY, HARD, JUDGE)
"""Purposes of the prompts whose images are used for training or evaluation."""

PromptsOf = Mapping[tuple[str, str], Sequence[Prompt]]
"""Prompts in order, by purpose and round."""


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """A consistent read of everything that the sets of some splits need."""

    round_id: str | None
    """None outside a round."""
    images: Mapping[Split, Sequence[Image]]
    """Active images of each split, without injected artifacts."""
    labels: Mapping[str, Sequence[Label]]
    """The labels of each image that count, oldest first (see `storage.queries.labels.valid_labels`)."""
    answered: frozenset[str]
    """Images with any label."""
    detector: str | None
    """The detector of the round's stage `diagnose`, or the champion outside a round."""
    confidence: Mapping[str, float]
    """By image id: that detector's highest confidence, for labelled and real images that it has predicted."""
    prompts: PromptsOf
    pseudo_labels: Mapping[str, PseudoLabel] = field(default_factory=dict)
    """By image id: the round's pseudo-label, or the newest of any outside a round; of split "train" only."""
    injected: Sequence[tuple[Image, Label]] = ()
    """Images of split "train" with an injected artifact, each with its label map; in no other field."""
    benchmark: Sequence[tuple[BenchmarkItem, Image]] | None = None
    """The newest frozen benchmark; None while there is none."""


def read_training_data(
    workspace: Workspace,
    policy: Policy = "unreturned",
    round_id: str | None = None,
    splits: Sequence[Split] = ("train",),
    injected: int = 0,
) -> TrainingData:
    """Read everything that the sets of these splits are built from, in one transaction; with at most
    `injected` images with an injected artifact."""
    with workspace.catalog(read_only=True) as catalog:
        images = {
            split: catalog.images.find(split=split, status="active", source=COLLECTED) for split in splits
        }
        ids = [image.id for each in images.values() for image in each]
        labels = valid_labels(catalog, ids, policy)
        detector = _detector(catalog, round_id)
        real = [image.id for each in images.values() for image in each if image.source == "real"]
        return TrainingData(
            round_id=round_id,
            images=images,
            labels=labels,
            answered=frozenset(label.image_id for label in catalog.labels.of_images(ids)),
            detector=detector,
            confidence=_confidence(catalog, detector, {*labels, *real}),
            prompts=_prompts(catalog, round_id, (image for each in images.values() for image in each)),
            pseudo_labels=_pseudo_labels(catalog, round_id) if "train" in splits else {},
            injected=injected_artifacts(catalog, injected),
            benchmark=_benchmark(catalog) if "benchmark" in splits else None,
        )


def read_categories(workspace: Workspace, round_id: str | None, images: Iterable[Image]) -> dict[str, str]:
    """As `categories_of`, with the prompts read from the catalog."""
    images = list(images)
    with workspace.catalog(read_only=True) as catalog:
        prompts = _prompts(catalog, round_id, images)
    return categories_of(prompts, round_id, images)


def categories_of(prompts: PromptsOf, round_id: str | None, images: Iterable[Image]) -> dict[str, str]:
    """Category by image id: the one assigned by the VQA model, else the one that the prompt was written for,
    in this round or, outside a round, in any. Images without either are omitted."""
    images = list(images)
    written = {
        prompt.text: prompt.category
        for purpose in PURPOSES
        for each in _rounds(round_id, images)
        for prompt in prompts.get((purpose, each), ())
    }
    known = {image.id: image.category or written.get(image.prompt) for image in images}
    return {image_id: category for image_id, category in known.items() if category}


def _rounds(round_id: str | None, images: Iterable[Image]) -> list[str]:
    """Rounds whose prompts may determine the images' categories."""
    if round_id:
        return [round_id]
    return sorted({image.round_id for image in images if image.round_id and not image.category})


def _prompts(catalog: Catalog, round_id: str | None, images: Iterable[Image]) -> PromptsOf:
    return {
        (purpose, each): sorted(catalog.prompts.of_round(each, purpose), key=lambda prompt: prompt.index)
        for each in _rounds(round_id, images)
        for purpose in PURPOSES
    }


def _detector(catalog: Catalog, round_id: str | None) -> str | None:
    if round_id:
        return catalog.rounds.get(round_id).results.get("diagnose", {}).get("detector")
    return catalog.detectors.champion_id()


def _confidence(catalog: Catalog, detector: str | None, image_ids: Iterable[str]) -> dict[str, float]:
    if detector is None:
        return {}
    predictions = catalog.predictions.of(detector, list(image_ids))
    return {prediction.image_id: prediction.max for prediction in predictions}


def _pseudo_labels(catalog: Catalog, round_id: str | None) -> dict[str, PseudoLabel]:
    if round_id is None:
        return catalog.pseudo_labels.newest()
    return {label.image_id: label for label in catalog.pseudo_labels.of_round(round_id)}


def injected_artifacts(catalog: Catalog, limit: int) -> list[tuple[Image, Label]]:
    """At most `limit` training images with an injected artifact, by id, which is random, and their label
    maps."""
    images = catalog.images.find(source=INJECTED, split="train", status="active", limit=limit)
    labels = catalog.labels.of_images([image.id for image in images])
    made = {label.image_id: label for label in labels if label.source == INJECTED}
    return [(image, made[image.id]) for image in images if image.id in made]


def _benchmark(catalog: Catalog) -> list[tuple[BenchmarkItem, Image]] | None:
    frozen = catalog.benchmarks.newest_frozen()
    if frozen is None:
        return None
    items = {item.image_id: item for item in catalog.benchmarks.items(frozen.id)}
    return [(items[image.id], image) for image in catalog.images.get_many(items)]
