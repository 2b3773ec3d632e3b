"""Images that people brought: predicted, categorised, mined, pseudo-labelled, trained on, without a round."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataengine.curation.config import HardCategoryConfig, MiningConfig
from dataengine.errors import ConfigRefused, NotFound, Paused, ServiceAbsent
from dataengine.images import encode_png
from dataengine.records import (
    CLINIC,
    CLINIC_GENERATOR,
    DetectorVersion,
    GeneratorVersion,
    Image,
    Label,
    QueueItem,
    image_id,
)
from pipelines.config import CategorizeConfig, PseudoLabelConfig, PublishConfig
from pipelines.detectors.training_set import build_training_set, count_by_kind
from pipelines.jobs import selections
from pipelines.jobs.selections import (
    categorize_images,
    diagnose_images,
    mine_images,
    pseudo_label_images,
)
from pipelines.runtime.context import Context
from pipelines.selections.config import (
    CategorizationRun,
    DiagnosisRun,
    ImageQuery,
    MiningRun,
    PseudoLabelRun,
)
from pipelines.worker.handlers import JOBS
from storage.opening import create_workspace
from storage.queries.images import ImageFilter, page_of_images
from storage.workspace import Workspace
from tests.fakes import COLOURS, FIRST, Readers, TinyDetector, category_of, fake_models, paint, with_methods

IMPORTED = ImageQuery(source="imported")
ALL = 26
"""Images of the workspace: 22 that may be worked on, two of a benchmark, two real photos."""


def picture(workspace: Workspace, number: int, **values: Any) -> Image:
    """An imported picture whose colour says its category, of one of two sizes."""
    prompt = f"a photo of a {list(COLOURS)[number % 4]}"
    pixels = paint(prompt, number)[: 32 - 8 * (number % 2)]
    sha256 = workspace.blobs.put(encode_png(pixels))
    named = {"source": "imported", "origin": f"photos/{number}.png", "group": str(number), **values}
    return Image(id=image_id(sha256, None, "", number), sha256=sha256, height=len(pixels), width=32, **named)


def add_detector(workspace: Workspace, name: str, threshold: float = FIRST, **values: Any) -> DetectorVersion:
    folder = TinyDetector(threshold, name).save(workspace.path / "models" / name)
    version = DetectorVersion(id=name, name=name, checkpoint=workspace.checkpoints.publish(folder), **values)
    with workspace.catalog() as catalog:
        catalog.detectors.add(version)
        catalog.commit()
    return version


def images_in(workspace: Workspace, **filters: Any) -> list[Image]:
    with workspace.catalog(read_only=True) as catalog:
        return catalog.images.find(**filters)


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    """A workspace of imported images and one detector; no round, no generator."""
    workspace = create_workspace(tmp_path / "w")
    add_detector(workspace, "first")
    images = [
        *(picture(workspace, n, split="validation" if n % 5 == 0 else "train") for n in range(22)),
        *(picture(workspace, n, split="benchmark") for n in (100, 101)),
        *(picture(workspace, n, source="real") for n in (200, 201)),
    ]
    with workspace.catalog() as catalog:
        catalog.detectors.promote("first", "test", "the first")
        catalog.images.add_many(images)
        catalog.commit()
    yield Context(workspace, fake_models())
    workspace.close()


def damage(workspace: Workspace, image: Image) -> None:
    """The stored file of an image is cut off."""
    with workspace.catalog() as catalog:
        cut = workspace.blobs.put(workspace.blobs.get(image.sha256)[:40])
        catalog.connection.exec_driver_sql(f"UPDATE images SET sha256 = '{cut}' WHERE id = '{image.id}'")
        catalog.commit()


# ---- diagnose ------------------------------------------------------------------------------------------


def test_every_image_that_the_champion_has_not_seen_is_predicted(context: Context) -> None:
    result = diagnose_images(context, DiagnosisRun(batch=4))
    assert (result["selected"], result["images"], result["known"]) == (ALL, ALL, 0)
    with context.workspace.catalog(read_only=True) as catalog:
        found = {one.image_id: one for one in catalog.predictions.of("first")}
    assert result["suspected"] == sum(one.max >= 0.5 for one in found.values()) > 0
    for image in images_in(context.workspace):
        stored = context.workspace.maps.get(found[image.id].map_ref or "")
        assert stored.shape == (image.height, image.width)
    again = diagnose_images(context, DiagnosisRun())
    assert (again["images"], again["known"], again["suspected"]) == (0, ALL, 0)


def test_a_filter_selects_what_is_predicted_and_a_second_detector_predicts_too(context: Context) -> None:
    add_detector(context.workspace, "second", 0.5)
    assert diagnose_images(context, DiagnosisRun(images=ImageQuery(source="real")))["images"] == 2
    run = DiagnosisRun(images=ImageQuery(split="benchmark"), detector="second")
    assert diagnose_images(context, run)["images"] == 2
    with context.workspace.catalog(read_only=True) as catalog:
        first, second = (catalog.predictions.of(name) for name in ("first", "second"))
    assert {one.image_id for one in first}.isdisjoint(one.image_id for one in second)
    flagged = ImageQuery(low=0.5)
    assert diagnose_images(context, DiagnosisRun(images=flagged, detector="second"))["selected"] == sum(
        one.max >= 0.5 for one in first
    )


def test_nothing_to_work_on_and_nothing_to_work_with_are_said(context: Context, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no image matches category=zebra&split=train"):
        diagnose_images(context, DiagnosisRun(images=ImageQuery(category="zebra", split="train")))
    with pytest.raises(NotFound, match="no detector 'absent'"):
        diagnose_images(context, DiagnosisRun(detector="absent"))
    empty = create_workspace(tmp_path / "empty")
    with pytest.raises(NotFound, match="has no images yet; import some"):
        diagnose_images(Context(empty, fake_models()), DiagnosisRun())
    with empty.catalog() as catalog:
        catalog.images.add_many([picture(empty, 0)])
        catalog.commit()
    for work in (
        lambda: diagnose_images(Context(empty, fake_models()), DiagnosisRun()),
        lambda: mine_images(Context(empty, fake_models()), MiningRun(), "mine-1"),
        lambda: pseudo_label_images(Context(empty, fake_models()), PseudoLabelRun()),
    ):
        with pytest.raises(ConfigRefused, match=r"no champion detector.*clinic detectors --add"):
            work()
    empty.close()


def test_an_image_that_cannot_be_decoded_is_named_and_the_others_go_on(context: Context) -> None:
    broken, gone = images_in(context.workspace, source="imported")[3:5]
    damage(context.workspace, broken)
    context.workspace.blobs.delete(gone.sha256)
    result = diagnose_images(context, DiagnosisRun(batch=8))
    assert (result["images"], result["unreadable"], result["known"]) == (ALL - 2, 2, 0)
    assert all(one.origin in " ".join(result["unreadable_images"]) for one in (broken, gone))
    categorised = categorize_images(
        context, CategorizationRun(categorize=CategorizeConfig(model="reader", batch=8))
    )
    assert (categorised["answered"], categorised["unreadable"]) == (ALL - 2, 2)
    labelled = pseudo_label_images(context, PseudoLabelRun())
    assert labelled["images"] > 0
    with context.workspace.catalog(read_only=True) as catalog:
        assert {broken.id, gone.id}.isdisjoint(catalog.pseudo_labels.newest())


def test_work_that_was_killed_does_the_rest(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selections, "PAGE", 5)
    looked: list[int] = []

    def faulty(detector: TinyDetector, pixels: list[np.ndarray], batch: int) -> list[np.ndarray]:
        if len(looked) == 3:
            raise KeyboardInterrupt
        looked.append(len(pixels))
        return context.models.artifact_maps(detector, pixels, batch)

    killed = Context(context.workspace, with_methods(context.models, artifact_maps=faulty))
    with pytest.raises(KeyboardInterrupt):
        diagnose_images(killed, DiagnosisRun(batch=4))
    with context.workspace.catalog(read_only=True) as catalog:
        done = len(catalog.predictions.of("first"))
    assert 0 < done < ALL
    result = diagnose_images(context, DiagnosisRun())
    assert (result["images"], result["known"]) == (ALL - done, done)


def test_it_reports_progress_of_the_whole_and_pauses_between_pages(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selections, "PAGE", 5)
    told: list[tuple[int, int]] = []

    def report(done: float, total: int, message: str = "", **figures: float) -> None:
        told.append((done, total))

    with pytest.raises(Paused):
        diagnose_images(
            replace(context, report=report, pausing=lambda: bool(told and told[-1][0] >= 5)), DiagnosisRun()
        )
    assert {total for _, total in told} == {ALL}
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    with context.workspace.catalog(read_only=True) as catalog:
        assert len(catalog.predictions.of("first")) == 5
    told.clear()
    diagnose_images(replace(context, report=report), DiagnosisRun())
    assert told[-1] == (ALL - 5, ALL - 5)


def test_memory_holds_one_page(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selections, "PAGE", 4)
    sizes: list[int] = []
    whole = selections.diagnose

    def watched(context: Context, detector: str, images: Sequence[Image], batch: int) -> dict[str, Any]:
        sizes.append(len(images))
        return whole(context, detector, images, batch)

    monkeypatch.setattr(selections, "diagnose", watched)
    diagnose_images(context, DiagnosisRun())
    assert max(sizes) == 4 and sum(sizes) == ALL


def test_a_detector_of_the_clinic_says_so_on_other_images(context: Context) -> None:
    add_detector(context.workspace, "doctor", domain=CLINIC)
    with context.workspace.catalog() as catalog:
        catalog.generators.add(GeneratorVersion(id=CLINIC_GENERATOR, name="tiny", location="tiny"))
        catalog.generators.add(
            GeneratorVersion(id="treated", name="treated", location="tiny", parent=CLINIC_GENERATOR)
        )
        catalog.images.add_many(
            [
                picture(context.workspace, 300, source="generated", generator_id="treated", category="own"),
                picture(context.workspace, 301, source="drawn", origin="clinic world, x", category="own"),
            ]
        )
        catalog.commit()
    result = diagnose_images(context, DiagnosisRun(detector="doctor"))
    assert f"embedded clinic's small drawings, and {ALL} of {ALL + 2} images" in result["note"]
    again = diagnose_images(context, DiagnosisRun(detector="doctor"))
    assert again["images"] == 0 and again["note"] == result["note"], "it stays true of known predictions"
    own = DiagnosisRun(detector="doctor", images=ImageQuery(category="own"))
    assert "note" not in diagnose_images(context, own)
    assert "note" not in diagnose_images(context, DiagnosisRun()), "nothing is known of the other detector"


# ---- categories ----------------------------------------------------------------------------------------


def test_the_model_answers_for_images_without_a_category_and_the_column_stays(context: Context) -> None:
    mine, others = images_in(context.workspace)[0], images_in(context.workspace)[1:]
    diagnose_images(context, DiagnosisRun())
    with context.workspace.catalog() as catalog:
        catalog.images.describe(mine.id, category="zebra")
        catalog.commit()
    result = categorize_images(
        context, CategorizationRun(categorize=CategorizeConfig(model="reader", shard=5))
    )
    assert (result["asked"], result["answered"], result["uncategorised"]) == (ALL - 1, ALL - 1, 0)
    categories = {image.id: image.category for image in images_in(context.workspace)}
    assert categories[mine.id] == "zebra" and result["categories"]["zebra"] == 1
    assert {categories[image.id] for image in others} <= set(COLOURS)
    with context.workspace.catalog(read_only=True) as catalog:
        page = page_of_images(catalog, ImageFilter(category="zebra"))
        assert [card.id for card in page.cards] == [mine.id], "its prediction has the column's category too"
        assert catalog.images.answers(mine.id) == []


def test_a_column_that_comes_later_overrides_the_model(context: Context) -> None:
    diagnose_images(context, DiagnosisRun())
    categorize_images(context, CategorizationRun(categorize=CategorizeConfig(model="reader")))
    image = images_in(context.workspace)[0]
    with context.workspace.catalog() as catalog:
        catalog.images.describe(image.id, category="zebra")
        catalog.commit()
    categorize_images(context, CategorizationRun(categorize=CategorizeConfig(model="another")))
    with context.workspace.catalog(read_only=True) as catalog:
        assert catalog.images.get(image.id).category == "zebra"
        assert len(page_of_images(catalog, ImageFilter(category="zebra")).cards) == 1


def test_without_a_model_there_must_be_categories(context: Context) -> None:
    with pytest.raises(ConfigRefused, match=f"none of these {ALL} images has a category: name a VQA model"):
        categorize_images(context, CategorizationRun())
    image = images_in(context.workspace)[0]
    with context.workspace.catalog() as catalog:
        catalog.images.describe(image.id, category="zebra")
        catalog.commit()
    result = categorize_images(context, CategorizationRun())
    assert result["categories"] == {"zebra": 1} and result["uncategorised"] == ALL - 1


def test_an_endpoint_that_fails_ends_the_work_and_loses_no_answer(context: Context) -> None:
    asked: list[int] = []

    class Weary(Readers):
        def categories(self, images: np.ndarray) -> list[tuple[str, float]]:
            asked.append(len(images))
            if len(asked) == 3:
                raise ServiceAbsent("the endpoint answered 503: out of service")
            return super().categories(images)

    opened: list[str] = []

    def open_vqa(location: str, *about: object) -> Readers:
        opened.append(location)
        return Weary()

    weary = Context(context.workspace, with_methods(context.models, open_vqa=open_vqa))
    run = CategorizationRun(categorize=CategorizeConfig(model="http://vqa", batch=2, shard=4))
    with pytest.raises(ServiceAbsent, match="503"):
        categorize_images(weary, run)
    assert opened == ["http://vqa"], "it is opened once for all pages"
    known = sum(image.category is not None for image in images_in(context.workspace))
    assert known == sum(asked[:2])
    result = categorize_images(weary, run)
    assert result["asked"] == ALL - known and result["uncategorised"] == 0


@pytest.mark.parametrize("pages", [512, 3])
def test_a_model_without_any_usable_answer_fails_the_work(context: Context, pages: int) -> None:
    class Silent(Readers):
        def categories(self, images: np.ndarray) -> list[tuple[str, float]]:
            return [("", 0.0)] * len(images)

    silent = Context(context.workspace, with_methods(context.models, open_vqa=lambda *about: Silent()))
    with pytest.raises(ServiceAbsent, match=f"no usable answer about any of {ALL} images"):
        categorize_images(silent, CategorizationRun(categorize=CategorizeConfig(model="m", shard=pages)))
    assert not any(image.category for image in images_in(context.workspace))


# ---- mining --------------------------------------------------------------------------------------------


def test_mining_takes_what_people_may_label_once(context: Context) -> None:
    with pytest.raises(ConfigRefused, match="predicted none of these 26 images; run `clinic diagnose"):
        mine_images(context, MiningRun(), "mine-1")
    diagnose_images(context, DiagnosisRun())
    labelled, queued, *_ = images_in(context.workspace, source="imported", split="train")
    with context.workspace.catalog() as catalog:
        catalog.labels.submit(Label(image_id=labelled.id, author="ada", height=1, width=1, clean=True))
        catalog.queue.add_many([QueueItem(image_id=queued.id, round_id="desk")])
        catalog.commit()
    run = MiningRun(mine=MiningConfig(budget=100, explore=0.5))
    result = mine_images(context, run, "mine-1")
    with context.workspace.catalog(read_only=True) as catalog:
        items = {item.image_id for item in catalog.queue.of_round("mine-1")}
    free = {
        image.id for image in images_in(context.workspace, source="imported", split=("train", "validation"))
    } - {labelled.id, queued.id}
    assert items == free and result["queued"] == result["considered"] == len(free) == 20
    held_out = {image.id for image in images_in(context.workspace, source="imported", split="validation")}
    assert result["validation"] == len(items & held_out) > 0
    assert mine_images(context, run, "mine-1")["queued"] == 20, "a repeated job queues nothing"
    assert mine_images(context, run, "mine-2")["queued"] == 0, "nothing is left"


def test_real_photos_are_mined_only_when_asked_for(context: Context) -> None:
    diagnose_images(context, DiagnosisRun())
    run = MiningRun(images=ImageQuery(source="real"), mine=MiningConfig(explore=0.5))
    assert mine_images(context, run, "mine-1")["queued"] == 2


def test_mining_prefers_hard_categories(context: Context) -> None:
    workspace = context.workspace
    with workspace.catalog() as catalog:
        catalog.images.add_many(picture(workspace, n) for n in range(400, 480))
        catalog.commit()
    diagnose_images(context, DiagnosisRun(images=IMPORTED))
    categorize_images(
        context, CategorizationRun(images=IMPORTED, categorize=CategorizeConfig(model="reader"))
    )
    test, wanted = HardCategoryConfig(minimum=10), MiningConfig(budget=12, explore=0)
    run = MiningRun(images=IMPORTED, statistic=test, mine=wanted)
    result = mine_images(context, run, "mine-1")
    assert result["hard"] and set(result["hard"]) < set(COLOURS)
    with workspace.catalog(read_only=True) as catalog:
        chosen = catalog.images.get_many(item.image_id for item in catalog.queue.of_round("mine-1"))
    assert {image.category for image in chosen} <= set(result["hard"]) and len(chosen) == 12


def test_mining_looks_at_the_most_telling_of_many(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    diagnose_images(context, DiagnosisRun())
    monkeypatch.setattr(selections, "MOST_CANDIDATES", 3)
    result = mine_images(context, MiningRun(mine=MiningConfig(explore=0.0)), "mine-1")
    with context.workspace.catalog(read_only=True) as catalog:
        found = {one.image_id: one for one in catalog.predictions.of("first")}
        items = [item.image_id for item in catalog.queue.of_round("mine-1")]
    free = [i.id for i in images_in(context.workspace, source="imported", split=("train", "validation"))]
    best = sorted(free, key=lambda id: -(found[id].max + found[id].uncertainty))[:3]
    assert result["considered"] == 3 and set(items) == set(best)


# ---- pseudo-labels -------------------------------------------------------------------------------------


def test_pseudo_labels_leave_out_what_people_and_benchmarks_have(context: Context) -> None:
    workspace = context.workspace
    diagnose_images(context, DiagnosisRun())
    labelled, mined, skipped, *_ = images_in(workspace, source="imported", split="train")
    with workspace.catalog() as catalog:
        catalog.labels.submit(Label(image_id=labelled.id, author="ada", height=1, width=1, clean=True))
        catalog.queue.add_many(QueueItem(image_id=one.id, round_id="mine-1") for one in (mined, skipped))
        catalog.commit()
    result = pseudo_label_images(context, PseudoLabelRun())
    with workspace.catalog(read_only=True) as catalog:
        pseudo = catalog.pseudo_labels.newest()
    training = {image.id for image in images_in(workspace, source="imported", split="train")}
    assert set(pseudo) == training - {labelled.id, mined.id, skipped.id} and result["images"] == len(pseudo)
    assert result["flawed"] == sum(one.max >= 0.5 for one in pseudo.values())
    assert pseudo_label_images(context, PseudoLabelRun())["images"] == 0, "they are there already"


def test_training_takes_them_until_a_person_answers(context: Context) -> None:
    workspace = context.workspace
    add_detector(workspace, "better", 0.5)
    for detector, limit in (("first", 100_000), ("better", 4)):
        run = PseudoLabelRun(detector=detector, pseudo_label=PseudoLabelConfig(limit=limit, shard=3))
        pseudo_label_images(context, run)
    training = images_in(workspace, source="imported", split="train")
    items = {item.image_id: item for item in build_training_set(context, PublishConfig())}
    assert count_by_kind(list(items.values())) == {"pseudo": len(training), "real": 2}
    with workspace.catalog(read_only=True) as catalog:
        newest = catalog.pseudo_labels.newest()
    assert sum(one.detector_id == "better" for one in newest.values()) == 4, "the newest counts"
    assert all(items[id].target == one.map_ref for id, one in newest.items())
    with workspace.catalog() as catalog:
        catalog.labels.submit(Label(image_id=training[0].id, author="ada", height=1, width=1, clean=True))
        catalog.commit()
    items = {item.image_id: item for item in build_training_set(context, PublishConfig())}
    assert items[training[0].id].kind == "true"
    approved = build_training_set(context, PublishConfig(labels="approved"))
    assert training[0].id not in {item.image_id for item in approved}, "a person's word, even if it waits"


def test_a_question_gives_no_labels(context: Context) -> None:
    with context.workspace.catalog() as catalog:
        catalog.detectors.add(
            DetectorVersion(id="q", name="question 3", checkpoint="", config={"kind": "yes/no question"})
        )
        catalog.commit()
    with pytest.raises(ConfigRefused, match="not where, so it gives no labels"):
        pseudo_label_images(context, PseudoLabelRun(detector="q"))


# ---- jobs ----------------------------------------------------------------------------------------------


def test_a_worker_does_the_same(context: Context) -> None:
    def settings(run: Any) -> dict[str, Any]:
        return {"run": "run-1", "settings": run.model_dump(mode="json")}

    query = ImageQuery.model_validate({"source": "imported", "class": None})
    assert JOBS["diagnose"](context, settings(DiagnosisRun(images=query)))["images"] == 24
    model = CategorizationRun(images=query, categorize=CategorizeConfig(model="reader"))
    assert JOBS["categorize"](context, settings(model))["answered"] == 24
    mined = JOBS["mine"](context, settings(MiningRun(images=query, mine=MiningConfig(budget=5))))
    assert mined["round"] == "run-1" and mined["queued"] == 5
    labelled = JOBS["pseudo-label"](context, settings(PseudoLabelRun(images=query)))
    assert 0 < labelled["images"] < 24
    assert all(
        category_of(image.category or "") == image.category
        for image in images_in(context.workspace, source="imported")
    )
