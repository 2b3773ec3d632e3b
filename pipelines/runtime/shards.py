"""Shards of a stage's work, run sequentially."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pipelines.runtime.context import Context, Result

Shard = dict[str, Any]
"""A part of a stage's work, as JSON: ids and positions only."""


def shard_bounds(count: int, size: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of consecutive parts of at most `size`."""
    return ((start, min(start + size, count)) for start in range(0, count, size))


def run_sequentially(
    context: Context, round_id: str, run_shard: Callable[..., Result], shards: Sequence[Shard]
) -> list[Result]:
    """Run shards in this process, one after another, with one progress bar for all."""
    results = []
    for index, shard in enumerate(shards):
        part = Context(context.workspace, context.models, _part(context, index, len(shards)))
        results.append(run_shard(part, round_id, shard))
    return results


def _part(context: Context, index: int, shards: int) -> Any:
    def report(done: float, total: int, message: str = "", **figures: float) -> None:
        context.report(index * 1000 + 1000 * done // max(total, 1), shards * 1000, message, **figures)

    return report
