"""Wait for labels: the round waits here until annotators have answered.

Input: the round's queue. Output: how many images are answered, or `Waiting`, which sets the round to
waiting; workers check again regularly. Cost: one count.
"""

import math

from pipelines.runtime.context import Context, Result, Waiting
from pipelines.runtime.failpoint import fail_point
from pipelines.runtime.round_data import recipe_of
from pipelines.stages.stage import Stage


def wait_for_labels(context: Context, round_id: str) -> Result | Waiting:
    """Finish once the required share of the queue is answered."""
    with context.workspace.catalog(read_only=True) as catalog:
        answered, remaining = catalog.queue.done(round_id), catalog.queue.remaining(round_id)
        labels = catalog.labels.of_round(round_id)
    total = answered + remaining
    needed = math.ceil(recipe_of(context, round_id).wait_for_labels.share * total) - answered
    fail_point("wait_for_labels:counted")
    if needed > 0:
        context.report(answered, total, f"{needed} images waiting for annotators")
        return Waiting(f"{needed} of {total} images are waiting for labels at /annotate", needed)
    return {
        "answered": answered,
        "labels": len(labels),
        "clean": sum(label.clean for label in labels),
        "authors": len({label.author for label in labels}),
        "median_lead_seconds": _median([label.lead_seconds for label in labels]),
    }


def _median(values: list[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if ordered else 0.0


STAGE = Stage(
    name="wait_for_labels",
    title="wait for labels",
    part="detector",
    section="wait_for_labels",
    takes="images selected for annotators",
    found=lambda result: (
        f"{result['labels']} labels by {result['authors']} "
        f"{'person' if result['authors'] == 1 else 'people'}, {result['clean']} of them clean"
    ),
    work=wait_for_labels,
    people=True,
)
