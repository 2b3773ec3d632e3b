"""The program inside the worker's child: reads tasks, runs them, tells how it goes; ends when its worker
ends.

`python -m pipelines.executor LIFELINE EVENTS --workspace DIR …`. The process splits in two before anything
heavy is imported. The first half, the minder, leads the process group and does nothing but watch the
lifeline, a pipe whose other end only the worker holds: when the worker dies, however it dies, the minder
kills the whole group, itself included. It works while the second half is deep inside native code, and for its
children too.
"""

import argparse
import ctypes
import json
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from dataengine.errors import Cancelled

PR_SET_PDEATHSIG = 1


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="internal: the worker starts this")
    parser.add_argument("lifeline", type=int)
    parser.add_argument("events", type=int)
    parser.add_argument("--workspace", required=True)
    parser.add_argument("--tools", required=True)
    parser.add_argument("--stages", required=True)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(argv)
    split_from_minder(options.lifeline, keep=options.events)

    from pipelines.jobs import Runner

    runner = Runner.open(options.workspace, tools=options.tools, stages=options.stages, device=options.device)
    serve(options.events, runner.run)


def split_from_minder(lifeline: int, keep: int) -> None:
    """Fork: the caller returns in the half that works; the other half minds and never returns."""
    minder = os.getpid()
    child = os.fork()
    if child:
        os.close(keep)
        os.close(0)
        mind(lifeline, child)
    os.close(lifeline)
    die_with_parent()
    if os.getppid() != minder:  # it went before we asked to be told
        os._exit(1)


def mind(lifeline: int, child: int) -> NoReturn:
    """Kill the group when the lifeline closes; end as the child ended, taking what it left behind along."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        closed, _, _ = select.select([lifeline], [], [], 0.1)
        if closed:
            os.killpg(0, signal.SIGKILL)
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            leave_no_child(128 - code if code < 0 else code)


def leave_no_child(code: int) -> NoReturn:
    """Ask what is left of the group to end, then exit; the worker kills the rest of the group."""
    os.killpg(0, signal.SIGTERM)
    os._exit(code)


def die_with_parent() -> None:
    """Linux only, and only an extra: the kernel kills this process when its parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def serve(
    events: int, run: Callable[[dict[str, Any], Callable[[dict[str, Any]], None]], dict[str, Any]]
) -> None:
    """Answer one task per line of standard input until it ends."""

    def send(event: dict[str, Any]) -> None:
        line = json.dumps(event, allow_nan=False).encode() + b"\n"
        while line:
            line = line[os.write(events, line) :]

    def stop(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Cancelled("stopped as asked")

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for line in sys.stdin.buffer:
            send(answer(json.loads(line), run, send))
    except Cancelled:
        sys.exit(128 + signal.SIGTERM)


def answer(
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
