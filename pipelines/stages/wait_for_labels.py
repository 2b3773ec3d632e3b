"""Wait for labels: a round rests here until people have answered.

Input: the round's queue. Output: how many images are answered, or `Waiting`, which leaves the round asleep
in its row; whoever sweeps the rounds asks again. Cost: one count.
"""

import math

from pipelines.runtime.context import Context, Result, Waiting
from pipelines.runtime.failpoint import fail_point
from pipelines.runtime.round_data import recipe_of
from pipelines.stages.stage import Stage


def wait_for_labels(context: Context, round_id: str) -> Result | Waiting:
    """Go on when the wanted share of the queue is answered."""
    with context.workspace.catalog(read_only=True) as catalog:
        answered, remaining = catalog.queue.done(round_id), catalog.queue.remaining(round_id)
        labels = catalog.labels.of_round(round_id)
    total = answered + remaining
    needed = math.ceil(recipe_of(context, round_id).wait_for_labels.share * total) - answered
    fail_point("wait_for_labels:counted")
    if needed > 0:
        context.report(answered, total, f"{needed} images wait for people")
        return Waiting(f"{needed} of {total} images still wait for people at /annotate", needed)
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
    title="people label",
    part="detector",
    section="wait_for_labels",
    takes="the images chosen for people",
    found=lambda result: (
        f"{result['labels']} labels by {result['authors']} people, {result['clean']} of them clean"
    ),
    work=wait_for_labels,
    people=True,
)
