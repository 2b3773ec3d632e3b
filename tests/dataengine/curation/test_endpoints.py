"""Both endpoint kinds against real servers: `transformers serve` with a tiny model, and a rude one."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import torch

from dataengine.curation.config import EndpointConfig, PromptWriterConfig, VqaConfig
from dataengine.curation.endpoints import Endpoint, is_endpoint
from dataengine.curation.prompts import load_model_writer
from dataengine.curation.vqa import OTHER, QuestionCategorizer, load_categorizer
from dataengine.errors import ConfigRefused, InputRefused, ServiceAbsent
from tests.dataengine.curation.tiny import WORDS, save_llava

START_SECONDS = 180
PICTURES = np.random.default_rng(0).integers(0, 256, (2, 24, 24, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own servers may be reached; the hub's client refuses every address when it is offline."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A tiny vision-language model behind `transformers serve`."""
    folder = tmp_path_factory.mktemp("served")
    torch.manual_seed(0)
    save_llava(folder)
    port = free_port()
    process = subprocess.Popen(
        [
            *(str(Path(sys.executable).with_name("transformers")), "serve", str(folder)),
            *("--host", "127.0.0.1", "--port", str(port), "--device", "cpu"),
        ],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(START_SECONDS * 5):
            assert process.poll() is None, "the server ended"
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except OSError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1#{folder}"
    finally:
        process.terminate()
        process.wait(30)


def test_a_served_vision_model_names_categories(served: str, tmp_path: Path) -> None:
    config = VqaConfig(categories=("hand", "face", "street"), new_tokens=4)
    categorizer = load_categorizer(served, config, keep=tmp_path)
    assert isinstance(categorizer, QuestionCategorizer)
    said = categorizer.answer(PICTURES[0])
    assert said and set(said.split()) <= set(WORDS)
    found = categorizer.categories(PICTURES)
    assert {category for category, _ in found} <= {*config.categories, OTHER}
    kept = load_categorizer("http://127.0.0.1:9/v1#" + served.partition("#")[2], config, keep=tmp_path)
    with pytest.raises(ServiceAbsent):
        kept.categories(PICTURES)
    assert load_categorizer(served, config, keep=tmp_path).categories(PICTURES) == found


def test_a_served_language_model_writes_prompts(served: str) -> None:
    settings = PromptWriterConfig(per_request=2, new_tokens=12, words=(1, 100), similarity=1.0)
    prompts = load_model_writer(served, settings).write("hand", 2, seed=3)
    assert len(set(prompts)) == 2
    assert all(set(prompt.split()) <= set(WORDS) for prompt in prompts)


class Rude(BaseHTTPRequestHandler):
    """Answers as its path says."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        manner = self.path.split("/")[1]
        if manner == "slow":
            time.sleep(1.5)
        status = 500 if manner == "broken" else 200
        body = {
            "noise": b"<html>it works!</html>",
            "empty": b"{}",
            "silent": answering(None),
            "list": answering(["hand"]),
            "huge": answering("word " * 50_000),
            "chatty": answering("I cannot tell, sorry."),
        }.get(manner, answering("hand"))
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            pass  # the client has left

    def log_message(self, format: str, *args: object) -> None:
        pass


def answering(content: object) -> bytes:
    message = {"role": "assistant", "content": content}
    return json.dumps({"choices": [{"index": 0, "message": message}], "id": "1", "model": "m"}).encode()


@pytest.fixture(scope="module")
def rude() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Rude)
    server.asked = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def url(server: ThreadingHTTPServer, manner: str) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/{manner}/v1#m"


HASTY = VqaConfig(categories=("hand", "face"), endpoint=EndpointConfig(timeout_seconds=0.4, attempts=2))


@pytest.mark.parametrize("manner", ["noise", "empty", "silent", "list", "huge", "chatty"])
def test_garbage_is_a_counted_skip(rude: ThreadingHTTPServer, manner: str) -> None:
    patient = HASTY.model_copy(update={"endpoint": EndpointConfig(timeout_seconds=20, attempts=1)})
    categorizer = load_categorizer(url(rude, manner), patient)
    assert isinstance(categorizer, QuestionCategorizer)
    assert categorizer.categories(PICTURES) == [(OTHER, 0.0)] * 2
    assert categorizer.other == 2


@pytest.mark.parametrize("manner", ["slow", "broken"])
def test_an_endpoint_that_does_not_answer_is_one_clear_error(rude: ThreadingHTTPServer, manner: str) -> None:
    before = len(rude.asked)  # type: ignore[attr-defined]
    with pytest.raises(ServiceAbsent, match=r"did not answer in 2 attempts.*run the stage again"):
        load_categorizer(url(rude, manner), HASTY).categories(PICTURES)
    assert len(rude.asked) == before + 2  # type: ignore[attr-defined]


def test_a_writer_over_garbage_gives_up(rude: ThreadingHTTPServer) -> None:
    settings = PromptWriterConfig(attempts=2, endpoint=EndpointConfig(timeout_seconds=20, attempts=1))
    with pytest.raises(InputRefused, match="only 0 of 3"):
        load_model_writer(url(rude, "noise"), settings).write("hand", 3, seed=0)


def test_a_location_is_checked_and_carries_no_key() -> None:
    assert is_endpoint("https://host/v1#m") and not is_endpoint("owner/model")
    for wrong in ("http://name:secret@host/v1#m", "http:///v1", "ftp://host/v1"):
        with pytest.raises(ConfigRefused, match="no endpoint"):
            Endpoint(wrong)
    assert Endpoint("http://host:1/v1#qwen").name == "qwen"
