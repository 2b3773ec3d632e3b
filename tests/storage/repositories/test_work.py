"""Rounds, jobs and workers: one winner."""

import threading
import time
from dataclasses import replace

import pytest
from sqlalchemy import Engine

from dataengine.errors import Conflict, InputRefused, NotFound
from dataengine.records import Job, Round, WorkerBeat
from storage.catalog import Catalog
from tests.storage.builders import at_once


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


def test_who_holds_a_round_sees_it_and_its_jobs_as_one(engine: Engine) -> None:
    """Else a job would be made again for a stage that has just been recorded."""
    with Catalog(engine) as catalog:
        catalog.rounds.add(Round(id="r", recipe={}, stage="generate"))
        catalog.jobs.add(Job(id="j", kind="stage"))
        catalog.commit()
    begun, seen = threading.Event(), []

    def look() -> None:
        with Catalog(engine) as catalog:
            begun.set()
            seen.extend((catalog.rounds.hold("r").stage, catalog.jobs.get("j").state))

    with Catalog(engine) as catalog:
        catalog.rounds.hold("r")
        thread = threading.Thread(target=look)
        thread.start()
        begun.wait(0.3)  # SQLite does not even let it begin
        catalog.jobs.finish("j", "succeeded")
        catalog.rounds.advance("r", "generate", {}, "diagnose")
        thread.join(0.3)
        assert not seen
        catalog.commit()
    thread.join(30)
    assert seen == ["diagnose", "succeeded"]
    with Catalog(engine) as catalog, pytest.raises(NotFound, match="no round 'x'"):
        catalog.rounds.hold("x")


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
    claims = at_once(engine, lambda catalog, number: catalog.jobs.claim("j", f"v{number}", silent_for=-1))
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
    assert catalog.jobs.finish("j", "succeeded", {"loss": 0.1})
    assert not catalog.jobs.finish("j", "failed", error="too late")
    job = catalog.jobs.get("j")
    assert (job.state, job.progress, job.result, job.error) == ("succeeded", 1.0, {"loss": 0.1}, "")
    assert not catalog.jobs.claim("j", "w", silent_for=-1)
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
    assert not catalog.jobs.claim("running", "w2", silent_for=-1), "nobody resumes what should stop"
    assert catalog.jobs.finish("running", "cancelled")
    with pytest.raises(NotFound):
        catalog.jobs.request_cancel("x")


def test_pausing(catalog: Catalog) -> None:
    for id in ("waiting", "running"):
        catalog.jobs.add(Job(id=id, kind="treat"))
    assert catalog.jobs.request_pause("waiting").state == "paused"
    assert not catalog.jobs.claim("waiting", "w") and not catalog.jobs.cancelled("waiting")
    catalog.jobs.claim("running", "w")
    assert catalog.jobs.pending_request("running") == ""
    assert catalog.jobs.request_pause("running").state == "running"
    assert catalog.jobs.pending_request("running") == "pause" and not catalog.jobs.cancelled("running")
    assert not catalog.jobs.claim("running", "w2", silent_for=-1), "it waits to be resumed"
    catalog.jobs.request_cancel("running")
    assert catalog.jobs.pending_request("running") == "cancel", "stopping it comes before letting it wait"
    assert catalog.jobs.request_cancel("waiting").state == "cancelled", "what is paused can be given up"
    with pytest.raises(NotFound):
        catalog.jobs.request_pause("x")


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
    (found,) = catalog.workers.alive(60.0)
    assert replace(found, beat=5.0) == beat and abs(found.beat - time.time()) < 30, "the database's time"
    assert catalog.workers.alive(-60.0) == []
    catalog.workers.forget("w")
    assert catalog.workers.alive(60.0) == []


def test_a_skewed_clock_of_a_worker_changes_no_lease(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog.jobs.add(Job(id="j", kind="train"))
    assert catalog.jobs.claim("j", "w")
    for skew in (-300.0, -30.0, 30.0, 300.0):
        monkeypatch.setattr("storage.repositories.work.now", lambda skew=skew: time.time() + skew)
        catalog.jobs.heartbeat("j", 0.5)
        catalog.workers.beat(WorkerBeat(id="w", host="h", pid=1, beat=time.time() + skew))
        assert not catalog.jobs.claim("j", "other", silent_for=5), f"taken from a living worker at {skew} s"
        assert catalog.jobs.silent(5) == set() and [beat.id for beat in catalog.workers.alive(5)] == ["w"]
    assert catalog.jobs.silent(-5) == {"j"} and catalog.jobs.claim("j", "other", silent_for=-5)


def test_failures_alike_are_counted_until_something_moves(catalog: Catalog) -> None:
    catalog.jobs.add(Job(id="j", kind="train"))
    count = catalog.jobs.count_failure
    assert [count("j", "no memory", 0.2), count("j", "no memory", 0.2), count("j", "no memory", 0.1)] == [
        1,
        2,
        3,
    ]
    assert count("j", "no memory", 0.5) == 1, "it got further"
    assert count("j", "another", 0.5) == 1 and count("j", "another", 0.5) == 2
