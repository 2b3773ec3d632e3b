"""The inference service: a resident process with the champion (and a segmenter) loaded, for answers while
somebody waits.

A local socket carries length-prefixed JSON and raw arrays, bounded in size; nothing is pickled. The worker
listens and starts the process (`python -m pipelines.inference`) when the first caller comes. No worker:
`ServiceAbsent`.
"""

import argparse
import contextlib
import json
import math
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.errors import ClinicError, InputRefused, ServiceAbsent
from pipelines.devices import machine_folder, try_lock

MAX_HEADER, MAX_ARRAY, MAX_SIDE = 1 << 16, 64 << 20, 4096
DTYPES = ("uint8", "float32")
CALL_SECONDS, READ_SECONDS, IDLE_SECONDS = 60.0, 10.0, 600.0
LENGTH = struct.Struct(">I")


def socket_path(workspace: Path) -> Path:
    """Where the workspace's service listens; short, as the address of a local socket must be."""
    return machine_folder() / f"{sha256(str(workspace.resolve()).encode()).hexdigest()[:16]}.sock"


def send(connection: socket.socket, header: dict[str, Any], array: np.ndarray | None = None) -> None:
    """Write one message: JSON, then the array's bytes if any. Raises `InputRefused` as `receive` does."""
    described = None
    if array is not None:
        described = {"dtype": array.dtype.name, "shape": list(array.shape)}
        size_in_bytes(array.dtype.name, array.shape)
    text = json.dumps({**header, "array": described}).encode()
    connection.sendall(LENGTH.pack(len(text)) + text)
    if array is not None:
        connection.sendall(np.ascontiguousarray(array).tobytes())


def receive(connection: socket.socket) -> tuple[dict[str, Any], np.ndarray | None]:
    """Read one message. Raises `InputRefused` if it is larger or other than agreed, `EOFError` at the end."""
    (length,) = LENGTH.unpack(_exactly(connection, LENGTH.size))
    if length > MAX_HEADER:
        raise InputRefused(f"a message header of {length} bytes; at most {MAX_HEADER} are read")
    header = json.loads(_exactly(connection, length))
    if not isinstance(header, dict):
        raise InputRefused("a message is a JSON object")
    described = header.pop("array", None)
    return header, None if described is None else _array(connection, described)


def _array(connection: socket.socket, described: Any) -> np.ndarray:
    try:
        dtype, shape = described["dtype"], tuple(int(side) for side in described["shape"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputRefused("an array is described by its dtype and shape") from error
    return np.frombuffer(_exactly(connection, size_in_bytes(dtype, shape)), dtype).reshape(shape)


def size_in_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """How long an array is. Raises `InputRefused` for one that no message may carry."""
    if dtype not in DTYPES or len(shape) > 3 or any(not 0 < side <= MAX_SIDE for side in shape):
        raise InputRefused(
            f"an array {dtype} {shape}; expected {' or '.join(DTYPES)}, sides up to {MAX_SIDE}"
        )
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size > MAX_ARRAY:
        raise InputRefused(f"an array of {size} bytes; at most {MAX_ARRAY} are read")
    return size


def _exactly(connection: socket.socket, count: int) -> bytes:
    received = bytearray()
    while len(received) < count:
        part = connection.recv(min(count - len(received), 1 << 20))
        if not part:
            raise EOFError
        received += part
    return bytes(received)


@dataclass(frozen=True)
class Client:
    """Calls the service of a workspace on this machine."""

    workspace: Path
    seconds: float = CALL_SECONDS

    def find_artifacts(self, image: np.ndarray) -> tuple[str, np.ndarray]:
        """The champion's id and its map (uint8 HW) for a uint8 HWC image."""
        header, answer = self._call({"call": "find_artifacts"}, image)
        assert answer is not None
        return header["detector"], answer

    def segment(
        self,
        name: str,
        image: np.ndarray,
        clicks: Sequence[tuple[float, float, bool]],
        box: Sequence[float] | None = None,
    ) -> tuple[float, np.ndarray]:
        """Score and uint8 HW mask of what was clicked on in a uint8 HWC image."""
        request = {"call": "segment", "name": name, "clicks": list(clicks), "box": box and list(box)}
        header, answer = self._call(request, image)
        assert answer is not None
        return header["score"], answer

    def estimate(self, kind: str, settings: dict[str, Any]) -> dict[str, Any]:
        """What a training or treatment with these settings would need (`preflight.estimated`)."""
        header, _ = self._call({"call": "estimate", "kind": kind, "settings": settings})
        return header

    def _call(
        self, request: dict[str, Any], array: np.ndarray | None = None
    ) -> tuple[dict[str, Any], np.ndarray | None]:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(self.seconds)
                connection.connect(str(socket_path(self.workspace)))
                send(connection, request, array)
                header, answer = receive(connection)
        except (OSError, EOFError) as error:
            raise ServiceAbsent(
                "No inference service answers for this workspace; start a worker here: `clinic worker`"
            ) from error
        if "error" in header:
            raise InputRefused(header["error"])
        return header, answer


@contextmanager
def listening(workspace: Path) -> Iterator[socket.socket | None]:
    """The workspace's socket, listening; None if another worker on this machine has it."""
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
    """Answers calls, keeping the champion loaded; a new champion is loaded at the next call."""

    workspace: Any
    tools: Any
    _loaded: str = ""
    _detector: Any = None
    _segmenter: Any = None
    _segmenter_at: str = ""

    def answer(
        self, request: dict[str, Any], array: np.ndarray | None
    ) -> tuple[dict[str, Any], np.ndarray | None]:
        """One call's answer. Raises `InputRefused` for what it does not know."""
        if request.get("call") == "estimate":
            return self._estimate(request), None
        answers = {"find_artifacts": self._artifacts, "segment": self._segment}
        call = answers.get(str(request.get("call")))
        if call is None or array is None:
            raise InputRefused(
                f"the service knows {', '.join(answers)}, each of an image, not {request.get('call')!r}"
            )
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
            raise InputRefused(f"an image is uint8 HWC with three channels, not {array.dtype} {array.shape}")
        return call(request, array)

    def _estimate(self, request: dict[str, Any]) -> dict[str, Any]:
        from pipelines.context import Context
        from pipelines.preflight import estimated

        context = Context(self.workspace, self.tools)
        return estimated(context, str(request.get("kind")), dict(request.get("settings") or {}))

    def _artifacts(self, request: dict[str, Any], image: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
        from dataengine.masks import quantise

        detector_id, detector = self._champion()
        return {"detector": detector_id}, quantise(detector.find_artifacts(image))

    def _segment(self, request: dict[str, Any], image: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
        from dataengine.diagnosis.segmenter import load_segmenter

        with self.workspace.catalog(read_only=True) as catalog:
            found = catalog.endpoints.of_kind("segmenter")
        if not found:
            raise InputRefused("this workspace has no segmenter; an admin can register one")
        location = found[-1].location
        if location != self._segmenter_at:
            self._segmenter = load_segmenter(location, self.tools.device)
            self._segmenter_at = location
        clicks = [(float(x), float(y), bool(inside)) for x, y, inside in request.get("clicks", [])]
        score, mask = self._segmenter.segment(str(request.get("name")), image, clicks, request.get("box"))
        return {"score": score}, mask

    def _champion(self) -> tuple[str, Any]:
        with self.workspace.catalog(read_only=True) as catalog:
            version = catalog.detectors.champion()
        if version is None:
            raise InputRefused("this workspace has no champion detector yet; register one, then promote it")
        if version.id != self._loaded:
            self._detector = self.tools.open_detector(self.workspace.checkpoints.fetch(version.checkpoint))
            self._loaded = version.id
        return self._loaded, self._detector


def serve(listener: socket.socket, service: Service, idle_seconds: float = IDLE_SECONDS) -> None:
    """Answer callers one after another; return when none has come for a while, or the listener was closed."""
    listener.settimeout(0.5)
    last = time.monotonic()
    while time.monotonic() - last < idle_seconds:
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        except OSError:
            return
        with connection, contextlib.suppress(OSError, EOFError):
            connection.settimeout(READ_SECONDS)
            _answer_one(connection, service)
        last = time.monotonic()


def _answer_one(connection: socket.socket, service: Service) -> None:
    try:
        header, array = service.answer(*receive(connection))
    except (ClinicError, ValueError) as error:
        send(connection, {"error": str(error)})
    else:
        send(connection, header, array)


def main(argv: list[str] | None = None) -> None:
    """The child's program; the worker starts it with its listening socket."""
    from pipelines.executor import split_from_minder
    from pipelines.jobs import load
    from storage.workspace import Workspace

    parser = argparse.ArgumentParser(description="internal: the worker starts this")
    parser.add_argument("lifeline", type=int)
    parser.add_argument("events", type=int)
    parser.add_argument("--workspace", required=True)
    parser.add_argument("--tools", required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--socket", type=int, required=True)
    options = parser.parse_args(argv)
    split_from_minder(options.lifeline, keep=options.events)
    service = Service(Workspace.open(options.workspace), load(options.tools)(options.device))
    serve(socket.socket(fileno=options.socket), service)


if __name__ == "__main__":
    main()
