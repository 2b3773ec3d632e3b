"""Erasing an image or a person, on both databases: rows, blobs, shards, and the list of where it went."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dataengine.errors import NotFound
from dataengine.masks import pack_label_map
from dataengine.records import (
    INJECTED,
    AuditEvent,
    CategoryAnswer,
    DetectorVersion,
    GeneratorVersion,
    Image,
    Job,
    Label,
    Prediction,
    PseudoLabel,
    QueueItem,
    Review,
    Session,
    SnapshotItem,
    Study,
    Treatment,
    User,
    Vote,
    digest,
)
from storage.maintenance.erase import Erased, erase_images, erase_person
from storage.tables import metadata
from storage.workspace import Workspace

SIZE = (4, 6)


def picture(number: int) -> bytes:
    import io

    from PIL import Image as Picture

    body = io.BytesIO()
    Picture.new("RGB", SIZE[::-1], (number, 0, 0)).save(body, format="PNG")
    return body.getvalue()


def marks(value: int) -> bytes:
    return pack_label_map(np.full(SIZE, value, np.uint8))


@pytest.fixture
def filled(workspace: Workspace) -> Workspace:
    """d shares the bytes of a; the maps of a, b and c share one pack; Anna and Bob drew on a."""
    blobs = workspace.blobs
    bytes_of = {id: blobs.put(picture(number)) for number, id in enumerate("abc")}
    bytes_of["d"] = bytes_of["a"]
    refs = workspace.maps.put_many([np.full(SIZE, number, np.uint8) for number in range(3)])
    with workspace.catalog() as catalog:
        catalog.images.add_many(
            Image(id=id, sha256=sha256, thumbnail=blobs.put(f"small {id}".encode()), height=4, width=6)
            for id, sha256 in bytes_of.items()
        )
        catalog.images.set_categories(
            CategoryAnswer(image_id=id, model="vqa", category="hand", confidence=1) for id in "abcd"
        )
        catalog.predictions.add_many(
            Prediction(image_id=id, detector_id="first", max=1, mean=0, uncertainty=0, map_ref=ref)
            for id, ref in zip("abc", refs, strict=True)
        )
        catalog.queue.add_many(QueueItem(image_id=id, round_id="r", annotations_per_image=2) for id in "abcd")
        for author in ("anna", "bob"):
            catalog.users.add(User(name=author, roles=("annotator",)), "hash")
            label = Label(
                image_id="a", author=author, height=4, width=6, label_map=blobs.put(marks(1)), round_id="r"
            )
            catalog.labels.submit(label)
        catalog.labels.submit(replace(label, author="anna", label_map=blobs.put(marks(2))))
        catalog.reviews.add(
            Review(image_id="a", author="anna", revision=1, reviewer="bob", verdict="accepted")
        )
        catalog.commit()
    return workspace


def train(workspace: Workspace, *items: SnapshotItem) -> str:
    """A snapshot of the rows, and what is made of it: d1 → d2, treatment t → generator g2 → g3."""
    snapshot = workspace.snapshots.publish(items)
    with workspace.catalog() as catalog:
        for detector in (
            DetectorVersion(id="d1", name="d1", checkpoint="x", snapshot_id=snapshot.id),
            DetectorVersion(id="d2", name="d2", checkpoint="x", parent="d1"),
            DetectorVersion(id="other", name="other", checkpoint="x"),
        ):
            catalog.detectors.add(detector)
        catalog.treatments.add(Treatment(id="t", generator_id="g1", detector_id="d2"))
        catalog.treatments.add(Treatment(id="u", generator_id="g1", detector_id="other"))
        for id, parent, treatment_id in (
            ("g1", None, None),
            ("g2", "g1", "t"),
            ("g3", "g2", None),
            ("g4", "g1", "u"),
        ):
            catalog.generators.add(
                GeneratorVersion(id=id, name=id, location="x", parent=parent, treatment_id=treatment_id)
            )
        catalog.commit()
    return snapshot.id


def row(workspace: Workspace, image_id: str, author: str | None, target: str | None) -> SnapshotItem:
    with workspace.catalog(read_only=True) as catalog:
        sha256 = catalog.images.get(image_id).sha256
    return SnapshotItem(image_id=image_id, image_sha256=sha256, kind="true", target=target, author=author)


def derived(report: Erased) -> Erased:
    """The counts and what was derived, without columns, files and places that keep something."""
    return replace(report, columns={}, files=(), remains=())


def mentions(workspace: Workspace, word: str) -> list[str]:
    """Tables with a row that holds the word."""
    with workspace.catalog(read_only=True) as catalog:
        return [
            table.name
            for table in metadata.sorted_tables
            if any(word in row for row in catalog.connection.execute(table.select()))
        ]


def test_an_image_goes_with_everything_that_hangs_on_it(filled: Workspace) -> None:
    with filled.catalog(read_only=True) as catalog:
        image, label = catalog.images.get("a"), catalog.labels.latest("a", "anna")
        old = [prediction.map_ref for prediction in catalog.predictions.of("first")]
    assert label is not None and label.label_map is not None and image.thumbnail is not None
    report = erase_images(filled, ["a"], actor="root")
    assert derived(report) == Erased(images=1, labels=3, blobs=4), (
        "thumbnail, two label maps and the old pack"
    )
    assert mentions(filled, "a") == []
    assert not filled.blobs.has(image.thumbnail) and not filled.blobs.has(label.label_map)
    assert filled.blobs.has(image.sha256), "d has the same bytes"
    assert old[0] is not None and not filled.blobs.has(old[0].partition(":")[0])
    with filled.catalog(read_only=True) as catalog:
        left = {prediction.image_id: prediction.map_ref for prediction in catalog.predictions.of("first")}
        assert [event.action for event in catalog.audit.list()] == ["erase.images"]
        assert catalog.queue.remaining("r") == 3
    assert set(left) == {"b", "c"}
    for number, id in ((1, "b"), (2, "c")):
        ref = left[id]
        assert ref is not None and (filled.maps.get(ref) == number).all()
    erase_images(filled, ["d"], actor="root")
    assert not filled.blobs.has(image.sha256)


def test_the_frames_of_its_playback_go_with_an_image(filled: Workspace) -> None:
    frames = {id: filled.blobs.put(f"a frame of {id}".encode()) for id in ("a", "b")}
    with filled.catalog() as catalog:
        for id, frame in frames.items():
            result = {"image": id, "steps": [{"clean": frame, "change": None}]}
            catalog.jobs.add(Job(id=f"play {id}", kind="play", args={"image": id}, result=result))
        catalog.commit()
    report = erase_images(filled, ["a"], actor="root")
    assert report.columns["jobs.result"] == 1
    assert not filled.blobs.has(frames["a"]) and filled.blobs.has(frames["b"])
    with filled.catalog(read_only=True) as catalog:
        assert catalog.jobs.get("play a").result == {} and catalog.jobs.get("play b").result


def test_an_unknown_image_stops_the_erasure(filled: Workspace) -> None:
    with pytest.raises(NotFound, match="nothing was erased"):
        erase_images(filled, ["b", "nobody"], actor="root")
    assert "images" in mentions(filled, "b")


def test_where_an_image_went_is_listed_and_stays_listed(filled: Workspace) -> None:
    snapshot = train(filled, row(filled, "a", "anna", None), row(filled, "b", None, None))
    other = filled.snapshots.publish([row(filled, "b", None, None)])
    exported = filled.snapshots.export(snapshot, shard_rows=1).folder
    kept = filled.snapshots.export(other.id, shard_rows=1).folder
    report = erase_images(filled, ["a"], actor="root")
    assert report.snapshots == (snapshot,)
    assert (report.detectors, report.treatments, report.generators) == (("d1", "d2"), ("t",), ("g2", "g3"))
    assert not exported.exists() and kept.is_dir()
    assert len(list((filled.path / "snapshots" / "shards").iterdir())) == 1, "only the shard without it stays"
    with filled.catalog(read_only=True) as catalog:
        assert [found.id for found in catalog.snapshots.containing("a")] == [snapshot]
    again = filled.snapshots.export(snapshot, shard_rows=1)
    assert (again.rows, again.erased) == (1, 1)


def test_a_pack_that_a_snapshot_is_made_of_stays_and_is_named(filled: Workspace) -> None:
    with filled.catalog() as catalog:
        refs = [prediction.map_ref for prediction in catalog.predictions.of("first")]
        assert refs[0] is not None and refs[1] is not None
        pseudo = PseudoLabel(image_id="b", detector_id="first", round_id="r", map_ref=refs[1], max=1)
        catalog.pseudo_labels.add_many([pseudo])
        catalog.commit()
    filled.snapshots.publish([row(filled, "b", None, refs[1])])
    report = erase_images(filled, ["a"], actor="root")
    assert report.packs_kept == (refs[0].partition(":")[0],)
    with filled.catalog(read_only=True) as catalog:
        assert [prediction.map_ref for prediction in catalog.predictions.of("first")] == refs[1:]
    assert (filled.maps.get(refs[1]) == 1).all()


def test_a_person_goes_with_all_they_drew_and_said(filled: Workspace, tmp_path: Path) -> None:
    with filled.catalog() as catalog:
        catalog.sessions.add(Session(token_hash="t", user="anna", csrf="c", created=0, expires=1e12))
        catalog.studies.add(Study(id="s", name="s", before_id="g", after_id="h", pairs=(("a", "b"),)))
        catalog.votes.add(Vote(study_id="s", pair=0, rater="anna", question="quality", choice="tie"))
        catalog.labels.submit(Label(image_id="b", author="bob", height=4, width=6, clean=True))
        catalog.reviews.add(
            Review(image_id="b", author="bob", revision=1, reviewer="anna", verdict="rejected")
        )
        catalog.queue.next("anna", 0.0, 60.0)
        catalog.audit.add(AuditEvent(actor="anna", action="session.open", subject="anna"))
        catalog.jobs.add(Job(id="j", kind="x", requested_by="anna"))
        second = catalog.labels.latest("a", "anna")
        first = catalog.labels.latest("a", "bob")
        catalog.commit()
    assert (
        second is not None
        and second.label_map is not None
        and first is not None
        and first.label_map is not None
    )
    snapshot = train(filled, row(filled, "a", "anna + bob", second.label_map))
    report = erase_person(filled, "anna", actor="root")
    assert derived(report) == Erased(
        labels=2,
        votes=1,
        reviews=1,
        blobs=1,
        snapshots=(snapshot,),
        detectors=("d1", "d2"),
        treatments=("t",),
        generators=("g2", "g3"),
    )
    assert filled.snapshots.present(filled.snapshots.read(snapshot)) == []
    assert filled.snapshots.export(snapshot).erased == 1
    assert not mentions(filled, "anna")
    assert not mentions(filled, "anna + bob")
    (item,) = filled.snapshots.read(snapshot)
    assert item.author is not None and re.fullmatch(r"erased-[0-9a-f]{8} \+ bob", item.author)
    assert not filled.blobs.has(second.label_map)
    assert filled.blobs.has(first.label_map), "Bob drew the same as Anna's first"
    with filled.catalog(read_only=True) as catalog:
        assert [label.author for label in catalog.labels.history("a")] == ["bob"]
        actors = {event.actor for event in catalog.audit.list(action="session.open")}
        assert len(actors) == 1 and actors.pop().startswith("erased-")


def test_an_unknown_person_is_not_found(filled: Workspace) -> None:
    erase_person(filled, "anna", actor="root")
    for name in ("anna", "nobody"):
        with pytest.raises(NotFound, match="no data of a person"):
            erase_person(filled, name, actor="root")


def test_people_may_erase_themselves(filled: Workspace) -> None:
    erase_person(filled, "bob", actor="bob")
    assert mentions(filled, "bob") == []


def inject(workspace: Workspace, id: str, of: str, group: str = "g") -> None:
    with workspace.catalog() as catalog:
        catalog.images.describe(of, group=group)
        sha256, small = (workspace.blobs.put(f"{what} {id}".encode()) for what in ("pixels", "small"))
        settings = {INJECTED: {"of": of, "kind": "warp"}}
        catalog.images.add_many(
            [
                Image(
                    id=id,
                    sha256=sha256,
                    thumbnail=small,
                    height=4,
                    width=6,
                    source=INJECTED,
                    group=group,
                    settings=settings,
                )
            ]
        )
        label_map = workspace.blobs.put(marks(3))
        catalog.labels.submit(
            Label(image_id=id, author=INJECTED, height=4, width=6, label_map=label_map, source=INJECTED)
        )
        catalog.commit()


def test_images_with_an_artifact_injected_into_it_go_with_it(filled: Workspace) -> None:
    """They show the same but for a region; those made of other images of the group stay."""
    for id, of in (("b-1", "b"), ("b-2", "b"), ("c-1", "c")):
        inject(filled, id, of)
    trial = erase_images(filled, ["b"], actor="root", trial=True)
    report = erase_images(filled, ["b"], actor="root")
    assert (trial.images, trial.labels) == (report.images, report.labels) == (3, 2)
    with filled.catalog(read_only=True) as catalog:
        left = [image.id for image in catalog.images.find()]
    assert left == ["a", "c", "c-1", "d"]
    for word in ("b-1", "b-2"):
        assert not mentions(filled, word)


def test_a_killed_erasure_resumes_with_the_injected_ones(
    filled: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = digest("made of b")
    inject(filled, made, "b")
    with filled.catalog(read_only=True) as catalog:
        pixels = catalog.images.get(made).sha256

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("storage.maintenance.erase.delete_unused", killed)
        with pytest.raises(KeyboardInterrupt):
            erase_images(filled, ["b"], actor="root")
    note = filled.path / "note.json"
    note.write_text(f'{{"image": "{made}"}}')
    erase_images(filled, ["b"], actor="root")
    assert not mentions(filled, made) and not filled.blobs.has(pixels)
    assert made not in note.read_text()
