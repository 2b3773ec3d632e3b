"""The program of the worker's child: reads tasks, runs them, reports progress; exits when its worker dies.

`python -m pipelines.worker.child_main LIFELINE EVENTS --workspace DIR …`. The process forks before anything
heavy is imported. The parent, the guard, leads the process group and only watches the lifeline, a pipe whose
other end only the worker holds: when the worker dies, for whatever reason, the guard kills the whole group,
itself included. This works even while the forked process runs native code, and includes its own children.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from dataengine.errors import Cancelled
from pipelines.worker.process_group import fork_guarded

if TYPE_CHECKING:
    from pipelines.worker.task_runner import Runner


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="internal: started by the worker")
    parser.add_argument("lifeline", type=int)
    parser.add_argument("events", type=int)
    parser.add_argument("--workspace", required=True)
    parser.add_argument("--models", required=True)
    parser.add_argument("--stages", required=True)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(argv)
    fork_guarded(options.lifeline, keep=options.events)

    @cache
    def runner() -> "Runner":
        """Opened by the first task, to which it then answers with the error of a workspace that fails."""
        from pipelines.worker.task_runner import Runner

        return Runner.open(
            options.workspace, models=options.models, stages=options.stages, device=options.device
        )

    serve(options.events, lambda task, send: runner().run(task, send))


def serve(
    events: int, run: Callable[[dict[str, Any], Callable[[dict[str, Any]], None]], dict[str, Any]]
) -> None:
    """Run one task per line of standard input until it is closed."""

    def send(event: dict[str, Any]) -> None:
        line = json.dumps(event, allow_nan=False).encode() + b"\n"
        while line:
            line = line[os.write(events, line) :]

    def stop(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Cancelled("cancelled on request")

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for line in sys.stdin.buffer:
            send(run_request(json.loads(line), run, send))
    except Cancelled:
        sys.exit(128 + signal.SIGTERM)


def run_request(
    request: dict[str, Any],
    run: Callable[[dict[str, Any], Callable[[dict[str, Any]], None]], dict[str, Any]],
    send: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    try:
        return {"event": "done", "result": run(request, send)}
    except Cancelled:
        raise
    except Exception as error:
        return {"event": "error", "type": type(error).__name__, "message": str(error)}


if __name__ == "__main__":
    main()
