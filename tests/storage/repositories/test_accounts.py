"""Studies, votes, audit and classes."""

from dataclasses import replace

import pytest

from dataengine.errors import Conflict, InputRefused, NotFound
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
    first, *_ = catalog.classes.list()
    catalog.classes.change(first, replace(first, name="distorted shape"))
    added = catalog.classes.add("text", "#0072b2")
    names = ("distorted shape", *DEFAULT_CLASSES[1:], "text")
    assert catalog.classes.names() == names and added.value == 4
    for bad in ("text", "TEXT", "", " ", "x" * 61, "a\nb"):
        with pytest.raises(InputRefused):
            catalog.classes.add(bad)
    for color in ("red", "#FFFFFF", "#fff", "#0072b2; x"):
        with pytest.raises(InputRefused, match="colour"):
            catalog.classes.add("another", color)
    assert catalog.classes.names() == names


def test_a_class_moves_and_retires_and_keeps_its_value(catalog: Catalog) -> None:
    third = catalog.classes.list()[2]
    catalog.classes.change(third, replace(third, place=1))
    assert [one.value for one in catalog.classes.list()] == [3, 1, 2]
    assert [one.place for one in catalog.classes.list()] == [1, 2, 3]
    assert catalog.classes.names() == DEFAULT_CLASSES
    for value in (1, 2):
        one = next(each for each in catalog.classes.list() if each.value == value)
        catalog.classes.change(one, replace(one, retired=True))
    assert catalog.classes.names() == DEFAULT_CLASSES
    last = catalog.classes.list()[0]
    with pytest.raises(InputRefused, match="no class to draw"):
        catalog.classes.change(last, replace(last, retired=True))


def test_the_second_of_two_who_rename_one_class_is_told(catalog: Catalog) -> None:
    """Issue 25, bad input: two people renaming one class."""
    seen = catalog.classes.list()[0]
    catalog.classes.change(seen, replace(seen, name="melted"))
    with pytest.raises(Conflict, match="now 'melted'"):
        catalog.classes.change(seen, replace(seen, name="smeared"))
    assert catalog.classes.names()[0] == "melted"
    gone = replace(seen, value=9)
    with pytest.raises(Conflict):
        catalog.classes.change(gone, gone)
