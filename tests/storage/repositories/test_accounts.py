"""Studies, votes, audit and classes."""

from dataclasses import replace

import pytest

from dataengine.errors import InputRefused, NotFound
from dataengine.records import DEFAULT_CLASSES, AuditEvent, Study, Vote
from storage.catalog import Catalog


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
