"""What two generators share, and how far a study is, on both databases."""

import pytest
from sqlalchemy import text

from dataengine.records import Image, Invitation, Prompt, Study, Vote
from storage.catalog import Catalog
from storage.engine import make_engine
from storage.migrate import REVISION, migrate, upgrade
from storage.queries.studies import SharedPair, pairs_answered, shared_pairs, study_progress


def drawn(id: str, generator: str, prompt: str, seed: int, **more: object) -> Image:
    values = {"height": 8, "width": 8, "category": "hands", "purpose": "judge", "round_id": "r"} | more
    return Image(id=id, sha256=id, generator_id=generator, prompt=prompt, seed=seed, **values)  # type: ignore[arg-type]


def test_pairs_share_prompt_seed_and_size(catalog: Catalog) -> None:
    catalog.images.add_many(
        [
            drawn("a1", "base", "a hand", 1),
            drawn("b1", "treated", "a hand", 1),
            drawn("b2", "treated", "a hand", 1),
            drawn("a2", "base", "a hand", 2),
            drawn("a3", "base", "a mug", 1, category="mugs", purpose="survey"),
            drawn("b3", "treated", "a mug", 1, category="mugs", purpose="survey"),
            drawn("a4", "base", "a sign", 1),
            drawn("b4", "treated", "a sign", 1, width=16),
            drawn("a6", "base", "a face", 1, category=None),
            drawn("b6", "treated", "a face", 1, category=None),
            drawn("a5", "base", "a tree", 1),
            drawn("b5", "treated", "a tree", 1, status="refused"),
        ]
    )
    hand = SharedPair(before="a1", after="b1", prompt="a hand", seed=1, category="hands", purpose="judge")
    mug = SharedPair(before="a3", after="b3", prompt="a mug", seed=1, category="mugs", purpose="survey")
    catalog.prompts.add_many(
        [Prompt(round_id="r", purpose="judge", index=0, text="a face", category="faces")]
    )
    face = SharedPair(before="a6", after="b6", prompt="a face", seed=1, category="faces", purpose="judge")
    assert shared_pairs(catalog, "base", "treated") == [face, hand, mug]
    assert shared_pairs(catalog, "base", "treated", categories=["faces"]) == [face]
    assert shared_pairs(catalog, "base", "treated", purpose="survey") == [mug]
    assert shared_pairs(catalog, "base", "treated", categories=["hands"]) == [hand]
    assert shared_pairs(catalog, "base", "treated", round_id="other") == []


def test_progress_counts_raters_and_leaves_checks_out(catalog: Catalog) -> None:
    study = Study(id="s", name="s", before_id="g", after_id="h", pairs=(("a", "b"), ("c", "d")))
    catalog.studies.add(study)
    for rater, pair in (("anna", 0), ("anna", 1), ("anna", 2), ("bob", 0)):
        for question in ("quality", "artifacts"):
            catalog.votes.add(Vote(study_id="s", pair=pair, rater=rater, question=question, choice="tie"))
    found = study_progress(catalog, study)
    assert (found.pairs, found.votes, found.raters, found.by_pair) == (2, 6, 2, {0: 2, 1: 1})
    assert pairs_answered(catalog, "s", "anna") == {0, 1, 2} and pairs_answered(catalog, "s", "x") == set()


def test_an_upgrade_keeps_studies_and_votes(database_url: str) -> None:
    engine = make_engine(database_url)
    with engine.begin() as connection:
        upgrade(connection, "0003")
        connection.execute(
            text(
                "INSERT INTO studies VALUES ('old', 'o', 'g', 'h', '[[\"a\", \"b\"]]', 7, 'open', NULL, 1.0)"
            )
        )
        connection.execute(text("INSERT INTO votes VALUES ('old', 0, 'ann', 'quality', 'after', 2.0, 1.0)"))
    migrate(engine)
    with Catalog(engine, read_only=True) as catalog:
        study = catalog.studies.get("old")
        votes = catalog.votes.of_study("old")
    assert (study.pairs, study.design, study.created_by) == ((("a", "b"),), {}, "")
    assert [vote.choice for vote in votes] == ["after"]
    assert REVISION >= "0004"
    engine.dispose()


@pytest.mark.parametrize("places", [1, 2])
def test_an_invitation_has_its_places_and_its_end(catalog: Catalog, places: int) -> None:
    catalog.studies.add(Study(id="s", name="s", before_id="g", after_id="h"))
    catalog.invitations.add(
        Invitation(token_hash="t", study_id="s", created_by="boss", expires=100.0, places=places)
    )
    assert [catalog.invitations.take("t", 50.0) for _ in range(3)] == [True] * places + [False] * (3 - places)
    assert not catalog.invitations.take("other", 50.0)
    assert catalog.invitations.end("s", 60.0) == 1 and catalog.invitations.end("s", 70.0) == 0
    assert catalog.invitations.find("t") == catalog.invitations.of_study("s")[0]
