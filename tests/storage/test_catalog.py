"""The catalog's promises, on both databases: nothing twice, nothing half, one winner."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, text

from dataengine.errors import Conflict, InputRefused, NotFound, WorkspaceUnusable
from dataengine.records import (
    DEFAULT_CLASSES,
    AuditEvent,
    CategoryAnswer,
    DetectorVersion,
    Endpoint,
    GeneratorVersion,
    HardCategory,
    Image,
    Job,
    Prediction,
    Prompt,
    PseudoLabel,
    Round,
    Snapshot,
    SnapshotItem,
    Study,
    Treatment,
    Vote,
    WorkerBeat,
    now,
)
from storage.catalog import Catalog
from storage.engine import make_engine
from storage.migrate import migrate


def image(id: str, **values: Any) -> Image:
    return Image(id=id, sha256=f"sha-{id}", height=4, width=6, **values)


def detector(id: str, **values: Any) -> DetectorVersion:
    return DetectorVersion(id=id, name=f"detector {id}", checkpoint=f"sum-{id}", **values)


def at_once(engine: Engine, act: Callable[[Catalog, int], Any], workers: int = 6) -> list[Any]:
    """What `act` gives in several transactions that start together; exceptions among them."""
    results: list[Any] = [None] * workers
    start = threading.Barrier(workers)

    def run(number: int) -> None:
        start.wait()
        try:
            with Catalog(engine) as catalog:
                results[number] = act(catalog, number)
                catalog.commit()
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


# ---- the unit of work


def test_without_commit_nothing_happened(engine: Engine) -> None:
    with Catalog(engine) as catalog:
        catalog.images.add_many([image("a")])
    with Catalog(engine) as catalog:
        assert catalog.images.count() == 0
        catalog.images.add_many([image("a")])
        catalog.commit()
        catalog.images.add_many([image("b")])
        catalog.rollback()
        catalog.images.add_many([image("c")])
        catalog.commit()
    with Catalog(engine) as catalog:
        assert catalog.images.ids() == ["a", "c"]


def test_an_exception_rolls_back(engine: Engine) -> None:
    with pytest.raises(ZeroDivisionError), Catalog(engine) as catalog:
        catalog.images.add_many([image("a")])
        1 / 0  # noqa: B018
    with Catalog(engine) as catalog:
        assert catalog.images.count() == 0


def test_a_reader_sees_one_state_and_cannot_write(engine: Engine) -> None:
    with Catalog(engine, read_only=True) as reader:
        assert reader.images.count() == 0
        with Catalog(engine) as writer:
            writer.images.add_many([image("a")])
            writer.commit()
        assert reader.images.count() == 0, "readers do not wait for writers, nor see them half way"
        with pytest.raises(WorkspaceUnusable, match="read-only"):
            reader.images.add_many([image("b")])
    with Catalog(engine) as catalog:
        assert catalog.images.ids() == ["a"]


def test_a_full_disk_is_one_clear_error_and_leaves_nothing_half(tmp_path: Path) -> None:
    engine = make_engine(f"sqlite:///{tmp_path}/catalog.sqlite")
    migrate(engine)
    with Catalog(engine) as catalog:
        catalog.images.add_many([image("a")])
        catalog.commit()
        pages = catalog.connection.scalar(text("PRAGMA page_count"))
        catalog.connection.execute(text(f"PRAGMA max_page_count={pages + 4}"))
        with pytest.raises(WorkspaceUnusable, match="is full; free some space"):
            catalog.images.add_many([image(f"b{number}", prompt="x" * 1000) for number in range(5000)])
    with Catalog(engine) as catalog:
        assert catalog.images.ids() == ["a"]


def test_a_database_that_is_away_is_one_clear_error(tmp_path: Path) -> None:
    for url in (f"sqlite:///{tmp_path}/missing/catalog.sqlite", f"postgresql://clinic@/x?host={tmp_path}"):
        with pytest.raises(WorkspaceUnusable) as error, Catalog(make_engine(url)):
            pass
        assert "cannot be opened" in str(error.value) or "does not answer" in str(error.value)


def test_a_writer_that_waits_too_long_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.engine.BUSY_SECONDS", 0.05)
    engine = make_engine(f"sqlite:///{tmp_path}/catalog.sqlite")
    with Catalog(engine), pytest.raises(WorkspaceUnusable, match="another writer"), Catalog(engine):
        pass


# ---- images and what is said of them


def test_images_are_stored_once_and_come_back_equal(catalog: Catalog) -> None:
    one = image(
        "a",
        prompt="a “cat” \x1f ☃",
        seed=2**62,
        settings={"steps": 5, "size": [64, 64], "none": None},
        generator_id="g",
        group="g1",
        split="validation",
        round_id="r",
        purpose="survey",
        thumbnail="t",
        created=1.25,
    )
    assert catalog.images.add_many([one, image("b"), one]) == 2
    assert catalog.images.add_many([replace(one, prompt="changed"), image("c")]) == 1
    assert catalog.images.get("a") == one
    assert [found.id for found in catalog.images.get_many(["c", "gone", "a"])] == ["c", "a"]
    with pytest.raises(NotFound, match="'gone'"):
        catalog.images.get("gone")


def test_numpy_scalars_are_stored_as_numbers(catalog: Catalog) -> None:
    catalog.images.add_many(
        [replace(image("a"), height=np.int64(7), seed=np.uint32(3), created=np.float32(0.5))]
    )
    assert catalog.images.get("a").height == 7 and catalog.images.get("a").seed == 3
    catalog.predictions.add_many(
        [
            Prediction(
                image_id="a", detector_id="d", max=np.float32(0.5), mean=np.float64(0.25), uncertainty=0
            )  # type: ignore[arg-type]
        ]
    )
    found = catalog.predictions.get("a", "d")
    assert found is not None and (found.max, found.mean, found.uncertainty) == (0.5, 0.25, 0.0)


def test_find_count_and_ids_agree(catalog: Catalog) -> None:
    catalog.images.add_many(
        [
            image("a", source="real", split="train"),
            image("b", source="real", split="benchmark", prompt="a hand", round_id="r", purpose="survey"),
            image("c", source="generated", generator_id="g", prompt="a face", round_id="r", purpose="hard"),
            image("d", source="generated", generator_id="h", status="refused"),
        ]
    )
    for filters, expected in (
        ({}, "abcd"),
        ({"source": "real"}, "ab"),
        ({"source": ["real", "generated"], "split": "train"}, "acd"),
        ({"has_prompt": True}, "bc"),
        ({"has_prompt": False}, "ad"),
        ({"round_id": "r", "purpose": "hard"}, "c"),
        ({"generator_id": {"g", "h"}, "status": "active"}, "c"),
        ({"sha256": "sha-a"}, "a"),
        ({"category": None}, "abcd"),
        ({"source": []}, ""),
    ):
        assert catalog.images.ids(**filters) == list(expected), filters
        assert [found.id for found in catalog.images.find(**filters)] == list(expected)
        assert catalog.images.count(**filters) == len(expected)
    assert catalog.images.ids(limit=2) == ["a", "b"]
    assert catalog.images.ids(after="b", limit=2) == ["c", "d"]
    with pytest.raises(KeyError):
        catalog.images.find(colour="red")


def test_first_answer_of_a_model_counts(catalog: Catalog) -> None:
    catalog.images.add_many([image("a"), image("b")])
    catalog.predictions.add_many([Prediction(image_id="a", detector_id="d", max=1, mean=0, uncertainty=0)])

    def answer(image_id: str, category: str, model: str = "vqa") -> CategoryAnswer:
        return CategoryAnswer(image_id=image_id, model=model, category=category, confidence=0.5)

    assert catalog.images.set_categories([answer("a", "hand"), answer("b", "face")]) == 2
    assert catalog.images.set_categories([answer("a", "dog"), answer("b", "face")]) == 0
    assert catalog.images.get("a").category == "hand"
    assert catalog.images.set_categories([answer("a", "dog", "better")]) == 1
    assert catalog.images.get("a").category == "dog"
    assert [found.model for found in catalog.images.answers("a")] == ["better", "vqa"]


def test_status_and_thumbnail(catalog: Catalog) -> None:
    catalog.images.add_many([image("a"), image("b")])
    assert catalog.images.set_status(["a", "gone"], "refused") == 1
    catalog.images.set_thumbnail("b", "small")
    assert catalog.images.get("a").status == "refused" and catalog.images.get("b").thumbnail == "small"


def test_predictions_one_per_image_and_detector(catalog: Catalog) -> None:
    catalog.images.add_many([image(id) for id in "abc"])

    def prediction(image_id: str, detector_id: str) -> Prediction:
        return Prediction(image_id=image_id, detector_id=detector_id, max=0.5, mean=0.1, uncertainty=0.2)

    first = prediction("b", "d")
    assert catalog.predictions.add_many([first, prediction("a", "d"), prediction("a", "e")]) == 3
    assert catalog.predictions.add_many([replace(first, max=0.9), prediction("c", "e")]) == 1
    assert catalog.predictions.get("b", "d") == first
    assert catalog.predictions.get("c", "d") is None
    assert [found.image_id for found in catalog.predictions.of("d")] == ["a", "b"]
    assert [found.image_id for found in catalog.predictions.of("d", ["b", "c"])] == ["b"]
    assert catalog.predictions.missing("d", ["c", "b", "x"]) == ["c", "x"]
    with pytest.raises(NotFound, match="not in the catalog"):
        catalog.predictions.add_many([prediction("gone", "d")])


def test_lists_longer_than_a_statement_may_hold(catalog: Catalog) -> None:
    ids = [f"{number:06d}" for number in range(2500)]
    assert catalog.images.add_many(image(id) for id in ids) == 2500
    assert len(catalog.images.get_many(ids)) == 2500
    assert catalog.predictions.missing("d", ids) == ids
    assert catalog.images.set_status(ids, "refused") == 2500


def test_what_a_round_makes_is_stored_once(catalog: Catalog) -> None:
    catalog.images.add_many([image("a"), image("b")])
    prompts = [
        Prompt(round_id="r", purpose="hard", index=1, text="two"),
        Prompt(round_id="r", purpose="hard", index=0, text="one", category="hand"),
        Prompt(round_id="r", purpose="survey", index=0, text="three"),
    ]
    assert catalog.prompts.add_many(prompts) == 3
    assert catalog.prompts.add_many([replace(prompts[0], text="other")]) == 0
    assert [prompt.text for prompt in catalog.prompts.of_round("r", "hard")] == ["one", "two"]
    assert len(catalog.prompts.of_round("r")) == 3 and catalog.prompts.of_round("x") == []
    verdicts = [
        HardCategory(round_id="r", category="face", images=3, statistic=0.2, limit=0.5, hard=False),
        HardCategory(round_id="r", category="hand", images=9, statistic=0.8, limit=0.5, hard=True),
    ]
    assert catalog.hard.record("r", verdicts) == 2 and catalog.hard.record("r", verdicts) == 0
    assert catalog.hard.of_round("r") == verdicts[::-1]
    pseudo = [PseudoLabel(image_id=id, detector_id="d", round_id="r", map_ref=id, max=0.5) for id in "ba"]
    assert catalog.pseudo_labels.add_many(pseudo) == 2 and catalog.pseudo_labels.add_many(pseudo) == 0
    assert catalog.pseudo_labels.of_round("r") == pseudo[::-1]


# ---- models


def test_champions_follow_each_other_and_come_back(catalog: Catalog) -> None:
    for id in "abc":
        assert catalog.detectors.add(detector(id)) == 1
    assert catalog.detectors.champion() is None
    with pytest.raises(Conflict, match="no previous champion"):
        catalog.detectors.rollback("root")
    for id in "abc":
        catalog.detectors.promote(id, "root", f"{id} is better")
    catalog.detectors.promote("c", "root", "once more")

    def roles() -> dict[str, str]:
        return {found.id: found.role for found in catalog.detectors.list()}

    assert roles() == {"a": "retired", "b": "retired", "c": "champion"}
    assert catalog.detectors.rollback("root").id == "b"
    assert catalog.detectors.rollback("root").id == "a"
    assert roles() == {"a": "champion", "b": "retired", "c": "retired"}
    with pytest.raises(Conflict, match="no previous champion"):
        catalog.detectors.rollback("root")
    catalog.detectors.promote("c", "root", "again")
    assert catalog.detectors.rollback("root").id == "a"
    events = [(event.action, event.subject) for event in reversed(catalog.audit.list())]
    promoted = [("detector.promote", id) for id in "abc"]
    back = [("detector.rollback", "b"), ("detector.rollback", "a")]
    assert events == [*promoted, *back, ("detector.promote", "c"), ("detector.rollback", "a")]
    with pytest.raises(NotFound, match="no detector 'x'"):
        catalog.detectors.promote("x", "root", "")
    assert catalog.detectors.champion() == replace(
        detector("a"), role="champion", created=catalog.detectors.get("a").created
    )


def test_promotion_is_all_or_nothing(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with Catalog(engine) as catalog:
        catalog.detectors.add(detector("a"))
        catalog.detectors.add(detector("b"))
        catalog.detectors.promote("a", "root", "")
        catalog.commit()

    def lost(*_: object) -> None:
        raise OSError("power is gone")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="power"), Catalog(engine) as catalog:
        patch.setattr("storage.repositories.people.Audit.add", lost)
        catalog.detectors.promote("b", "root", "")
    with Catalog(engine) as catalog:
        champion = catalog.detectors.champion()
        assert champion is not None and champion.id == "a"
        assert [event.subject for event in catalog.audit.list()] == ["a"]


def test_there_is_never_a_second_champion(engine: Engine) -> None:
    with Catalog(engine) as catalog:
        for number in range(6):
            catalog.detectors.add(detector(str(number)))
        catalog.commit()
    results = at_once(engine, lambda catalog, number: catalog.detectors.promote(str(number), "root", ""))
    assert all(isinstance(result, DetectorVersion | Conflict) for result in results), results
    with Catalog(engine) as catalog:
        roles = [found.role for found in catalog.detectors.list()]
        assert roles.count("champion") == 1
        with pytest.raises(Conflict):
            catalog.detectors.add(detector("sneaky", role="champion"))


def test_metrics_add_up(catalog: Catalog) -> None:
    catalog.detectors.add(detector("a", metrics={"mse": 1.0}))
    catalog.detectors.record_metrics("a", {"kl": 0.5})
    assert catalog.detectors.get("a").metrics == {"mse": 1.0, "kl": 0.5}
    with pytest.raises(NotFound):
        catalog.detectors.record_metrics("x", {})


def test_generators_treatments_endpoints(catalog: Catalog) -> None:
    generator = GeneratorVersion(id="g", name="tiny", location="folder", settings={"steps": 4})
    assert catalog.generators.add(generator) == 1 and catalog.generators.add(generator) == 0
    assert catalog.generators.get("g") == generator and catalog.generators.list() == [generator]
    treatment = Treatment(id="t", generator_id="g", detector_id="d", config={"rank": 16})
    catalog.treatments.add(treatment)
    catalog.treatments.finish("t", {"kept_step": 3}, "g2")
    assert catalog.treatments.get("t") == replace(treatment, result={"kept_step": 3}, treated_id="g2")
    endpoint = Endpoint(id="e", kind="vqa", name="vqa", location="somewhere")
    catalog.endpoints.add(endpoint)
    assert catalog.endpoints.of_kind("vqa") == [endpoint] and catalog.endpoints.of_kind("llm") == []
    assert catalog.endpoints.remove("e") == 1 and catalog.endpoints.list() == []


def test_snapshots_keep_their_rows_and_know_what_went_in(catalog: Catalog) -> None:
    items = [
        SnapshotItem(image_id="b", image_sha256="sb", kind="true", target="m", author="anna", weight=2.0),
        SnapshotItem(image_id="a", image_sha256="sa", kind="real", target=None, split="validation"),
    ]
    first = Snapshot(id="s1", manifest="m1", rows=2, composition={"true": 1, "real": 1}, created=1.0)
    second = Snapshot(id="s2", manifest="m2", rows=1, composition={"real": 1}, parent="s1", created=2.0)
    assert catalog.snapshots.add(first, items) == 1
    assert catalog.snapshots.add(first, items[:1]) == 0
    catalog.snapshots.add(second, items[1:])
    assert catalog.snapshots.items("s1") == items
    assert catalog.snapshots.get("s1") == first and catalog.snapshots.list() == [first, second]
    assert [found.id for found in catalog.snapshots.containing("a")] == ["s1", "s2"]
    assert [found.id for found in catalog.snapshots.drawn_by("anna")] == ["s1"]
    assert catalog.snapshots.containing("x") == []


# ---- work


def test_the_cursor_moves_once(engine: Engine) -> None:
    with Catalog(engine) as catalog:
        catalog.rounds.add(Round(id="r", recipe={"name": "smoke"}, stage="generate"))
        catalog.commit()
    results = at_once(
        engine, lambda catalog, number: catalog.rounds.advance("r", "generate", {"by": number}, "diagnose")
    )
    winners = [number for number, result in enumerate(results) if isinstance(result, Round)]
    assert len(winners) == 1
    assert all(isinstance(result, Conflict) for number, result in enumerate(results) if number not in winners)
    with Catalog(engine) as catalog:
        round_ = catalog.rounds.get("r")
        assert round_.stage == "diagnose" and round_.results == {"generate": {"by": winners[0]}}
        catalog.rounds.set_state("r", "waiting", "for people")
        assert catalog.rounds.in_state("waiting", "failed")[0].message == "for people"
        assert catalog.rounds.in_state("running") == []
        moved = catalog.rounds.advance("r", "diagnose", {}, "end", state="done")
        assert (
            moved.state == "done" and moved.message == "" and set(moved.results) == {"generate", "diagnose"}
        )
        with pytest.raises(NotFound, match="no round 'x'"):
            catalog.rounds.advance("x", "a", {}, "b")
        with pytest.raises(NotFound):
            catalog.rounds.set_state("x", "done")


def test_a_job_has_one_worker(engine: Engine) -> None:
    with Catalog(engine) as catalog:
        catalog.jobs.add(Job(id="j", kind="train"))
        catalog.commit()
    assert sorted(at_once(engine, lambda catalog, number: catalog.jobs.claim("j", f"w{number}"))) == [
        False
    ] * 5 + [True]
    with Catalog(engine) as catalog:
        job = catalog.jobs.get("j")
        assert job.state == "running" and job.started is not None and job.heartbeat is not None
        catalog.commit()
    claims = at_once(
        engine, lambda catalog, number: catalog.jobs.claim("j", f"v{number}", stale_before=now() + 1)
    )
    assert any(claims), "a silent worker's job is taken over"


def test_a_jobs_life(catalog: Catalog) -> None:
    catalog.jobs.add(Job(id="j", kind="train", args={"detector": "d"}, created=1.0))
    assert catalog.jobs.heartbeat("j", 0.5) is False and catalog.jobs.get("j").progress == 0.0, (
        "not running yet"
    )
    assert catalog.jobs.claim("j", "w")
    assert catalog.jobs.heartbeat("j", 0.5, "half") is False
    job = catalog.jobs.get("j")
    assert (job.progress, job.message, job.worker) == (0.5, "half", "w")
    assert [found.id for found in catalog.jobs.stale(now() + 1)] == ["j"] and catalog.jobs.stale(
        now() - 60
    ) == []
    assert catalog.jobs.finish("j", "succeeded", {"loss": 0.1})
    assert not catalog.jobs.finish("j", "failed", error="too late")
    job = catalog.jobs.get("j")
    assert (job.state, job.progress, job.result, job.error) == ("succeeded", 1.0, {"loss": 0.1}, "")
    assert not catalog.jobs.claim("j", "w", stale_before=now() + 1)
    with pytest.raises(InputRefused, match="succeeded, failed, cancelled"):
        catalog.jobs.finish("j", "running")


def test_cancelling(catalog: Catalog) -> None:
    for id in ("waiting", "running"):
        catalog.jobs.add(Job(id=id, kind="train"))
    assert catalog.jobs.request_cancel("waiting").state == "cancelled"
    assert not catalog.jobs.claim("waiting", "w")
    catalog.jobs.claim("running", "w")
    assert not catalog.jobs.cancelled("running")
    assert catalog.jobs.request_cancel("running").state == "running"
    assert catalog.jobs.cancelled("running") and catalog.jobs.heartbeat("running", 0.1)
    assert not catalog.jobs.claim("running", "w2", stale_before=now() + 1), "nobody resumes what should stop"
    assert catalog.jobs.finish("running", "cancelled")
    with pytest.raises(NotFound):
        catalog.jobs.request_cancel("x")


def test_jobs_by_state_and_kind(catalog: Catalog) -> None:
    for number, kind in enumerate(["train", "treat", "train"]):
        catalog.jobs.add(Job(id=str(number), kind=kind, created=float(number)))
    catalog.jobs.claim("0", "w")
    assert [job.id for job in catalog.jobs.list()] == ["2", "1", "0"]
    assert [job.id for job in catalog.jobs.list(["queued"], kind="train")] == ["2"]
    assert [job.id for job in catalog.jobs.list(limit=1)] == ["2"]


def test_workers(catalog: Catalog) -> None:
    beat = WorkerBeat(id="w", host="h", pid=1, devices=("cuda:0", "cuda:1"), beat=5.0)
    catalog.workers.beat(replace(beat, pid=7, beat=1.0))
    catalog.workers.beat(beat)
    assert catalog.workers.alive(4.0) == [beat] and catalog.workers.alive(6.0) == []
    catalog.workers.forget("w")
    assert catalog.workers.alive(0.0) == []


# ---- people


def test_votes_count_once(catalog: Catalog) -> None:
    study = Study(
        id="s", name="before/after", before_id="g", after_id="h", pairs=(("a", "b"), ("c", "d")), seed=3
    )
    catalog.studies.add(study)
    assert catalog.studies.get("s") == study
    vote = Vote(study_id="s", pair=0, rater="anna", question="quality", choice="after")
    assert catalog.votes.add(vote) == 1
    assert catalog.votes.add(replace(vote, choice="before")) == 0
    assert catalog.votes.add(replace(vote, rater="bob")) == 1
    assert catalog.votes.add(replace(vote, question="artifacts")) == 1
    assert catalog.votes.of_study("s", rater="anna")[1] == vote and len(catalog.votes.of_study("s")) == 3
    catalog.studies.close("s")
    assert catalog.studies.get("s").state == "closed"
    with pytest.raises(NotFound):
        catalog.votes.add(replace(vote, study_id="x"))


def test_audit_pages_backwards(catalog: Catalog) -> None:
    for at in range(5):
        actor = "anna" if at % 2 else "bob"
        catalog.audit.add(
            AuditEvent(actor=actor, action="look", subject="x", details={"n": at}, at=float(at))
        )
    assert [event.at for event in catalog.audit.list(limit=2)] == [4.0, 3.0]
    assert [event.at for event in catalog.audit.list(limit=2, before=3.0)] == [2.0, 1.0]
    assert [event.at for event in catalog.audit.list(actor="anna")] == [3.0, 1.0]
    assert catalog.audit.count("look", "x", since=2.0) == 3 and catalog.audit.list(action="other") == []


def test_classes_are_renamed_or_appended_never_removed(catalog: Catalog) -> None:
    assert catalog.classes.names() == DEFAULT_CLASSES
    names = ("distorted shape", *DEFAULT_CLASSES[1:], "text")
    catalog.classes.set(names)
    assert catalog.classes.names() == names
    for bad in (DEFAULT_CLASSES, (*names, "text"), (*names, " "), [f"c{n}" for n in range(256)]):
        with pytest.raises(InputRefused):
            catalog.classes.set(bad)
    assert catalog.classes.names() == names
