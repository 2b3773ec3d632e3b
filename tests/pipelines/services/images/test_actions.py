"""What is done to chosen images: by ids, or to all that match a filter."""

from collections.abc import Sequence

import pytest
from pydantic import ValidationError

from dataengine.errors import ClinicError, Conflict, InputRefused, NotFound
from dataengine.records import DetectorVersion, Image, Label, Prediction, QueueItem, Snapshot, SnapshotItem
from pipelines.selections.config import ImageQuery, ImageSelection
from pipelines.services.images.actions import (
    AssignImages,
    EraseImages,
    SendImages,
    SplitChange,
    TagChange,
    assign_images,
    checked_tag,
    erase_images,
    erasure_of,
    send_images,
    split_images,
    tag_images,
)
from storage.accounts import create_user
from storage.workspace import Workspace


@pytest.fixture
def filled(workspace: Workspace) -> Workspace:
    """Ten images, of two categories; a champion has predicted the first four."""
    with workspace.catalog() as catalog:
        catalog.images.add_many(
            Image(
                id=f"i{at}",
                sha256=f"{at:064x}",
                height=4,
                width=4,
                prompt=f"a hand, number {at}",
                category="hands" if at < 6 else "mugs",
                group=f"g{at // 2}" if at < 4 else "",
                created=float(at + 1),
            )
            for at in range(10)
        )
        catalog.detectors.add(DetectorVersion(id="d", name="first doctor", checkpoint="0"))
        catalog.detectors.promote("d", "test", "the only one")
        catalog.predictions.add_many(
            Prediction(image_id=f"i{at}", detector_id="d", max=at / 10, mean=0.0, uncertainty=0.0)
            for at in range(4)
        )
        create_user(catalog, "ada", "correct horse battery", ["annotator"], "test")
        catalog.commit()
    return workspace


def ids(*names: str) -> ImageSelection:
    return ImageSelection(ids=names)


def matching(**query: object) -> ImageSelection:
    return ImageSelection(images=ImageQuery.model_validate(query))


def tags(workspace: Workspace, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    with workspace.catalog(read_only=True) as catalog:
        return catalog.tags.of(names)


def test_a_selection_names_images_in_one_way() -> None:
    """desks 3.3: nothing must not mean everything."""
    for wrong in ({}, {"ids": ["a"], "images": {}}, {"ids": [str(n) for n in range(5_001)]}):
        with pytest.raises(ValidationError):
            ImageSelection.model_validate(wrong)


def test_tags_by_ids_and_by_filter(filled: Workspace) -> None:
    made = tag_images(filled, TagChange(chosen=ids("i0", "i9"), add=[" to  check ", "odd"]), "ada")
    assert made == {"images": 2, "added": 4, "removed": 0}
    again = tag_images(filled, TagChange(chosen=matching(category="mugs"), add=["odd"]), "ada")
    assert again == {"images": 4, "added": 3, "removed": 0}
    swapped = tag_images(filled, TagChange(chosen=matching(tag="odd"), add=["even"], remove=["odd"]), "ada")
    assert swapped == {"images": 5, "added": 5, "removed": 5}
    found = tags(filled, ["i0", "i1", "i9"])
    assert found == {"i0": ("even", "to check"), "i9": ("even", "to check")}
    with filled.catalog(read_only=True) as catalog:
        assert catalog.tags.counts() == {"even": 5, "to check": 2}
        assert {event.action for event in catalog.audit.list()} >= {"images.tag"}


@pytest.mark.parametrize(
    ("tag", "words"),
    [("x" * 10_000, "at most 64 characters, and this one has 10,000"), ("", "visible"), (" \t", "visible"),
     ("a\x07b", "visible"), ("a\x00", "visible"), ("\u200b", "visible")],
)  # fmt: skip
def test_a_tag_that_is_none_is_refused_in_one_sentence(filled: Workspace, tag: str, words: str) -> None:
    with pytest.raises(InputRefused, match=words) as refused:
        tag_images(filled, TagChange(chosen=ids("i0"), add=[tag]), "ada")
    assert len(str(refused.value)) < 200 and "\n" not in str(refused.value)
    assert checked_tag("é" * 64) == "é" * 64


@pytest.mark.parametrize("chosen", [ids("i0", "gone"), matching(category="spaceship")])
def test_what_is_gone_is_said(filled: Workspace, chosen: ImageSelection) -> None:
    with pytest.raises(NotFound, match="reload the page"):
        tag_images(filled, TagChange(chosen=chosen, add=["odd"]), "ada")
    assert tags(filled, ["i0"]) == {}


def test_sending_leaves_out_what_people_have(filled: Workspace) -> None:
    """desks 3.3: sending worked by category and threshold only."""
    with filled.catalog() as catalog:
        catalog.queue.add_many([QueueItem(image_id="i1", round_id="r")])
        catalog.labels.submit(Label(image_id="i2", author="ada", height=4, width=4, clean=True))
        catalog.connection.exec_driver_sql("UPDATE images SET status = 'refused' WHERE id = 'i9'")
        catalog.commit()
    assert send_images(filled, SendImages(chosen=ids("i9")), "cy")["sent"] == 0
    body = SendImages(chosen=matching(category="hands"), people=["ada"], annotations_per_image=1)
    assert send_images(filled, body, "cy") == {"selected": 6, "sent": 4, "left_out": 2}
    with filled.catalog(read_only=True) as catalog:
        assert set(catalog.assignees.of(["i0", "i3", "i4", "i5"])) == {"i0", "i3", "i4", "i5"}
        assert catalog.queue.sent_by("i3", next(iter(rounds_of(filled)))) == "d"
    with pytest.raises(InputRefused, match="no account 'eve'"):
        send_images(filled, SendImages(chosen=ids("i6"), people=["eve"]), "cy")
    with pytest.raises(InputRefused, match="2 annotators per image are required, and only 1 assigned"):
        send_images(filled, SendImages(chosen=ids("i6"), people=["ada"], annotations_per_image=2), "cy")


def rounds_of(workspace: Workspace) -> set[str]:
    with workspace.catalog(read_only=True) as catalog:
        events = catalog.audit.list(action="queue.send")
    return {event.subject for event in events}


def test_assigning_replaces_who_may_take_what_waits(filled: Workspace) -> None:
    with pytest.raises(Conflict, match="send them first"):
        assign_images(filled, AssignImages(chosen=ids("i0"), people=["ada"]), "cy")
    send_images(filled, SendImages(chosen=ids("i0", "i1")), "cy")
    done = assign_images(filled, AssignImages(chosen=ids("i0", "i1", "i9"), people=["ada"]), "cy")
    assert done == {"selected": 3, "assigned": 2}
    with filled.catalog(read_only=True) as catalog:
        assert catalog.assignees.of(["i0", "i1"]) == {"i0": ("ada",), "i1": ("ada",)}
    assign_images(filled, AssignImages(chosen=ids("i0")), "cy")
    with filled.catalog(read_only=True) as catalog:
        assert catalog.assignees.of(["i0", "i1"]) == {"i1": ("ada",)}


def test_a_split_takes_groups_along_and_leaves_what_was_trained_on(filled: Workspace) -> None:
    with filled.catalog() as catalog:
        catalog.images.set_split([], "train")
        item = SnapshotItem(image_id="i3", image_sha256="3", kind="real", target=None)
        catalog.snapshots.add(Snapshot(id="s", manifest="m", rows=1, composition={}), [item])
        catalog.commit()
    # i0 and i1 are one group; i2 and i3 are another, of which a detector was trained on i3.
    done = split_images(filled, SplitChange(chosen=ids("i0", "i2", "i8"), split="validation"), "cy")
    assert done == {"selected": 3, "moved": 3, "kept": 1}
    with filled.catalog(read_only=True) as catalog:
        assert catalog.images.ids(split="validation") == ["i0", "i1", "i8"]


def test_erasing_shows_first_what_goes(filled: Workspace) -> None:
    chosen = matching(category="mugs")
    assert erasure_of(filled, chosen).images == 4
    with filled.catalog(read_only=True) as catalog:
        assert len(catalog.images.ids()) == 10
    with pytest.raises(Conflict, match="now has 4 images, not 3"):
        erase_images(filled, EraseImages(chosen=chosen, expected=3), "cy")
    assert erase_images(filled, EraseImages(chosen=chosen, expected=4), "cy").images == 4
    with filled.catalog(read_only=True) as catalog:
        assert catalog.images.ids(category="mugs") == []


def test_an_erasure_has_a_bound(filled: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.services.images.actions.MOST_ERASED", 5)
    with pytest.raises(ClinicError, match="at most 5 are erased at once"):
        erasure_of(filled, matching())
