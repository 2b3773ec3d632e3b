"""Search over prompts, on both databases: what it finds, that nothing breaks it, that it stays in step."""

import random
import re
import string
from pathlib import Path

import pytest
from sqlalchemy import update

from dataengine.records import Image
from storage import tables
from storage.catalog import Catalog
from storage.maintenance.erase import erase_images
from storage.prompt_search import Term, parse_search
from storage.queries.images import ImageFilter, conditions_of, count_of_images, page_of_images
from storage.queries.selections import count_of_selection
from storage.workspace import Workspace

PROMPTS = (
    "a red hand",
    "hand-made mug, two hands",
    "No HAND here",
    "Über hand, five fingers",
    "fünf finger",
    "a/b don't",
    "five of my fingers",
    "",
)


def fill(catalog: Catalog, prompts: tuple[str, ...] = PROMPTS) -> None:
    catalog.images.add_many(
        Image(id=str(at), sha256="s", height=1, width=1, prompt=prompt, created=float(at + 1))
        for at, prompt in enumerate(prompts)
    )


def found(catalog: Catalog, text: str, **more: object) -> list[int]:
    """The numbers of the prompts found, which the page, the count and a selection agree on."""
    wanted = ImageFilter(search=text, order="newest", **more)  # type: ignore[arg-type]
    cards = page_of_images(catalog, wanted).cards
    assert len(cards) == count_of_images(catalog, wanted)
    assert len(cards) == count_of_selection(catalog, conditions_of(catalog, wanted))
    return [int(card.id) for card in cards]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("hand", [3, 2, 1, 0]),
        ("HAND red", [0]),
        ('"five fingers"', [3]),
        ("five fingers", [6, 3]),
        ("hand -red", [3, 2, 1]),
        ("-hand", [7, 6, 5, 4]),
        ('-"red hand" -fingers', [7, 5, 4, 2, 1]),
        ("finger*", [6, 4, 3]),
        ("finger", [4]),
        ('"five fing"*', [3]),
        ("über", [3]),
        ("fünf", [4]),
        ("hand-made", [1]),
        ("a/b", [5]),
        ("don't", [5]),
        ("nothing of this", []),
    ],
)
def test_words_phrases_and_exclusions(catalog: Catalog, text: str, numbers: list[int]) -> None:
    """desks 3.4: there was no search by prompt."""
    fill(catalog)
    assert found(catalog, text) == numbers


GARBAGE = (
    *('"', "-", "--", '""', '"""', "*", "-*", "!!!", "(", ")", "'", "\\", "%", "_", "^", ":", "&|!<->"),
    *("a AND OR NOT b", "NEAR(a b, 2)", "prompt:hand", "{prompt}: hand", "'; DROP TABLE images; --", "\x00"),
    *("hand\x00", "hand)", '"hand', "hand:*", "😀", "½", "ﬁ", "\u0301", "x" * 400, " ".join(["a"] * 200)),
)


@pytest.mark.parametrize("text", GARBAGE)
def test_garbage_never_errors_and_finds_nothing_it_should_not(catalog: Catalog, text: str) -> None:
    fill(catalog)
    for number in found(catalog, text):
        words = {word.lower() for word in re.findall(r"[^\W_]+", text)}
        assert words and words <= {word.lower() for word in re.findall(r"[^\W_]+", PROMPTS[number])}


def test_random_texts_never_error(catalog: Catalog) -> None:
    fill(catalog)
    chance = random.Random(0)
    for _ in range(60):
        found(catalog, "".join(chance.choices(string.printable + "äß😀—“”", k=chance.randrange(1, 40))))


def test_random_searches_agree_with_a_plain_matcher(catalog: Catalog) -> None:
    chance, words = random.Random(1), ("red", "blue", "hand", "mug", "tree")
    prompts = tuple(" ".join(chance.choices(words, k=chance.randrange(1, 5))) for _ in range(40))
    fill(catalog, prompts)
    for _ in range(30):
        wanted, unwanted = (
            chance.sample(words, chance.randrange(3)),
            chance.sample(words, chance.randrange(2)),
        )
        phrase = " ".join(chance.choices(words, k=2)) if chance.random() < 0.3 else ""
        text = " ".join([*wanted, *(f"-{word}" for word in unwanted), *([f'"{phrase}"'] if phrase else [])])
        if not text:
            continue
        matching = [
            number
            for number, prompt in enumerate(prompts)
            if set(wanted) <= set(prompt.split())
            and not set(unwanted) & set(prompt.split())
            and f" {phrase} ".replace("  ", " ") in f" {prompt} "
        ]
        assert sorted(found(catalog, text)) == matching, text


def test_a_search_is_a_filter_among_others_and_pages_on(catalog: Catalog) -> None:
    fill(catalog)
    catalog.connection.execute(
        update(tables.images).where(tables.images.c.id == "2").values(status="refused")
    )
    assert found(catalog, "hand") == [3, 1, 0] and found(catalog, "hand", state="refused") == [2]
    for order, numbers in (("newest", ["3", "1", "0"]), ("oldest", ["0", "1", "3"])):
        seen, after = [], None
        for _ in range(4):
            page = page_of_images(catalog, ImageFilter(search="hand", order=order), after, 1)  # type: ignore[arg-type]
            seen += [card.id for card in page.cards]
            after = page.after
            if after is None:
                break
        assert seen == numbers


def test_the_index_follows_the_prompts(catalog: Catalog) -> None:
    fill(catalog)
    images = tables.images
    catalog.connection.execute(update(images).where(images.c.id == "0").values(prompt="a blue foot"))
    assert found(catalog, "red") == [] and found(catalog, "foot") == [0]
    catalog.connection.execute(images.delete().where(images.c.id == "0"))
    assert found(catalog, "foot") == []
    catalog.images.add_many(
        [Image(id="9", sha256="s", height=1, width=1, prompt="the foot again", created=99.0)]
    )
    assert found(catalog, "foot") == [9]


def test_an_erasure_removes_the_words(workspace: Workspace) -> None:
    """The index keeps deleted words until its parts are merged, unless it is told."""
    word = "xylophonist"
    with workspace.catalog() as catalog:
        fill(catalog, (f"a lone {word}", "an orchestra"))
        catalog.commit()
    erase_images(workspace, ["0"], actor="admin")
    with workspace.catalog(read_only=True) as catalog:
        assert found(catalog, word) == [] and found(catalog, "orchestra") == [1]
    if workspace.own_database:
        workspace.close()
        files = [path.read_bytes() for path in Path(workspace.path).glob("catalog.sqlite*")]
        assert not any(word.encode() in body for body in files)
        assert any(b"orchestra" in body for body in files), "the control"


def test_any_text_is_parsed() -> None:
    search = parse_search('hand "five  fingers" -glove -"two hands" paint* hand-made - " -')
    assert search.wanted == (
        Term(("hand",)),
        Term(("five", "fingers")),
        Term(("paint",), beginning=True),
        Term(("hand", "made")),
    )
    assert search.unwanted == (Term(("glove",)), Term(("two", "hands")))
