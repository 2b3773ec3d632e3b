"""Models and snapshots: one champion, lineage kept."""

from dataclasses import replace

import pytest
from sqlalchemy import Engine

from dataengine.errors import Conflict, NotFound
from dataengine.records import (
    DetectorVersion,
    Endpoint,
    GeneratorVersion,
    OperatingPoint,
    Snapshot,
    SnapshotItem,
    Treatment,
)
from storage.catalog import Catalog
from tests.storage.builders import at_once, detector


def test_champions_follow_each_other_and_come_back(catalog: Catalog) -> None:
    for id in "abc":
        assert catalog.detectors.add(detector(id)) == 1
    assert catalog.detectors.champion() is None
    with pytest.raises(Conflict, match="no previous champion"):
        catalog.detectors.rollback("root")
    for id in "abc":
        catalog.detectors.promote(id, "root", f"{id} is better")
    catalog.detectors.promote("c", "root", "once more")

    def roles() -> dict[str, str]:
        return {found.id: found.role for found in catalog.detectors.list()}

    assert roles() == {"a": "retired", "b": "retired", "c": "champion"}
    assert catalog.detectors.rollback("root").id == "b"
    assert catalog.detectors.rollback("root").id == "a"
    assert roles() == {"a": "champion", "b": "retired", "c": "retired"}
    with pytest.raises(Conflict, match="no previous champion"):
        catalog.detectors.rollback("root")
    catalog.detectors.promote("c", "root", "again")
    assert catalog.detectors.rollback("root").id == "a"
    events = [(event.action, event.subject) for event in reversed(catalog.audit.list())]
    promoted = [("detector.promote", id) for id in "abc"]
    back = [("detector.rollback", "b"), ("detector.rollback", "a")]
    assert events == [*promoted, *back, ("detector.promote", "c"), ("detector.rollback", "a")]
    with pytest.raises(NotFound, match="no detector 'x'"):
        catalog.detectors.promote("x", "root", "")
    assert catalog.detectors.champion() == replace(
        detector("a"), role="champion", created=catalog.detectors.get("a").created
    )


def test_promotion_is_all_or_nothing(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with Catalog(engine) as catalog:
        catalog.detectors.add(detector("a"))
        catalog.detectors.add(detector("b"))
        catalog.detectors.promote("a", "root", "")
        catalog.commit()

    def lost(*_: object) -> None:
        raise OSError("power is gone")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="power"), Catalog(engine) as catalog:
        patch.setattr("storage.repositories.accounts.Audit.add", lost)
        catalog.detectors.promote("b", "root", "")
    with Catalog(engine) as catalog:
        champion = catalog.detectors.champion()
        assert champion is not None and champion.id == "a"
        assert [event.subject for event in catalog.audit.list()] == ["a"]


def test_there_is_never_a_second_champion(engine: Engine) -> None:
    with Catalog(engine) as catalog:
        for number in range(6):
            catalog.detectors.add(detector(str(number)))
        catalog.commit()
    results = at_once(engine, lambda catalog, number: catalog.detectors.promote(str(number), "root", ""))
    assert all(isinstance(result, DetectorVersion | Conflict) for result in results), results
    with Catalog(engine) as catalog:
        roles = [found.role for found in catalog.detectors.list()]
        assert roles.count("champion") == 1
        with pytest.raises(Conflict):
            catalog.detectors.add(detector("sneaky", role="champion"))


def test_metrics_add_up(catalog: Catalog) -> None:
    catalog.detectors.add(detector("a", metrics={"mse": 1.0}))
    catalog.detectors.record_metrics("a", {"kl": 0.5})
    assert catalog.detectors.get("a").metrics == {"mse": 1.0, "kl": 0.5}
    with pytest.raises(NotFound):
        catalog.detectors.record_metrics("x", {})


def test_generators_treatments_endpoints(catalog: Catalog) -> None:
    generator = GeneratorVersion(id="g", name="tiny", location="folder", settings={"steps": 4})
    assert catalog.generators.add(generator) == 1 and catalog.generators.add(generator) == 0
    assert catalog.generators.get("g") == generator and catalog.generators.list() == [generator]
    treatment = Treatment(id="t", generator_id="g", detector_id="d", config={"rank": 16})
    catalog.treatments.add(treatment)
    catalog.treatments.finish("t", {"kept_step": 3}, "g2")
    assert catalog.treatments.get("t") == replace(treatment, result={"kept_step": 3}, treated_id="g2")
    endpoint = Endpoint(id="e", kind="vqa", name="vqa", location="somewhere")
    catalog.endpoints.add(endpoint)
    assert catalog.endpoints.of_kind("vqa") == [endpoint] and catalog.endpoints.of_kind("llm") == []
    assert catalog.endpoints.remove("e") == 1 and catalog.endpoints.list() == []


def test_snapshots_keep_their_rows_and_know_what_went_in(catalog: Catalog) -> None:
    items = [
        SnapshotItem(image_id="b", image_sha256="sb", kind="true", target="m", author="anna", weight=2.0),
        SnapshotItem(image_id="a", image_sha256="sa", kind="real", target=None, split="validation"),
        SnapshotItem(image_id="c", image_sha256="sc", kind="true", target="n", author="anna + b_b"),
    ]
    first = Snapshot(id="s1", manifest="m1", rows=2, composition={"true": 1, "real": 1}, created=1.0)
    second = Snapshot(id="s2", manifest="m2", rows=1, composition={"real": 1}, parent="s1", created=2.0)
    assert catalog.snapshots.add(first, items) == 1
    assert catalog.snapshots.add(first, items[:1]) == 0
    catalog.snapshots.add(second, items[1:2])
    assert catalog.snapshots.items("s1") == items
    assert catalog.snapshots.get("s1") == first and catalog.snapshots.list() == [first, second]
    assert [found.id for found in catalog.snapshots.containing("a")] == ["s1", "s2"]
    assert [found.id for found in catalog.snapshots.drawn_by("anna")] == ["s1"]
    assert [found.id for found in catalog.snapshots.drawn_by("b_b")] == ["s1"], "merged with Anna's"
    assert not catalog.snapshots.drawn_by("bob") and not catalog.snapshots.drawn_by("b")
    assert catalog.snapshots.containing("x") == []


def test_an_operating_point_is_stored_with_its_detector(catalog: Catalog) -> None:
    point = OperatingPoint(flagged=0.07, component=0.05, rule="f2", flawed=9, clean=8, interval=(0.05, 0.2))
    catalog.detectors.add(detector("a"))
    catalog.detectors.add(replace(detector("b"), operating_point=point))
    assert catalog.detectors.get("a").operating_point is None
    assert catalog.detectors.get("b").operating_point == point
    without = OperatingPoint(reason="every validation image is flawed", flawed=3)
    catalog.detectors.set_operating_point("a", without)
    assert catalog.detectors.get("a").operating_point == without
    catalog.detectors.record_metrics("b", {"validation": {"mse": 0.1}})
    catalog.detectors.promote("b", "root", "")
    assert catalog.detectors.champion().operating_point == point  # type: ignore[union-attr]
    with pytest.raises(NotFound):
        catalog.detectors.set_operating_point("x", point)


def test_a_retired_detector_leaves_the_lists_and_cannot_be_champion(catalog: Catalog) -> None:
    for id in "abc":
        catalog.detectors.add(detector(id))
    catalog.detectors.promote("a", "root", "first")
    with pytest.raises(Conflict, match="is the champion; promote another"):
        catalog.detectors.remove("a", "root", "")
    catalog.detectors.promote("b", "root", "better")
    assert catalog.detectors.remove("a", "root", "old").removed is not None
    catalog.detectors.remove("a", "root", "twice")
    assert [one.id for one in catalog.detectors.offered()] == ["b", "c"]
    assert [one.id for one in catalog.detectors.list()] == ["a", "b", "c"]
    with pytest.raises(Conflict, match="was retired"):
        catalog.detectors.promote("a", "root", "again")
    with pytest.raises(Conflict, match="was retired"):
        catalog.detectors.rollback("root")
    assert catalog.detectors.champion_id() == "b"
    assert catalog.detectors.restore("a", "root").removed is None
    catalog.detectors.restore("a", "root")
    assert catalog.detectors.rollback("root").id == "a"
    events = [(one.action, one.details.get("reason")) for one in reversed(catalog.audit.list())]
    assert events[2:4] == [("detector.retire", "old"), ("detector.restore", None)]
    with pytest.raises(NotFound):
        catalog.detectors.restore("x", "root")
    with pytest.raises(NotFound):
        catalog.detectors.remove("x", "root", "")


def test_a_removed_generator_is_hidden_and_what_refers_to_it_stays(catalog: Catalog) -> None:
    for id, parent in (("base", None), ("treated", "base")):
        catalog.generators.add(GeneratorVersion(id=id, name=id, location="here", parent=parent, created=1.0))
    catalog.generators.remove("base", "root", "its licence ended")
    assert [one.id for one in catalog.generators.offered()] == ["treated"]
    assert (
        catalog.generators.get("treated").parent == "base" and catalog.generators.get("base").name == "base"
    )
    (event,) = catalog.audit.list()
    assert (event.action, event.actor, event.subject) == ("generator.remove", "root", "base")
    assert event.details == {"reason": "its licence ended"}
