"""A worker in this process: a thread that runs the jobs that a page asks for, with real models on the CPU."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dataengine.errors import ClinicError
from dataengine.records import WorkerBeat
from pipelines.runtime.context import Context
from pipelines.runtime.models import Models, real_models
from pipelines.worker.handlers import handler_of
from storage.workspace import Workspace

WORKER = "hands"


@contextmanager
def working(workspace: Workspace, models: Callable[[str], Models] = real_models) -> Iterator[None]:
    """Run queued jobs while the block runs, one at a time, without the seconds that a process takes."""
    ended = threading.Event()
    context = Context(workspace, models("cpu"))

    def run(job_id: str) -> None:
        with workspace.catalog() as catalog:
            catalog.jobs.claim(job_id, WORKER)
            job = catalog.jobs.get(job_id)
            catalog.commit()
        try:
            end = {"state": "succeeded", "result": handler_of(job.kind)(context, job.args)}
        except ClinicError as error:
            end = {"state": "failed", "error": str(error)}
        with workspace.catalog() as catalog:
            catalog.jobs.finish(job_id, **end)  # type: ignore[arg-type]
            catalog.commit()

    def work() -> None:
        while not ended.wait(0.05):
            with workspace.catalog() as catalog:
                catalog.workers.beat(WorkerBeat(id=WORKER, host="test", pid=1))
                queued = catalog.jobs.list(states=("queued",))
                catalog.commit()
            for job in reversed(queued):
                run(job.id)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(30)
