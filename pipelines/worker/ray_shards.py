"""Run a stage's shards: in a loop in this process (the default), or on a Ray cluster.

Input: a context, a round, a stage's `run_shard` and its shards. Output: the shards' results, in order. The
stage functions are the same. Ray pays off from about 10,000 images per shard.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

from dataengine.errors import ConfigRefused
from pipelines.runtime.context import Context, Result
from pipelines.runtime.shards import Shard, run_sequentially
from storage.opening import open_workspace

RunShards = Callable[[Context, str, Callable[..., Result], Sequence[Shard]], list[Result]]

RAY_SECONDS = 24 * 3600.0
"""Timeout of one shard; a longer one is assumed to have deadlocked."""


def run_on_ray(
    context: Context,
    round_id: str,
    run_shard: Callable[..., Result],
    shards: Sequence[Shard],
    models: str = "pipelines.runtime.models:real_models",
) -> list[Result]:
    """Run shards as Ray tasks; every node must reach the same database and blob store.

    Raises `ConfigRefused` if Ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ConfigRefused(
            "the engine `ray` requires the extra `ray`: pip install 'artifact-clinic[ray]'; "
            "or use the engine `local`"
        ) from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)
    place = {
        "path": str(context.workspace.path),
        "database_url": context.workspace.database_url,
        "blob_url": context.workspace.blob_url,
    }
    name = f"{run_shard.__module__}:{run_shard.__qualname__}"
    remote = ray.remote(_shard_on_node)
    index_of = {
        remote.remote(place, models, name, round_id, shard): index for index, shard in enumerate(shards)
    }
    return _gather(ray, context, index_of)


def _gather(ray: Any, context: Context, index_of: dict[Any, int]) -> list[Result]:
    results: list[Result] = [{}] * len(index_of)
    waiting = list(index_of)
    while waiting:
        ready, waiting = ray.wait(waiting, timeout=1.0)
        for reference in ready:
            results[index_of[reference]] = ray.get(reference, timeout=RAY_SECONDS)
        context.report(len(index_of) - len(waiting), len(index_of), "shards on Ray")
    return results


def _shard_on_node(place: dict[str, str], models: str, name: str, round_id: str, shard: Shard) -> Result:
    from pipelines.runtime.loading import import_object

    context = Context(open_workspace(**place), import_object(models)("cpu"))
    result: Result = import_object(name)(context, round_id, shard)
    return result


ENGINES: dict[str, RunShards] = {"local": run_sequentially, "ray": run_on_ray}
"""Engines by name."""
