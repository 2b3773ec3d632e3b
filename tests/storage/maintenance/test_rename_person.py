"""A person is renamed wherever the catalog names them, and nobody else is."""

import pytest
from sqlalchemy import func, select

from dataengine.errors import Conflict, InputRefused, NotFound
from dataengine.records import BenchmarkItem, Image, Label, Review, Study, Vote
from dataengine.records.datasets import label_by
from storage import accounts
from storage.catalog import Catalog
from storage.maintenance.erase_rows import column_of
from storage.maintenance.rename_person import NAMING, rename_person
from storage.queries.people import WorkDone, work_by_person

PASSWORD = "correct horse battery"


@pytest.fixture
def busy(catalog: Catalog) -> Catalog:
    """Two people with labels, reviews of each other, comments, votes and sessions."""
    catalog.images.add_many([Image(id=id, sha256=id, height=1, width=1) for id in "ab"])
    for name in ("ada", "ben"):
        accounts.create_user(catalog, name, PASSWORD, ["annotator", "admin"], "root")
        accounts.sign_in(catalog, name, PASSWORD)
        for id in "ab":
            catalog.labels.submit(Label(image_id=id, author=name, height=1, width=1, clean=True))
        catalog.comments.add("a", name, "by ada and ben")
    for author, reviewer in (("ada", "ben"), ("ben", "ada")):
        catalog.reviews.add(
            Review(image_id="a", author=author, revision=1, reviewer=reviewer, verdict="accepted")
        )
    catalog.studies.add(Study(id="s", name="s", before_id="g", after_id="h", pairs=(("a", "b"),), seed=1))
    catalog.votes.add(Vote(study_id="s", pair=0, rater="ada", question="quality", choice="after"))
    return catalog


def rows_of(catalog: Catalog, name: str) -> dict[str, int]:
    """How many rows name a person, by column."""
    counts = {
        place: catalog.connection.scalar(select(func.count()).where(column_of(place) == name)) or 0
        for place in NAMING
    }
    return {place: count for place, count in counts.items() if count}


def test_everything_goes_along(busy: Catalog) -> None:
    before, others = rows_of(busy, "ada"), rows_of(busy, "ben")
    assert {"labels.author", "reviews.author", "reviews.reviewer", "votes.rater", "sessions.user"} <= set(
        before
    )
    rename_person(busy, "ada", "ada.lovelace", "root")
    assert rows_of(busy, "ada") == {} and rows_of(busy, "ada.lovelace") == before
    assert rows_of(busy, "ben") == others
    token, _ = accounts.sign_in(busy, "ada.lovelace", PASSWORD)
    assert accounts.session_of(busy, token)
    event = busy.audit.list(action="user.rename")[0]
    assert (event.subject, event.details) == ("ada.lovelace", {"before": "ada"})
    assert busy.comments.of_image("a")[0].text == "by ada and ben"


def test_true_labels_say_whose_they_are_by_todays_name(busy: Catalog) -> None:
    items = [BenchmarkItem(image_id=id, stratum="hand") for id in "ab"]
    draft = busy.benchmarks.draft("hands", items, "ben").id
    for id, name in zip("ab", ("ada", "ben"), strict=True):
        busy.benchmarks.settle(draft, id, None, "ada", label_by(name))
    rename_person(busy, "ada", "ada.lovelace", "root")
    settled = {item.image_id: (item.settled_by, item.how) for item in busy.benchmarks.items(draft)}
    assert settled == {
        "a": ("ada.lovelace", "ada.lovelace's label"),
        "b": ("ada.lovelace", "ben's label"),
    }


def test_names_that_are_taken_or_invalid_are_refused(busy: Catalog) -> None:
    accounts.remove_user(busy, "ben", "root")  # the labels stay, so the name stays taken
    for name, error in (("ben", Conflict), ("ada", Conflict), ("a b", InputRefused), ("", InputRefused)):
        with pytest.raises(error):
            rename_person(busy, "ada", name, "root")
    with pytest.raises(NotFound):
        rename_person(busy, "nobody", "somebody", "root")
    assert "labels.author" in rows_of(busy, "ada")


def test_work_is_counted_by_person(busy: Catalog) -> None:
    """desks 6.2: no work done."""
    assert work_by_person(busy) == {
        "ada": WorkDone(labels=2, reviews=1, votes=1),
        "ben": WorkDone(labels=2, reviews=1),
    }
    assert work_by_person(busy).get("root") is None
