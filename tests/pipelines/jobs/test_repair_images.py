"""Repairing images of the catalog: what is proposed, who decides, and what statistics leave out."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dataengine.curation.config import MiningConfig
from dataengine.errors import ConfigRefused, Conflict, NotFound, Paused
from dataengine.masks import pack_label_map
from dataengine.records import Image, Label
from pipelines.jobs.repair_images import repair_images, repair_job
from pipelines.jobs.selections import categorize_images, diagnose_images, mine_images, pseudo_label_images
from pipelines.runtime.context import Context
from pipelines.runtime.images import read_pixels
from pipelines.selections.config import (
    CategorizationRun,
    DiagnosisRun,
    ImageQuery,
    MiningRun,
    PseudoLabelRun,
)
from pipelines.services.images.repairs import decide_repairs, list_repairs, request_repair
from pipelines.services.studies.lifecycle import open_repair_study
from pipelines.worker.handlers import JOBS
from storage.maintenance.erase import erase_images
from storage.queries.datasets import benchmark_candidates
from storage.queries.overview import overview
from storage.queries.repairs import mask_of_repair
from storage.workspace import Workspace
from tests.pipelines.repair.world import RUN, add_image, make_context, scene


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    """Two flawed images and a clean one."""
    made = make_context(tmp_path / "w")
    for number, spots in enumerate((1, 0, 2)):
        add_image(
            made.workspace, scene(number, spots), number, split="validation" if number == 2 else "train"
        )
    yield made
    made.workspace.close()


def images_in(workspace: Workspace, **filters: object) -> list[Image]:
    with workspace.catalog(read_only=True) as catalog:
        return catalog.images.find(**filters)


def proposals(context: Context) -> list[Image]:
    return images_in(context.workspace, status="proposed")


def test_a_better_image_is_proposed_with_its_provenance(context: Context) -> None:
    result = repair_images(context, RUN, "run")
    assert (result["selected"], result["repaired"], result["unchanged"], result["regions"]) == (3, 2, 1, 3)
    originals = {image.id: image for image in images_in(context.workspace, status="active")}
    assert len(originals) == 3
    for repaired in proposals(context):
        how = repaired.settings["repaired"]
        original = originals[how["image"]]
        assert (how["of"], how["detector"], how["chooser"]) == (original.sha256, "first", "other")
        assert how["generator"] == "squares" and how["repair"]["draws"] == 2 and how["sampling"]["steps"] == 2
        assert (repaired.split, repaired.group) == (original.split, original.group)
        assert (repaired.source, repaired.generator_id, repaired.category) == ("repaired", None, None)
        before, after = (read_pixels(context.workspace, each) for each in (original, repaired))
        changed, mask = (before != after).any(-1), mask_of_repair(repaired)
        assert changed.any() and not changed[~mask].any() and mask.mean() < 0.3
        assert repaired.thumbnail is not None and context.workspace.blobs.get(repaired.thumbnail)
    assert repair_images(context, RUN, "again")["repaired"] == 2
    assert len(proposals(context)) == 2, "the same repair is proposed once"


def test_one_image_or_a_selection_is_repaired(context: Context) -> None:
    one = RUN.model_copy(update={"ids": ("image0",)})
    assert repair_images(context, one, "one")["selected"] == 1
    some = RUN.model_copy(update={"images": ImageQuery(split="validation")})
    assert repair_images(context, some, "some")["selected"] == 1
    with pytest.raises(NotFound, match="there is no image 'gone'"):
        repair_images(context, RUN.model_copy(update={"ids": ("gone",)}), "gone")
    with pytest.raises(NotFound, match="no image matches"):
        repair_images(context, RUN.model_copy(update={"images": ImageQuery(category="tree")}), "none")
    (repaired,) = [each for each in proposals(context) if each.settings["repaired"]["image"] == "image0"]
    with pytest.raises(NotFound, match="repairs themselves"):
        repair_images(context, RUN.model_copy(update={"ids": (repaired.id,)}), "twice")


def test_only_artifacts_that_people_marked_with_the_class(context: Context) -> None:
    label_map = np.zeros((64, 64), np.uint8)
    label_map[10:12, 10:12], label_map[10:12, 40:42] = 1, 2
    label = Label(image_id="image2", author="ada", height=64, width=64)
    with context.workspace.catalog() as catalog:
        catalog.labels.submit(
            replace(label, label_map=context.workspace.blobs.put(pack_label_map(label_map)))
        )
        catalog.commit()
    result = repair_images(context, RUN.model_copy(update={"label_class": 2}), "classes")
    assert (result["selected"], result["regions"], result["repaired"]) == (3, 1, 1)
    (repaired,) = proposals(context)
    mask = mask_of_repair(repaired)
    assert mask[10, 40] and not mask[10, 10]
    assert repair_images(context, RUN.model_copy(update={"label_class": 3}), "none")["regions"] == 0


def test_an_image_that_cannot_be_repaired_is_named(context: Context) -> None:
    add_image(context.workspace, scene(7, side=60), 7)
    with context.workspace.catalog() as catalog:
        catalog.connection.exec_driver_sql(f"UPDATE images SET sha256 = '{'0' * 64}' WHERE id = 'image1'")
        catalog.commit()
    result = repair_images(context, RUN, "run")
    assert (result["repaired"], result["refused"]) == (2, 2)
    lost, whole = sorted(result["refused_images"])
    assert lost.startswith("image1: ") and whole.startswith("image7: ") and "of the image" in whole


def test_a_paused_job_goes_on_where_it_was(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    args = {"run": "run", "settings": RUN.model_dump(mode="json")}
    asked = iter([False, False, True])
    with pytest.raises(Paused):
        repair_job(replace(context, pausing=lambda: next(asked)), args)
    assert len(proposals(context)) == 1
    seen: list[str] = []
    original = context.models.artifact_maps

    def maps(detector, images, batch):  # type: ignore[no-untyped-def]
        seen.append(detector.name)
        return original(detector, images, batch)

    monkeypatch.setattr(context.models, "artifact_maps", maps)
    result = JOBS["repair"](context, args)
    assert (result["selected"], result["repaired"], result["unchanged"]) == (3, 2, 1)
    assert seen.count("first") <= 4, "the third image: once before, for two regions, and together"
    assert context.workspace.job_files.get("run", "repair.json") is None


def test_people_accept_or_reject_once(context: Context) -> None:
    repair_images(context, RUN, "run")
    first, second = [each.id for each in proposals(context)]
    with context.workspace.catalog(read_only=True) as catalog:
        assert overview(catalog).images == {"generated": 3} and sum(overview(catalog).splits.values()) == 3
    assert decide_repairs(context.workspace, [first], True, "ada") == 1
    assert decide_repairs(context.workspace, [second], False, "ada") == 1
    assert [each.id for each in images_in(context.workspace, source="repaired", status="active")] == [first]
    assert list_repairs(context.workspace, "proposed")["counts"] == {
        "proposed": 0,
        "accepted": 1,
        "rejected": 1,
    }
    with pytest.raises(Conflict, match="waits for no decision"):
        decide_repairs(context.workspace, [first], False, "ada")
    with pytest.raises(Conflict, match="is no repair"):
        decide_repairs(context.workspace, ["image0"], False, "ada")
    with pytest.raises(NotFound):
        decide_repairs(context.workspace, ["gone"], True, "ada")
    repair_images(context, RUN, "again")
    assert proposals(context) == [], "what was rejected is not proposed again"
    with context.workspace.catalog(read_only=True) as catalog:
        assert overview(catalog).images == {"generated": 3, "repaired": 1}
        actions = {event.action for event in catalog.audit.list()}
    assert {"repair.accept", "repair.reject"} <= actions


def test_all_are_decided_or_none(context: Context) -> None:
    repair_images(context, RUN, "run")
    first, second = [each.id for each in proposals(context)]
    decide_repairs(context.workspace, [second], False, "ada")
    with pytest.raises(Conflict):
        decide_repairs(context.workspace, [first, second], True, "ada")
    assert [each.id for each in proposals(context)] == [first]


def test_no_statistic_and_no_training_counts_repairs_as_generated(context: Context) -> None:
    repair_images(context, RUN, "run")
    decide_repairs(context.workspace, [each.id for each in proposals(context)], True, "ada")
    repaired = {each.id for each in images_in(context.workspace, source="repaired")}
    assert len(repaired) == 2
    diagnose_images(context, DiagnosisRun(batch=4))
    mined = mine_images(context, MiningRun(mine=MiningConfig(budget=20)), "queue")
    pseudo_label_images(context, PseudoLabelRun())
    categories = categorize_images(context, CategorizationRun())["categories"]
    assert categories == {"hand": 3}
    with context.workspace.catalog(read_only=True) as catalog:
        queued = {item.image_id for item in catalog.queue.of_round("queue")}
        assert mined["queued"] > 0 and not queued & repaired
        assert not [
            one for id in repaired for one in catalog.pseudo_labels.of_round("") if one.image_id == id
        ]
        candidates = {
            row[0] for real in (False, True) for row in benchmark_candidates(catalog, "first", real)
        }
        assert not candidates & repaired


def test_a_blind_study_compares_originals_with_accepted_repairs(context: Context) -> None:
    with pytest.raises(ConfigRefused, match="no repair has been accepted yet"):
        open_repair_study(context.workspace, "ada")
    repair_images(context, RUN, "run")
    accepted, rejected = [each for each in proposals(context)]
    decide_repairs(context.workspace, [accepted.id], True, "ada")
    decide_repairs(context.workspace, [rejected.id], False, "ada")
    study = open_repair_study(context.workspace, "ada", seed=3)
    assert study.pairs == ((accepted.settings["repaired"]["image"], accepted.id),)
    assert (study.before_id, study.after_id) == ("original", "repaired")
    assert open_repair_study(context.workspace, "ada", seed=3).id == study.id


def test_a_queued_repair_keeps_its_detectors(context: Context) -> None:
    job = request_repair(context.workspace, RUN.model_copy(update={"ids": ("image0",)}), "ada")
    assert (job.kind, job.requested_by) == ("repair", "ada")
    assert (job.args["settings"]["detector"], job.args["settings"]["chooser"]) == ("first", "other")
    found = list_repairs(context.workspace, "proposed", "image0")
    assert found["job"]["id"] == job.id and found["job"]["open"] and found["repairs"] == []
    assert list_repairs(context.workspace, "proposed", "image1")["job"] is None
    with pytest.raises(NotFound):
        request_repair(context.workspace, RUN.model_copy(update={"ids": ("gone",)}), "ada")
    with pytest.raises(ConfigRefused, match="needs a generator"):
        request_repair(context.workspace, RUN.model_copy(update={"generator": None}), "ada")


def test_who_erases_an_image_erases_its_repairs(context: Context) -> None:
    """They show the same picture."""
    repair_images(context, RUN, "run")
    of_first, of_second = sorted(proposals(context), key=lambda each: each.settings["repaired"]["image"])
    decide_repairs(context.workspace, [of_first.id], True, "ada")
    erased = erase_images(context.workspace, ["image0"], "ada")
    assert erased.images == 2
    assert {image.id for image in images_in(context.workspace)} == {"image1", "image2", of_second.id}
    for blob in (of_first.sha256, of_first.thumbnail):
        assert not context.workspace.blobs.has(str(blob))
    erase_images(context.workspace, [of_second.id], "ada")
    assert {image.id for image in images_in(context.workspace)} == {"image1", "image2"}
