"""Client of the inference server: interactive predictions without torch in this process."""

import json
import math
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.errors import InputRefused, ServiceAbsent
from pipelines.runtime.devices import machine_folder
from storage.workspace import Workspace

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


def find_artifacts(workspace: Workspace, image: "np.ndarray") -> "tuple[str, np.ndarray]":
    """The champion's id and its map (uint8 HW, 255 is certain) for a uint8 HWC image, from the inference
    service.

    Raises `ServiceAbsent` when no worker offers it on this machine.
    """
    return Client(workspace.path).find_artifacts(image)


def segment(
    workspace: Workspace,
    name: str,
    image: "np.ndarray",
    clicks: "Sequence[tuple[float, float, bool]]",
    box: "Sequence[float] | None" = None,
) -> "tuple[float, np.ndarray]":
    """Score and mask (uint8 HW, 0 or 1) of what was clicked on in a uint8 HWC image, from the inference
    service; `name` is what its embedding is kept under.

    Raises `ServiceAbsent` when no worker offers it on this machine, `InputRefused` without a segmenter.
    """
    return Client(workspace.path).segment(name, image, clicks, box)


def estimate(workspace: Workspace, kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What a run of kind "train" or "treat" would need, from the inference service: bytes, seconds, verdict.

    Raises `ServiceAbsent` when no worker offers it on this machine, `InputRefused` for what cannot be loaded.
    """
    return Client(workspace.path).estimate(kind, settings)
