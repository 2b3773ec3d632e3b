"""The inference service: a resident process with the champion (and a segmenter) loaded, for interactive
predictions.

The messages are those of `pipelines.services.inference`. The worker listens, and starts the process
(`python -m pipelines.worker.inference_server`) on the first call. Without a worker, calls raise
`ServiceAbsent`.
"""

import argparse
import contextlib
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.errors import ClinicError, InputRefused
from pipelines.runtime.devices import try_lock
from pipelines.services.inference import (
    IDLE_SECONDS,
    READ_SECONDS,
    limit_waiting,
    receive,
    send,
    socket_path,
)


@contextmanager
def listening(workspace: Path) -> Iterator[socket.socket | None]:
    """The workspace's listening socket; None if another worker on this machine holds it."""
    path = socket_path(workspace)
    with path.with_suffix(".lock").open("a") as lock:
        if not try_lock(lock.fileno()):
            yield None
            return
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(path))
            path.chmod(0o600)
            listener.listen(16)
            try:
                yield listener
            finally:
                path.unlink(missing_ok=True)


@dataclass
class Service:
    """Handles calls and keeps the champion loaded; a new champion is loaded on the next call."""

    workspace: Any
    models: Any
    _loaded: str = ""
    _detector: Any = None
    _segmenter: Any = None
    _segmenter_at: str = ""

    def answer(
        self, request: dict[str, Any], array: np.ndarray | None
    ) -> tuple[dict[str, Any], np.ndarray | None]:
        """Handle one call. Raises `InputRefused` for an unknown one."""
        if request.get("call") == "estimate":
            return self._estimate(request), None
        calls = {"find_artifacts": self._artifacts, "segment": self._segment}
        call = calls.get(str(request.get("call")))
        if call is None or array is None:
            raise InputRefused(
                f"unknown call {request.get('call')!r}, or no image; known calls are {', '.join(calls)}"
            )
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
            raise InputRefused(
                f"expected a uint8 HWC image with three channels, got {array.dtype} {array.shape}"
            )
        return call(request, array)

    def _estimate(self, request: dict[str, Any]) -> dict[str, Any]:
        from pipelines.jobs.estimate import estimate_run
        from pipelines.runtime.context import Context

        context = Context(self.workspace, self.models)
        return estimate_run(context, str(request.get("kind")), dict(request.get("settings") or {}))

    def _artifacts(self, request: dict[str, Any], image: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
        from dataengine.masks import quantise

        detector_id, detector = self._champion()
        return {"detector": detector_id}, quantise(detector.find_artifacts(image))

    def _segment(self, request: dict[str, Any], image: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
        from dataengine.diagnosis.segmenter import load_segmenter

        with self.workspace.catalog(read_only=True) as catalog:
            segmenters = catalog.endpoints.of_kind("segmenter")
        if not segmenters:
            raise InputRefused("this workspace has no segmenter; an admin can register one")
        location = segmenters[-1].location
        if location != self._segmenter_at:
            self._segmenter = load_segmenter(location, self.models.device)
            self._segmenter_at = location
        clicks = [(float(x), float(y), bool(inside)) for x, y, inside in request.get("clicks", [])]
        word = str(request.get("word") or "")
        score, mask = self._segmenter.segment(
            str(request.get("name")), image, clicks, request.get("box"), word
        )
        return {"score": score}, mask

    def _champion(self) -> tuple[str, Any]:
        with self.workspace.catalog(read_only=True) as catalog:
            version = catalog.detectors.champion()
        if version is None:
            raise InputRefused("this workspace has no champion detector yet; register one, then promote it")
        if version.id != self._loaded:
            self._detector = self.models.open_detector(self.workspace.checkpoints.fetch(version.checkpoint))
            self._loaded = version.id
        return self._loaded, self._detector


def serve(listener: socket.socket, service: Service, idle_seconds: float = IDLE_SECONDS) -> None:
    """Handle callers one after another; return after `idle_seconds` without one, or if the listener
    closed."""
    listener.settimeout(0.5)
    last = time.monotonic()
    while time.monotonic() - last < idle_seconds:
        try:
            caller, _ = listener.accept()
        except TimeoutError:
            continue
        except OSError:
            return
        with caller, contextlib.suppress(OSError, EOFError):
            limit_waiting(caller, READ_SECONDS)
            with Connection(caller.detach()) as connection:
                _answer_one(connection, service)
        last = time.monotonic()


def _answer_one(connection: Connection, service: Service) -> None:
    try:
        header, array = service.answer(*receive(connection))
    except (ClinicError, ValueError) as error:
        send(connection, {"error": str(error)})
    else:
        send(connection, header, array)


def main(argv: list[str] | None = None) -> None:
    """The program of the inference child; the worker passes it the listening socket."""
    from pipelines.runtime.loading import import_object
    from pipelines.worker.process_group import fork_guarded
    from storage.opening import open_workspace

    parser = argparse.ArgumentParser(description="internal: started by the worker")
    parser.add_argument("lifeline", type=int)
    parser.add_argument("events", type=int)
    parser.add_argument("--workspace", required=True)
    parser.add_argument("--models", required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--socket", type=int, required=True)
    options = parser.parse_args(argv)
    fork_guarded(options.lifeline, keep=options.events)
    service = Service(open_workspace(options.workspace), import_object(options.models)(options.device))
    serve(socket.socket(fileno=options.socket), service)


if __name__ == "__main__":
    main()
