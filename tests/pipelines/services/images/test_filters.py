"""A selection is written as it stands in the address of the Curate page."""

import pytest

from dataengine.errors import InputRefused
from pipelines.selections.config import ImageQuery
from pipelines.services.images.filters import parse_query
from storage.queries.images import ImageFilter


@pytest.mark.parametrize(
    ("words", "query"),
    [
        ([], ImageQuery()),
        (["source=imported"], ImageQuery(source="imported")),
        (["source=imported", "category=hand"], ImageQuery(source="imported", category="hand")),
        (["source=imported&category=hand"], ImageQuery(source="imported", category="hand")),
        (["category=open%20hand"], ImageQuery(category="open hand")),
        (["category=open hand"], ImageQuery(category="open hand")),
        (["category=größe"], ImageQuery(category="größe")),
        (["ids=3f2c,9a01"], ImageQuery(ids=("3f2c", "9a01"))),
        (["tag=to check", "search=hand -glove"], ImageQuery(tag="to check", search="hand -glove")),
        (["low=0.5", "high=0.9"], ImageQuery(low=0.5, high=0.9)),
        (["class=2"], ImageQuery.model_validate({"class": 2})),
        (
            ["http://127.0.0.1:7860/curate?view=images&split=train&sort=max"],
            ImageQuery(split="train"),
        ),
        (["?state=unlabelled&after=0.5:abc&limit=20"], ImageQuery(state="unlabelled")),
    ],
)
def test_reads_words_and_links(words: list[str], query: ImageQuery) -> None:
    assert parse_query(words) == query


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["categry=hand"], "no 'categry' to select by; choose from category, generator"),
        (["hand"], "'hand' is no selection of images; expected NAME=VALUE"),
        ([""], "is no selection of images"),
        (["split=training"], "split=training: Input should be"),
        (["low=2"], "low=2: Input should be less than or equal to 1"),
        (["class=zero"], "class=zero"),
        (["split=train", "split=validation"], "split is given twice"),
        (["state=refused"], "refused images are not worked on"),
        (["category=" + "x" * 300], "category=xxx"),
    ],
)
def test_names_what_is_wrong(words: list[str], reason: str) -> None:
    with pytest.raises(InputRefused, match=reason):
        parse_query(words)


def test_every_part_reaches_the_catalog() -> None:
    words = "category=c&generator=g&detector=d&low=0.1&high=0.9&class=3&state=waiting&split=train"
    query = parse_query([words + "&source=real&round=r"])
    assert query.filter("max") == ImageFilter(
        category="c",
        generator_id="g",
        detector_id="d",
        lowest=0.1,
        highest=0.9,
        label_class=3,
        state="waiting",
        split="train",
        source="real",
        round_id="r",
        order="max",
    )
    assert parse_query([query.in_words()]) == query
    assert ImageQuery.model_validate(query.model_dump(mode="json")) == query
