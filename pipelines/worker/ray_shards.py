"""Run a stage's shards: in a loop in this process (the default), or on a Ray cluster.

Input: a context, a round, a stage's `run_shard` and its shards. Output: the shards' results, in order. The
stage functions are the same. On Ray actors run them, each with the workspace and the models opened once;
every node must reach the same database and blob store. What is sent are ids, as JSON.
"""

import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from dataengine.errors import ClinicError, ConfigRefused, JobFailed, reason_of
from pipelines.runtime.context import Context, Result
from pipelines.runtime.loading import import_object
from pipelines.runtime.models import Models
from pipelines.runtime.shards import Shard, run_sequentially
from pipelines.worker.child import error_of
from pipelines.worker.config import RayConfig
from pipelines.worker.spreading import Event, spread
from storage.opening import open_workspace

RunShards = Callable[[Context, str, Callable[..., Result], Sequence[Shard]], list[Result]]


def run_on_ray(
    context: Context,
    round_id: str,
    run_shard: Callable[..., Result],
    shards: Sequence[Shard],
    models: str = "pipelines.runtime.models:real_models",
    settings: RayConfig = RayConfig(),
) -> list[Result]:
    """Run shards on Ray actors: on the cluster of `RAY_ADDRESS`, else on this machine.

    Whatever ends it ends its actors. Raises `ConfigRefused` if Ray is not installed or no actor fits, the
    errors of shards, and otherwise as `spreading.spread`.
    """
    ray = _ray()
    if not shards:
        return []
    if not ray.is_initialized():
        _connect(ray)
    wanted = settings.actors or actors_that_fit(
        [node["Resources"] for node in ray.nodes() if node["Alive"]], settings
    )
    place = {
        "path": str(context.workspace.path),
        "database_url": context.workspace.database_url,
        "blob_url": context.workspace.blob_url,
    }
    work = f"{run_shard.__module__}:{run_shard.__qualname__}"
    requests = [as_json({"work": work, "round": round_id, "shard": shard}) for shard in shards]
    actors = RayActors(ray, as_json({"place": place, "models": models}), requests, settings)

    def say(done: int, message: str, figures: Mapping[str, float]) -> None:
        context.report(done, len(shards), message or "shards on Ray", **figures)

    try:
        return spread(actors, len(shards), wanted, settings.ahead, say)
    finally:
        actors.end_all()


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ConfigRefused(
            "the engine `ray` requires the extra `ray`: pip install 'artifact-clinic[ray]'; "
            "or use the engine `local`"
        ) from error
    return ray


def _connect(ray: Any) -> None:
    """Join the cluster that `RAY_ADDRESS` names, or start one of this machine alone."""
    address = os.environ.get("RAY_ADDRESS", "").strip()
    try:
        if address:
            ray.init(address=address, log_to_driver=False)
        else:
            ray.init(log_to_driver=False, include_dashboard=False)
    except Exception as error:
        where = f"the Ray cluster at {address} (RAY_ADDRESS)" if address else "Ray on this machine"
        raise ConfigRefused(
            f"{where} does not answer: {reason_of(error)}. Start it, correct RAY_ADDRESS, or use the engine "
            "`local`"
        ) from error


def actors_that_fit(nodes: Sequence[Mapping[str, float]], settings: RayConfig) -> int:
    """How many actors the nodes' CPUs and GPUs have room for at once. Raises `ConfigRefused` if it is
    none."""
    needs = {"CPU": settings.num_cpus, "GPU": settings.num_gpus}

    def on(node: Mapping[str, float]) -> int:
        # The small amount is for sums of floats such as ten times 0.1.
        return min(int(node.get(kind, 0.0) / need + 1e-6) for kind, need in needs.items() if need)

    if not any(needs.values()):
        return max(1, len(nodes))
    fitting = sum(map(on, nodes))
    if not fitting:
        most = {kind: max((node.get(kind, 0.0) for node in nodes), default=0.0) for kind in needs}
        raise ConfigRefused(
            f"no node of Ray has room for an actor with {settings.num_cpus:g} CPUs and "
            f"{settings.num_gpus:g} GPUs; the largest have {most['CPU']:g} CPUs and {most['GPU']:g} GPUs. "
            "Lower `num_cpus` or `num_gpus`, or give `actors` where the cluster adds nodes by itself"
        )
    return fitting


def as_json(value: dict[str, Any]) -> dict[str, Any]:
    """The same value. Raises `TypeError` if it is anything but JSON, which is all that is sent to a node."""
    if json.loads(json.dumps(value, allow_nan=False)) != value:
        raise TypeError(f"only JSON is sent to a node, not {value!r:.200}")
    return value


class RayActors:
    """`spreading.Actors` on Ray. `opening` and `requests` are JSON: what an actor opens, and the shards."""

    def __init__(
        self, ray: Any, opening: dict[str, Any], requests: Sequence[dict[str, Any]], settings: RayConfig
    ) -> None:
        self.ray, self.opening, self.requests = ray, opening, requests
        self.handles: dict[int, Any] = {}
        self.calls: dict[Any, tuple[int, int | None]] = {}
        """(actor, shard) of each reference that is awaited."""
        self.started = 0
        # A lost actor is replaced by `spread`, which knows what it was doing; Ray's own restarts would not
        # open it again.
        self.actor_class = ray.remote(
            num_cpus=settings.num_cpus, num_gpus=settings.num_gpus, max_restarts=0, max_task_retries=0
        )(ShardActor)

    def start(self) -> int:
        number, self.started = self.started, self.started + 1
        self.handles[number] = handle = self.actor_class.remote()
        self.calls[handle.open.remote(self.opening)] = (number, None)
        return number

    def send(self, actor: int, shard: int) -> None:
        self.calls[self.handles[actor].run.remote(self.requests[shard])] = (actor, shard)

    def wait(self, seconds: float) -> list[Event]:
        ready, rest = self.ray.wait(list(self.calls), timeout=seconds)
        if ready and rest:
            ready += self.ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        answered, lost = [], {}
        for reference in ready:
            actor, shard = self.calls.pop(reference)
            try:
                answered.append(event_of(actor, shard, self.ray.get(reference)))
            except self.ray.exceptions.RayTaskError as error:
                answered.append(Event(actor=actor, shard=shard, error=JobFailed(reason_of(error))))
            except self.ray.exceptions.RayError as error:
                lost[actor] = Event(actor=actor, lost=type(error).__name__)
        return [*answered, *lost.values()]

    def end(self, actor: int) -> None:
        self.calls = {reference: call for reference, call in self.calls.items() if call[0] != actor}
        if (handle := self.handles.pop(actor, None)) is not None:
            self.ray.kill(handle, no_restart=True)

    def end_all(self) -> None:
        for actor in list(self.handles):
            self.end(actor)


def event_of(actor: int, shard: int | None, answer: Mapping[str, Any]) -> Event:
    """What `ShardActor` answered, as an event."""
    if "error" in answer:
        return Event(
            actor=actor,
            shard=shard,
            answer=answer["result"],
            error=error_of(answer["error"]),
            unfit=answer["unfit"],
            message=answer["node"],
        )
    return Event(
        actor=actor,
        shard=shard,
        answer=answer["result"],
        message=answer["message"],
        figures=answer["figures"],
    )


class ShardActor:
    """A process on a node that opens the workspace and the models once, and runs shards one by one.

    Its methods answer with JSON and raise nothing: an error is its kind, its message, the node, whether the
    node is `unfit`, which means that it could not open the workspace or a model, and the result of a shard
    that went on without that model.
    """

    def open(self, opening: dict[str, Any]) -> dict[str, Any]:
        """Open the workspace, and the models on the GPU that Ray gave to this actor, else on the CPU."""
        try:
            models: Models = import_object(opening["models"])(own_device())
            self.unopened = keep_opened(models)
            self.context = Context(open_workspace(**opening["place"]), models, self._report)
        except Exception as error:
            return _error(error, unfit=True)
        return {"result": {}, "message": "", "figures": {}}

    def run(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run one shard."""
        self.message = ""
        self.figures: dict[str, float] = {}
        self.unopened.clear()
        try:
            work = import_object(request["work"])
            result: Result = as_json(work(self.context, request["round"], request["shard"]))
            if self.unopened:
                return _error(self.unopened[-1], unfit=True, result=result)
        except Exception as error:
            return _error(error, unfit=any(error is one for one in self.unopened))
        return {"result": result, "message": self.message, "figures": self.figures}

    def _report(self, done: float, total: int, message: str = "", **figures: float) -> None:
        self.message = message or self.message
        self.figures = {**self.figures, **{name: float(value) for name, value in figures.items()}}


def own_device() -> str:
    """The device of this actor: Ray shows a process only the GPUs that it gave to it."""
    import ray

    return "cuda:0" if ray.get_gpu_ids() else "cpu"


def keep_opened(models: Models) -> list[Exception]:
    """Let each `open_…` method of these models keep what it opened last, for the next shard that asks for the
    same, and leave what it raises in the list that is returned."""
    failed: list[Exception] = []
    kept: dict[str, tuple[Any, Any]] = {}

    def opened(name: str, opens: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        asked = (arguments, named)
        if name in kept and kept[name][0] == asked:
            return kept[name][1]
        kept.pop(name, None)
        try:
            model = opens(*arguments, **named)
        except Exception as error:
            failed.append(error)
            raise
        kept[name] = asked, model
        return model

    for name in dir(models):
        if name.startswith("open_"):
            setattr(models, name, partial(opened, name, getattr(models, name)))
    return failed


def _error(error: Exception, unfit: bool, result: Result | None = None) -> dict[str, Any]:
    own = isinstance(error, ClinicError)
    kind, message = type(error).__name__, str(error) if own else reason_of(error)
    return {
        "error": {"type": kind, "message": message},
        "unfit": unfit,
        "result": result,
        "node": f"node {platform.node()}",
    }


ENGINES: dict[str, Callable[[RayConfig], RunShards]] = {
    "local": lambda settings: run_sequentially,
    "ray": lambda settings: partial(run_on_ray, settings=settings),
}
"""Engines by name, each for its settings."""
