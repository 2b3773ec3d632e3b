"""Injected artifacts count in no figure: each is computed without any, and again with predicted and labelled
ones in every split. A training set holds them only if asked to."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataengine.curation.config import HardCategoryConfig, MiningConfig
from dataengine.diagnosis.config import DetectorTrainingConfig
from dataengine.errors import ConfigRefused, Conflict
from dataengine.injection.config import InjectionConfig
from dataengine.masks import pack_label_map
from dataengine.records import INJECTED, Image, Label, Review
from pipelines.config import PublishConfig, TrainingRun
from pipelines.detectors.dataset import StoredSamples
from pipelines.detectors.evaluation import evaluation_sets
from pipelines.detectors.operating_point import validation_items
from pipelines.detectors.training_data import read_training_data
from pipelines.detectors.training_set import build_training_set, count_by_kind, labelled_or_real
from pipelines.exchange.formats import import_dataset
from pipelines.exchange.import_options import ImportOptions
from pipelines.exchange.importer import Ingest
from pipelines.exchange.writers.snapshot_folder import export_folder
from pipelines.jobs.inject_images import inject_images
from pipelines.jobs.selections import diagnose_images, mine_images, pseudo_label_images
from pipelines.runtime.context import Context
from pipelines.selections.config import (
    DiagnosisRun,
    ImageQuery,
    InjectionRun,
    MiningRun,
    PseudoLabelRun,
)
from pipelines.services import preflight
from pipelines.services.agreement import agreement_report, merged_labels
from pipelines.services.benchmarks import freeze_known
from pipelines.services.categories import balance_report, category_report
from pipelines.services.gold import choose_gold
from pipelines.services.images.work import hard_categories
from pipelines.services.training_preview import snapshot_preview
from storage.opening import create_workspace
from storage.queries.datasets import benchmark_candidates
from storage.queries.images import ImageFilter, conditions_of, count_of_images, page_of_images
from storage.queries.labels import choices, labelled_by_several, valid_labels
from storage.queries.overview import overview
from storage.queries.reviews import page_of_reviews, review_counts
from storage.queries.selections import count_of_selection, minable, pseudo_labelable
from storage.workspace import Workspace
from tests.fakes import COLOURS, fake_models
from tests.pipelines.jobs.test_selections import add_detector, picture

COPIES = 2
SEEN = InjectionConfig(kinds=("glyphs", "watermark"))
"""Kinds that are seen on plain colours, too."""
ASKED = PublishConfig(injected_limit=100)


def label(image: Image, author: str, workspace: Workspace | None = None) -> Label:
    """A clean label or, with a workspace, one that marks everything."""
    whole = np.ones((image.height, image.width), np.uint8)
    return Label(
        image_id=image.id,
        author=author,
        height=image.height,
        width=image.width,
        clean=workspace is None,
        label_map=None if workspace is None else workspace.blobs.put(pack_label_map(whole)),
    )


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Context]:
    """Images of every split, predicted and partly labelled by one or two people; nothing is injected yet."""
    workspace = create_workspace(tmp_path_factory.mktemp("w") / "w")
    add_detector(workspace, "first")
    splits = ("train", "train", "train", "validation", "benchmark")
    names = list(COLOURS)
    images = [
        picture(workspace, number, split=splits[number % 5], category=names[number % 4], source=source)
        for number, source in ((n, "real" if n % 3 == 0 else "imported") for n in range(40))
    ]
    brought = [image for image in images if image.source == "imported"]
    with workspace.catalog() as catalog:
        catalog.detectors.promote("first", "test", "the first")
        catalog.images.add_many(images)
        for number, image in enumerate(brought[:16]):
            catalog.labels.submit(label(image, "ann", workspace if number % 2 else None))
        for image in brought[:4]:
            catalog.labels.submit(label(image, "bob"))
        catalog.reviews.add(
            Review(image_id=brought[5].id, author="ann", revision=1, reviewer="cora", verdict="accepted")
        )
        catalog.commit()
    context = Context(workspace, fake_models())
    diagnose_images(context, DiagnosisRun())
    yield context
    workspace.close()


def exported(workspace: Workspace, folder: Path, **filters: Any) -> set[str]:
    export_folder(workspace, folder, pictures=False, **filters)
    return {line.split(",")[0] for line in (folder / "images/metadata.csv").read_text().splitlines()[1:]}


def of_catalog(read: Callable[[Any], Any]) -> Callable[[Context, Path], Any]:
    def figure(context: Context, _: Path) -> Any:
        with context.workspace.catalog(read_only=True) as catalog:
            return read(catalog)

    return figure


def mined(context: Context, folder: Path) -> Any:
    """What mining would choose, in a copy of the selection's conditions: nothing is queued."""
    with context.workspace.catalog(read_only=True) as catalog:
        chosen = [*conditions_of(catalog, ImageFilter()), *minable(ImageFilter())]
        return count_of_selection(catalog, chosen)


FIGURES: dict[str, Callable[[Context, Path], Any]] = {
    "frozen benchmark": lambda context, _: freeze_known(context.workspace, "test").digest,
    "evaluation sets": lambda context, _: evaluation_sets(context, ASKED),
    "images of the operating point": lambda context, _: validation_items(evaluation_sets(context, ASKED)),
    "training set by default": lambda context, _: build_training_set(context, PublishConfig()),
    "teacher's training set": lambda context, _: labelled_or_real(
        context.workspace.blobs, read_training_data(context.workspace), "train", ASKED
    ),
    "preview": lambda context, _: snapshot_preview(context.workspace, PublishConfig()),
    "balance": of_catalog(lambda catalog: balance_report(catalog, "unreturned")),
    "benchmark candidates": of_catalog(
        lambda catalog: [benchmark_candidates(catalog, "first", real=real) for real in (False, True)]
    ),
    "agreement": lambda context, _: agreement_report(context.workspace),
    "several labels": of_catalog(labelled_by_several),
    "category statistics": of_catalog(lambda catalog: category_report(catalog, "first")),
    "hard categories": lambda context, _: hard_categories(context.workspace, ImageQuery()),
    "minable images": mined,
    "images for pseudo-labels": of_catalog(
        lambda catalog: count_of_selection(
            catalog, [*conditions_of(catalog, ImageFilter()), *pseudo_labelable("first", "")]
        )
    ),
    "labelled images": of_catalog(lambda catalog: overview(catalog).labelled),
    "people": of_catalog(lambda catalog: choices(catalog).people),
    "reviews": of_catalog(lambda catalog: (review_counts(catalog), page_of_reviews(catalog, "any"))),
    "gallery": of_catalog(
        lambda catalog: (
            count_of_images(catalog),
            {card.id for card in page_of_images(catalog, limit=200).cards},
            count_of_images(catalog, ImageFilter(state="unreviewed")),
            count_of_images(catalog, ImageFilter(order="newest", labelled=True)),
        )
    ),
    "similarity index": of_catalog(lambda catalog: catalog.features.missing("first")),
    "training checks": lambda context, _: [
        check.name for check in preflight.training_checks(context.workspace, TrainingRun())
    ],
    "export": lambda context, folder: exported(context.workspace, folder),
    "export of labelled images": lambda context, folder: exported(
        context.workspace, folder, only_labelled=True
    ),
    "selection of all": lambda context, _: diagnose_images(context, DiagnosisRun())["selected"],
}


@pytest.fixture(scope="module")
def before(context: Context, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every figure, of the workspace without an injected artifact."""
    return {
        name: figure(context, tmp_path_factory.mktemp("before") / "x") for name, figure in FIGURES.items()
    }


@pytest.fixture(scope="module")
def injected(context: Context, before: dict[str, Any]) -> list[Image]:
    """Injected into the clean images of every split, and predicted."""
    for split in ("train", "validation", "benchmark"):
        run = InjectionRun(images=ImageQuery(split=split), copies=COPIES, injection=SEEN)  # type: ignore[arg-type]
        assert inject_images(context, run)["images"]
    diagnose_images(context, DiagnosisRun(images=ImageQuery(source=INJECTED)))
    with context.workspace.catalog(read_only=True) as catalog:
        images = catalog.images.find(source=INJECTED)
    assert {image.split for image in images} == {"train", "validation", "benchmark"}
    assert {image.category for image in images} <= set(COLOURS)
    return images


@pytest.mark.parametrize("name", FIGURES)
def test_injected_artifacts_change_no_figure(
    context: Context, before: dict[str, Any], injected: list[Image], name: str, tmp_path: Path
) -> None:
    assert before[name], "a figure of nothing shows nothing"
    assert FIGURES[name](context, tmp_path / "x") == before[name]


def test_work_on_them_does_nothing(context: Context, injected: list[Image]) -> None:
    query = ImageQuery(source=INJECTED)
    mining = MiningRun(images=query, mine=MiningConfig(budget=5), statistic=HardCategoryConfig(minimum=2))
    assert mine_images(context, mining, "mine-1")["queued"] == 0
    assert pseudo_label_images(context, PseudoLabelRun(images=query))["images"] == 0


def test_a_label_map_of_an_injection_is_nobodys_label(context: Context, injected: list[Image]) -> None:
    image = injected[0]
    with pytest.raises(Conflict, match="that artifact was injected; only a person's or an imported label"):
        choose_gold(context.workspace, image.id, INJECTED, "cora")
    with context.workspace.catalog(read_only=True) as catalog:
        assert catalog.labels.latest(image.id) is not None
        assert valid_labels(catalog, [image.id]) == {}
    with pytest.raises(Exception, match="has no label that counts"):
        merged_labels(context.workspace, image.id)


def test_they_are_exported_when_named_with_their_source(
    context: Context, injected: list[Image], tmp_path: Path
) -> None:
    export_folder(context.workspace, tmp_path / "x", format="folder", pictures=False, source=INJECTED)
    rows = (tmp_path / "x/images/metadata.csv").read_text().splitlines()
    labels = (tmp_path / "x/labels.csv").read_text().splitlines()
    assert len(rows) == len(labels) == len(injected) + 1
    assert all(f",{INJECTED}," in row for row in rows[1:] + labels[1:])


def test_they_come_back_from_an_export_as_what_they_are(
    context: Context, injected: list[Image], tmp_path: Path
) -> None:
    export_folder(context.workspace, tmp_path / "x", format="masks", source=INJECTED)
    other = create_workspace(tmp_path / "w")
    done = import_dataset(other, "masks", ImportOptions(path=tmp_path / "x"), Ingest())
    with other.catalog(read_only=True) as catalog:
        images = catalog.images.find()
        labels = catalog.labels.of_images([image.id for image in images])
    other.close()
    assert done.added == done.labels == len(images) == len({image.sha256 for image in injected})
    assert {image.source for image in images} == {label.source for label in labels} == {INJECTED}
    assert {(one.sha256, one.split, one.group) for one in images} == {
        (one.sha256, one.split, one.group) for one in injected
    }


# ---- when a training asks for them ---------------------------------------------------------------------


def test_a_training_set_holds_as_many_as_it_asks_for(context: Context, injected: list[Image]) -> None:
    mine = {image.id: image for image in injected if image.split == "train"}
    plain = build_training_set(context, PublishConfig())
    asked = PublishConfig(injected_limit=100, injected_weight=0.5)
    items = build_training_set(context, asked, training=DetectorTrainingConfig())
    assert [item for item in items if item.kind != INJECTED] == plain
    added = [item for item in items if item.kind == INJECTED]
    assert {item.image_id for item in added} == set(mine) and count_by_kind(items)[INJECTED] == len(mine)
    for item in added:
        image = mine[item.image_id]
        assert (item.author, item.weight, item.category, item.split) == (
            INJECTED,
            0.5,
            image.category,
            "train",
        )
        assert item.positive
    samples = StoredSamples(context.workspace, added)
    assert 0 < samples.sample(0).target.mean() < 1
    few = build_training_set(context, PublishConfig(injected_limit=3))
    assert count_by_kind(few)[INJECTED] == 3


def test_a_set_without_a_share_in_the_mixture_is_refused_before_the_run(context: Context) -> None:
    training = DetectorTrainingConfig(mixture={"true": 0.5, "real": 0.5})
    with pytest.raises(ConfigRefused, match="up to 100 images with an injected artifact would be in the"):
        build_training_set(context, ASKED, training=training)
    plan = TrainingRun(publish=ASKED, training=training)
    assert "injected" in [one.name for one in preflight.training_checks(context.workspace, plan)]
    plan = TrainingRun(publish=ASKED)
    assert "injected" not in [one.name for one in preflight.training_checks(context.workspace, plan)]


def test_the_balance_counts_them_on_demand(context: Context, injected: list[Image]) -> None:
    def positives(limit: int) -> int:
        with context.workspace.catalog(read_only=True) as catalog:
            report = balance_report(catalog, "unreturned", limit)
        return sum(row["next"]["positive"] for row in report["categories"])

    mine = sum(image.split == "train" for image in injected)
    assert positives(1000) == positives(0) + mine and positives(2) == positives(0) + 2


OF_IMAGES = (
    *("frozen benchmark", "evaluation sets", "images of the operating point", "training set by default"),
    *("teacher's training set", "preview", "balance", "benchmark candidates", "category statistics"),
    *("hard categories", "minable images", "images for pseudo-labels", "gallery", "export"),
)
"""The figures in which such an image does not count even if people label it."""


def test_a_persons_label_of_such_an_image_makes_it_no_other_image(
    context: Context, before: dict[str, Any], injected: list[Image], tmp_path: Path
) -> None:
    workspace = context.workspace
    with workspace.catalog() as catalog:
        for image in injected[:12]:
            catalog.labels.submit(label(image, "ann", workspace))
            catalog.labels.submit(label(image, "bob"))
            catalog.reviews.add(
                Review(image_id=image.id, author="ann", revision=1, reviewer="cora", verdict="accepted")
            )
        catalog.commit()
    assert {image.split for image in injected[:12]} == {"train", "validation", "benchmark"}
    for name in OF_IMAGES:
        assert FIGURES[name](context, tmp_path / "x") == before[name], name
    mine = [item for item in build_training_set(context, ASKED) if item.kind == INJECTED]
    assert {item.author for item in mine} == {INJECTED}, "its own map stays the exact one"
