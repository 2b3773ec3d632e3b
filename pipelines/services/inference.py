"""Client of the inference server: interactive predictions without torch in this process.

Messages travel over a local socket as `multiprocessing.connection` frames them: one JSON header, then the
bytes of an array if the header describes one. Sizes are bounded before they are read, waiting is limited,
and nothing is pickled (`send_bytes` and `recv_bytes` alone).
"""

import json
import math
import socket
import struct
from collections.abc import Sequence
from hashlib import sha256
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.diagnosis.segmenter import segmenter_type
from dataengine.errors import InputRefused, ModelRefused, ServiceAbsent
from pipelines.runtime.devices import machine_folder
from storage.catalog import Catalog
from storage.workspace import Workspace

MAX_HEADER, MAX_ARRAY, MAX_SIDE = 1 << 16, 64 << 20, 4096
DTYPES = ("uint8", "float32")
CALL_SECONDS, READ_SECONDS, IDLE_SECONDS = 60.0, 10.0, 600.0


def socket_path(workspace: Path) -> Path:
    """The socket path of the workspace's service; short, because socket paths are limited."""
    return machine_folder() / f"{sha256(str(workspace.resolve()).encode()).hexdigest()[:16]}.sock"


def limit_waiting(local: socket.socket, seconds: float) -> None:
    """Let the kernel fail a connect, read or write of this socket (`OSError`) that blocks for so long."""
    timeval = struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        local.setsockopt(socket.SOL_SOCKET, option, timeval)


def send(connection: Connection, header: dict[str, Any], array: np.ndarray | None = None) -> None:
    """Write one message. Raises `InputRefused` for one that `receive` would refuse, `OSError` if it fails."""
    layout = None
    if array is not None:
        layout = {"dtype": array.dtype.name, "shape": list(array.shape)}
        size_in_bytes(array.dtype.name, array.shape)
    text = json.dumps({**header, "array": layout}).encode()
    if len(text) > MAX_HEADER:
        raise InputRefused(f"a message header has {len(text)} bytes; the limit is {MAX_HEADER}")
    connection.send_bytes(text)
    if array is not None:
        connection.send_bytes(array.tobytes())


def receive(connection: Connection) -> tuple[dict[str, Any], np.ndarray | None]:
    """Read one message.

    Raises `InputRefused` or `ValueError` for a malformed one, `OSError` for one that is too large (the
    connection is closed then) or too slow, `EOFError` at the end.
    """
    header = json.loads(connection.recv_bytes(MAX_HEADER))
    if not isinstance(header, dict):
        raise InputRefused("a message must be a JSON object")
    layout = header.pop("array", None)
    if layout is None:
        return header, None
    try:
        dtype, shape = layout["dtype"], tuple(int(side) for side in layout["shape"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputRefused("an array needs a dtype and a shape") from error
    content = connection.recv_bytes(size_in_bytes(dtype, shape))
    return header, np.frombuffer(content, dtype).reshape(shape)


def size_in_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Size of an array in bytes. Raises `InputRefused` for one that no message may carry."""
    if dtype not in DTYPES or len(shape) > 3 or any(not 0 < side <= MAX_SIDE for side in shape):
        raise InputRefused(
            f"an array {dtype} {shape}; expected {' or '.join(DTYPES)}, sides up to {MAX_SIDE}"
        )
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size > MAX_ARRAY:
        raise InputRefused(f"an array has {size} bytes; the limit is {MAX_ARRAY}")
    return size


def find_artifacts(workspace: Workspace, image: np.ndarray) -> tuple[str, np.ndarray]:
    """The champion's id and its map (uint8 HW, 255 is certain) for a uint8 HWC image, from the inference
    service.

    Raises `ServiceAbsent` when no worker on this machine provides it.
    """
    header, confidence = _call(workspace, {"call": "find_artifacts"}, image)
    assert confidence is not None
    return header["detector"], confidence


def segment(
    workspace: Workspace,
    name: str,
    image: np.ndarray,
    clicks: Sequence[tuple[float, float, bool]],
    box: Sequence[float] | None = None,
    word: str = "",
) -> tuple[float, np.ndarray]:
    """Score and mask (uint8 HW, 0 or 1) of what was clicked on, or of what the word names, in a uint8 HWC
    image, from the inference service; `name` is what its embedding is kept under.

    Raises `ServiceAbsent` when no worker on this machine provides it, `InputRefused` without a segmenter.
    """
    request = {
        "call": "segment",
        "name": name,
        "clicks": list(clicks),
        "box": box and list(box),
        "word": word,
    }
    header, mask = _call(workspace, request, image)
    assert mask is not None
    return header["score"], mask


def segmenter_tools(catalog: Catalog) -> list[str]:
    """What the registered segmenter offers to annotators: "assist", and "words" if it takes a word; nothing
    without one."""
    segmenters = catalog.endpoints.of_kind("segmenter")
    if not segmenters:
        return []
    try:
        type_ = segmenter_type(segmenters[-1].location)
    except ModelRefused:
        return ["assist"]  # the first click says why it cannot be used
    return ["assist", *(["words"] if type_.words else [])]


def estimate(workspace: Workspace, kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What a run of kind "train" or "treat" would need, from the inference service: bytes, seconds, verdict.

    Raises `ServiceAbsent` without a worker on this machine, `InputRefused` for what cannot be loaded.
    """
    header, _ = _call(workspace, {"call": "estimate", "kind": kind, "settings": settings})
    return header


def _call(
    workspace: Workspace, request: dict[str, Any], array: np.ndarray | None = None
) -> tuple[dict[str, Any], np.ndarray | None]:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as local:
            limit_waiting(local, CALL_SECONDS)
            local.connect(str(socket_path(workspace.path)))
            with Connection(local.detach()) as connection:
                send(connection, request, array)
                header, answer = receive(connection)
    except (OSError, EOFError) as error:
        raise ServiceAbsent(
            "The inference service is unavailable; start a worker on this machine: `clinic worker`"
        ) from error
    if "error" in header:
        raise InputRefused(header["error"])
    return header, answer
