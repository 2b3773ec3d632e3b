"""The inference service over its socket: answers, bounds, absence."""

import os
import pickle
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from dataengine.errors import InputRefused, ServiceAbsent
from dataengine.masks import quantise
from dataengine.records import Endpoint
from pipelines.services import inference
from pipelines.worker import inference_server, worker
from pipelines.worker.child import Child
from storage.opening import create_workspace
from storage.workspace import Workspace
from tests import fake_workspace, fakes
from tests.dataengine.diagnosis.test_segmenter import tiny_sam
from tests.pipelines.rig import FAKES, crew, until


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = create_workspace(tmp_path_factory.mktemp("inference"))
    fake_workspace.prepare(workspace, real=0)
    return workspace


@pytest.fixture
def service(workspace: Workspace) -> Iterator[None]:
    with inference_server.listening(workspace.path) as listener:
        assert listener is not None
        answering = inference_server.Service(workspace, fakes.fake_models())
        thread = threading.Thread(target=inference_server.serve, args=(listener, answering), daemon=True)
        thread.start()
        yield
    thread.join()


def test_the_champions_map_comes_back(workspace: Workspace, service: None) -> None:
    image = fakes.paint("a hand", 1)
    for _ in range(2):
        detector, found = inference.find_artifacts(workspace, image)
        assert detector == "first"
        assert np.array_equal(found, quantise(fakes.TinyDetector(fakes.FIRST).find_artifacts(image)))


def test_what_is_no_image_is_refused_and_the_service_goes_on(workspace: Workspace, service: None) -> None:
    with pytest.raises(InputRefused, match="uint8 HWC"):
        inference.find_artifacts(workspace, np.zeros((4, 4), np.uint8))
    with pytest.raises(InputRefused, match="sides up to 4096"):
        inference.find_artifacts(workspace, np.zeros((5000, 1, 3), np.uint8))
    inference.find_artifacts(workspace, fakes.paint("a hand", 1))


@contextmanager
def calling(workspace: Workspace, seconds: float = 10) -> Iterator[Connection]:
    with socket.socket(socket.AF_UNIX) as local:
        inference.limit_waiting(local, seconds)
        local.connect(str(inference.socket_path(workspace.path)))
        with Connection(local.detach()) as connection:
            yield connection


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"[]", "JSON object"),
        (b"\x80\x04N.", "codec"),
        (b'{"call": "x", "array": {"dtype": "object", "shape": [1]}}', "float32"),
        (b'{"call": "x", "array": {"dtype": "uint8", "shape": [Infinity]}}', "dtype and a shape"),
        (b'{"call": "x", "array": {"dtype": "float32", "shape": [4096, 4096, 2]}}', "limit is 67108864"),
    ],
)
def test_broken_messages_get_an_answer(workspace: Workspace, service: None, sent: bytes, answer: str) -> None:
    with calling(workspace) as caller:
        caller.send_bytes(sent)
        header, _ = inference.receive(caller)
    assert answer in header["error"]


@pytest.mark.parametrize(
    "sent",
    [
        struct.pack("!i", 1 << 30),
        struct.pack("!iQ", -1, 1 << 60),
        struct.pack("!i", inference.MAX_HEADER + 1),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_a_message_that_claims_too_much_is_hung_up_on(
    workspace: Workspace, service: None, sent: bytes
) -> None:
    with calling(workspace) as caller:
        os.write(caller.fileno(), sent)
        with pytest.raises((EOFError, ConnectionResetError)):
            inference.receive(caller)
    inference.find_artifacts(workspace, fakes.paint("a hand", 1))


def test_a_pickle_is_never_read(workspace: Workspace, service: None, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    with calling(workspace) as caller:
        caller.send_bytes(pickle.dumps(Exploit(proof)))
        header, _ = inference.receive(caller)
    assert header["error"] and not proof.exists()


class Exploit:
    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.proof,)


def test_a_caller_that_stalls_holds_nobody_up_for_long(
    workspace: Workspace, service: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference_server, "READ_SECONDS", 0.3)
    header = b'{"call": "find_artifacts", "array": {"dtype": "uint8", "shape": [8, 8, 3]}}'
    for sent in (b"", struct.pack("!i", 100) + b"half", struct.pack("!i", len(header)) + header):
        with calling(workspace) as caller:
            os.write(caller.fileno(), sent)
            assert inference.find_artifacts(workspace, fakes.paint("a hand", 1))[0] == "first"


def test_a_service_that_does_not_answer_in_time_is_absent(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "CALL_SECONDS", 0.3)
    with (
        inference_server.listening(workspace.path),
        pytest.raises(ServiceAbsent, match="clinic worker"),
    ):
        inference.find_artifacts(workspace, fakes.paint("a hand", 1))


def test_a_request_too_long_for_a_header_is_refused_before_it_is_sent(
    workspace: Workspace, service: None
) -> None:
    clicks = [(1.0, 2.0, True)] * 10_000
    with pytest.raises(InputRefused, match="the limit is 65536"):
        inference.segment(workspace, "one", fakes.paint("a hand", 1), clicks)


def test_without_a_worker_the_service_is_absent(tmp_path: Path) -> None:
    workspace = create_workspace(tmp_path)
    with pytest.raises(ServiceAbsent, match="clinic worker"):
        inference.find_artifacts(workspace, np.zeros((4, 4, 3), np.uint8))
    inference.socket_path(workspace.path).touch()
    with pytest.raises(ServiceAbsent):
        inference.find_artifacts(workspace, np.zeros((4, 4, 3), np.uint8))
    inference.socket_path(workspace.path).unlink()


def test_only_one_worker_on_a_machine_listens(workspace: Workspace) -> None:
    with (
        inference_server.listening(workspace.path) as first,
        inference_server.listening(workspace.path) as second,
    ):
        assert first is not None and second is None
    assert not inference.socket_path(workspace.path).exists()


def test_a_worker_starts_the_service_for_its_first_caller(tmp_path: Path) -> None:
    with crew(tmp_path, "sqlite") as team:
        fake_workspace.prepare(team.workspace, real=0)
        worker = team.start(FAKES, CLINIC_TEST_INFERENCE="1")
        until(lambda: "takes jobs" in team.log())
        image = fakes.paint("a face", 2)
        assert inference.find_artifacts(team.workspace, image)[0] == "first"
        worker.kill()
        worker.wait()
        with pytest.raises(ServiceAbsent):
            inference.find_artifacts(team.workspace, image)


def test_a_service_that_cannot_start_is_not_started_over_and_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "RESTART_SECONDS", 0.6)
    starts: list[float] = []

    class Dying(Child):
        pid = None

        def start(self) -> None:
            starts.append(time.monotonic())

    ending = threading.Event()
    with inference_server.listening(tmp_path) as listener:
        assert listener is not None
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(listener.getsockname())
        arguments = (listener, Dying("nothing"), ending)
        attending = threading.Thread(target=worker.attend, args=arguments)
        attending.start()
        until(lambda: len(starts) == 3, 20, "the caller that left still knocks")
        ending.set()
        attending.join()
    assert starts[2] - starts[0] >= 1.2


def test_a_click_is_segmented_by_the_registered_model(workspace: Workspace, tmp_path: Path) -> None:
    image = fakes.paint("a hand", 1)
    with inference_server.listening(workspace.path) as listener:
        assert listener is not None
        answering = inference_server.Service(workspace, fakes.fake_models())
        thread = threading.Thread(target=inference_server.serve, args=(listener, answering), daemon=True)
        thread.start()
        with pytest.raises(InputRefused, match="no segmenter"):
            inference.segment(workspace, "one", image, [(3.0, 4.0, True)])
        location = str(tiny_sam(tmp_path))
        with workspace.catalog() as catalog:
            catalog.endpoints.add(Endpoint(id="s", kind="segmenter", name="tiny", location=location))
            catalog.commit()
        score, mask = inference.segment(workspace, "one", image, [(3.0, 4.0, True)], [1, 1, 9, 9])
    thread.join()
    assert 0 <= score <= 1 and mask.shape == image.shape[:2]
