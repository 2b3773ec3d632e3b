"""What a snapshot published now would hold, compared with the champion's."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from dataengine.records import SnapshotItem
from pipelines.config import PublishConfig
from pipelines.detectors.training_set import build_training_set, count_by_kind
from pipelines.runtime.context import Context
from pipelines.runtime.models import real_models
from storage.workspace import Workspace


def snapshot_preview(workspace: Workspace, publish: PublishConfig) -> dict[str, Any]:
    """What would be published now, by kind and by category, and how it differs from the champion's set.

    The champion's set is that of its own snapshot, or else that of its nearest ancestor with one.
    """
    context = Context(workspace, real_models())
    items = build_training_set(context, publish)
    before = training_set_of_champion(workspace)
    return {
        "rows": len(items),
        "kinds": count_by_kind(items),
        "categories": by_category(items),
        "changes": None if before is None else changes(before, items),
    }


def by_category(items: Iterable[SnapshotItem]) -> list[dict[str, Any]]:
    """Positives and negatives of each category, the largest first."""
    counts: Counter[tuple[str, bool]] = Counter((item.category or "–", item.positive) for item in items)
    rows = [
        {"category": name, "positive": counts[name, True], "negative": counts[name, False]}
        for name in {name for name, _ in counts}
    ]
    return sorted(rows, key=lambda row: (-row["positive"] - row["negative"], row["category"]))


def training_set_of_champion(workspace: Workspace) -> list[SnapshotItem] | None:
    """The training set of the champion, or of its nearest ancestor with a snapshot."""
    with workspace.catalog(read_only=True) as catalog:
        versions = {one.id: one for one in catalog.detectors.list()}
        at = catalog.detectors.champion()
        while at is not None and at.snapshot_id is None:
            at = versions.get(at.parent or "")
        return None if at is None or at.snapshot_id is None else list(catalog.snapshots.items(at.snapshot_id))


def changes(before: Iterable[SnapshotItem], now: Iterable[SnapshotItem]) -> dict[str, int]:
    """How many images are new, gone, or have another target."""
    old, new = ({item.image_id: item.target for item in items} for items in (before, now))
    common = old.keys() & new.keys()
    return {
        "new": len(new.keys() - old.keys()),
        "gone": len(old.keys() - new.keys()),
        "relabelled": sum(old[each] != new[each] for each in common),
        "same": sum(old[each] == new[each] for each in common),
    }
