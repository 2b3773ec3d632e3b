"""From a treated generator back to every label, on both databases."""

import pytest

from dataengine.errors import NotFound
from dataengine.records import (
    AND,
    DetectorVersion,
    GeneratorVersion,
    Image,
    Label,
    Snapshot,
    SnapshotItem,
    Treatment,
)
from storage import accounts
from storage.catalog import Catalog
from storage.maintenance.rename_person import rename_person
from storage.queries.lineage import UsedLabel, labels_under, lineage, snapshots_under


def label(image: str, author: str, created: float, label_map: str | None = None) -> Label:
    clean = label_map is None
    return Label(
        image_id=image, author=author, height=4, width=4, label_map=label_map, clean=clean, created=created
    )


def row(image: str, target: str | None, author: str | None, kind: str = "true") -> SnapshotItem:
    return SnapshotItem(image_id=image, image_sha256=image, kind=kind, target=target, author=author)  # type: ignore[arg-type]


@pytest.fixture
def chain(catalog: Catalog) -> Catalog:
    """A generator treated twice; the first detector rests on labels, one of them merged of two people's."""
    catalog.images.add_many(Image(id=id, sha256=id, height=4, width=4) for id in "abcd")
    catalog.labels.submit(label("a", "ann", 1.0, "old"))
    catalog.labels.submit(label("a", "ann", 2.0, "drawn"))
    catalog.labels.submit(label("a", "ann", 90.0, "later"))
    catalog.labels.submit(label("b", "ben", 3.0))
    catalog.labels.submit(label("c", "ann", 4.0, "c1"))
    catalog.labels.submit(label("c", "ben", 5.0, "c2"))
    catalog.labels.submit(label("c", "ben", 95.0, "c3"))
    rows = [row("a", "drawn", "ann"), row("b", None, "ben"), row("c", "merged", f"ann{AND}ben")]
    rows += [row("d", "map", None, "pseudo"), row("gone", "map", "cyd", "previous")]
    catalog.snapshots.add(Snapshot(id="s", manifest="m", rows=5, composition={}, created=10.0), rows)
    catalog.detectors.add(DetectorVersion(id="first", name="first", checkpoint="c"))
    catalog.detectors.add(
        DetectorVersion(id="second", name="second", checkpoint="c", parent="first", snapshot_id="s")
    )
    catalog.generators.add(GeneratorVersion(id="base", name="base", location="x"))
    for id, parent, treatment in (("g1", "base", "t1"), ("g2", "g1", "t2")):
        catalog.treatments.add(
            Treatment(id=treatment, generator_id=parent, detector_id="second", treated_id=id)
        )
        catalog.generators.add(
            GeneratorVersion(id=id, name=id, location="x", parent=parent, treatment_id=treatment)
        )
    return catalog


def test_the_chain_has_every_treatment_detector_and_training_set(chain: Catalog) -> None:
    steps, base = lineage(chain, "g2")
    assert [step.generator.id for step in steps] == ["g2", "g1"] and base.id == "base"
    assert [one.detector.id for one in steps[0].detectors] == ["second", "first"]
    found = steps[0].detectors[0].trained_on
    assert found is not None and found.kinds == {"previous": 1, "pseudo": 1, "true": 3}
    assert found.authors == {"ann": 2, "ben": 2, "cyd": 1}
    assert steps[0].detectors[1].trained_on is None
    assert snapshots_under(steps) == ["s"], "each once"
    assert lineage(chain, "base") == ([], chain.generators.get("base"))
    with pytest.raises(NotFound):
        lineage(chain, "other")


def test_merged_labels_carry_todays_name_of_their_author(chain: Catalog) -> None:
    """A renamed person's labels looked erased, since training sets named them as before."""
    before = {(one.image_id, one.author): one for one in labels_under(chain, ["s"])}
    accounts.create_user(chain, "ann", "correct horse battery", ["annotator"], "root")
    rename_person(chain, "ann", "ann.other", "root")
    after = {(one.image_id, one.author): one for one in labels_under(chain, ["s"])}
    for image in "ac":
        was, one = before[image, "ann"], after[image, "ann.other"]
        assert (one.revision, one.created) == (was.revision, was.created) != (None, None)
    assert before.keys() - after.keys() == {("a", "ann"), ("c", "ann")} and len(after) == len(before)
    found = lineage(chain, "g2")[0][0].detectors[0].trained_on
    assert found is not None and found.authors == {"ann.other": 2, "ben": 2, "cyd": 1}
    assert [one.id for one in chain.snapshots.drawn_by("ann.other")] == ["s"], "for an erasure"
    assert not chain.snapshots.drawn_by("ann")


def test_every_label_is_the_revision_that_went_in(chain: Catalog) -> None:
    found = {(one.image_id, one.author): one for one in labels_under(chain, ["s"])}
    assert len(found) == 5
    drawn = found["a", "ann"]
    assert (drawn.revision, drawn.created, drawn.clean) == (2, 2.0, False), "by the map, not the newest"
    assert found["b", "ben"].clean and found["b", "ben"].revision == 1
    assert (found["c", "ann"].revision, found["c", "ben"].revision) == (1, 1), (
        "what the merged one was made of"
    )
    assert found["gone", "cyd"] == UsedLabel(
        snapshot_id="s",
        image_id="gone",
        kind="previous",
        author="cyd",
        revision=None,
        created=None,
        clean=False,
    )
