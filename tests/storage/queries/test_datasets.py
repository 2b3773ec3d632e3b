"""What training sets hold and what benchmarks may take, on both databases."""

from dataengine.records import Snapshot, SnapshotItem
from storage.catalog import Catalog
from storage.queries import datasets


def test_the_balance_of_a_training_set(filled: Catalog) -> None:
    items = [
        SnapshotItem(image_id=id, image_sha256="s", kind="true", target=target, category="hand")
        for id, target in (("000", "t"), ("001", None), ("002", None))
    ]
    filled.snapshots.add(Snapshot(id="s", manifest="m", rows=3, composition={}), items)
    assert sorted(datasets.examples_of_snapshot(filled, "s")) == [("hand", False, 2), ("hand", True, 1)]
    real = {id for id, _ in datasets.unlabelled_real(filled)}
    assert real and all(filled.images.get(id).source == "real" for id in real) and "004" not in real


def test_a_benchmark_draws_nothing_that_was_trained_on(filled: Catalog) -> None:
    before = {id for id, *_ in datasets.benchmark_candidates(filled, "new", real=False)}
    chosen = sorted(before)[0]
    filled.snapshots.add(
        Snapshot(id="s", manifest="m", rows=1, composition={}),
        [SnapshotItem(image_id=chosen, image_sha256="s", kind="true", target=None)],
    )
    after = {id for id, *_ in datasets.benchmark_candidates(filled, "new", real=False)}
    assert before - after == {chosen} and not after & {f"{n:03d}" for n in range(6)}
    assert all(filled.images.get(id).split == "train" for id in after)
