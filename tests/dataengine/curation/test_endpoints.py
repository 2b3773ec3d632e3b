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

import numpy as np
import pytest
import torch

from dataengine.curation.config import EndpointConfig, PromptWriterConfig, VqaConfig
from dataengine.curation.endpoints import Endpoint, answer_in, is_endpoint, retry_after, without_thoughts
from dataengine.curation.prompts import load_model_writer, parse_lines
from dataengine.curation.vqa import OTHER, UNANSWERED, QuestionCategorizer, load_categorizer
from dataengine.errors import ConfigRefused, InputRefused, ServiceAbsent
from tests.dataengine.curation.tiny import WORDS, save_llava

START_SECONDS = 180
PICTURES = np.random.default_rng(0).integers(0, 256, (2, 24, 24, 3), dtype=np.uint8)


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
            "think": answering("<think>A hand or a face?</think>\n\nhand"),
            "template": answering("A hand or a face?</think>hand"),
            "thinkcut": answering("<think>It could show a hand", finish_reason="length"),
            "reasoned": answering("hand", reasoning_content="A face? No."),
            "onlyreasoned": answering(None, finish_reason="length", reasoning_content="A face?"),
            "parts": answering([{"type": "text", "text": "hand"}]),
            "fenced": answering('```json\n{"answer": "hand"}\n```'),
            "bold": answering("**Hand.**"),
            "refusing": answering(None, refusal="I can't help with that."),
            "maxtok": told("'max_tokens' is not supported"),
            "error200": told("no such model here"),
            "proxy": b"<html><body>Sign in to the proxy</body></html>",
            "nochoices": b'{"choices": []}',
        }.get(manner, answering("hand"))
        if manner in ("busy", "loading") and self.server.asked.count(self.path) == 1:  # type: ignore[attr-defined]
            status, body = (429 if manner == "busy" else 503), told("wait a little")
        status = {"maxtok": 400, "locked": 401, "moved": 307}.get(manner, status)
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Retry-After", "0.3")
            self.send_header("Location", "/polite/v1/chat/completions")
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            pass  # the client has left

    def log_message(self, format: str, *args: object) -> None:
        pass


def answering(content: object, finish_reason: str = "stop", **more: object) -> bytes:
    message = {"role": "assistant", "content": content} | more
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    return json.dumps({"choices": [choice], "id": "1", "model": "m"}).encode()


def told(words: str) -> bytes:
    return json.dumps({"error": {"message": words, "type": "invalid_request_error"}}).encode()


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


PATIENT = HASTY.model_copy(update={"endpoint": EndpointConfig(timeout_seconds=20, attempts=2)})


@pytest.mark.parametrize("manner", ["huge", "chatty"])
def test_an_answer_that_names_no_category_is_counted(rude: ThreadingHTTPServer, manner: str) -> None:
    categorizer = load_categorizer(url(rude, manner), PATIENT)
    assert isinstance(categorizer, QuestionCategorizer)
    assert categorizer.categories(PICTURES) == [(OTHER, 0.0)] * 2
    assert categorizer.other == 2


@pytest.mark.parametrize("manner", ["think", "template", "reasoned", "parts", "fenced", "bold"])
def test_the_answer_alone_counts(rude: ThreadingHTTPServer, manner: str) -> None:
    assert load_categorizer(url(rude, manner), PATIENT).categories(PICTURES) == [("hand", 1.0)] * 2


@pytest.mark.parametrize(
    ("manner", "why"),
    [
        ("thinkcut", "needs more new_tokens"),
        ("onlyreasoned", "needs more new_tokens"),
        ("silent", "no text"),
        ("list", "no text"),
        ("refusing", "the model refuses: I can't help"),
        ("empty", "no choices"),
        ("nochoices", "no choices"),
    ],
)
def test_a_model_without_usable_answers_is_not_called_other(
    rude: ThreadingHTTPServer, manner: str, why: str, tmp_path: Path
) -> None:
    categorizer = load_categorizer(url(rude, manner), PATIENT, keep=tmp_path)
    with pytest.raises(ServiceAbsent, match=f"no usable answer.*{why}"):
        categorizer.categories(PICTURES)
    assert categorizer.categories(PICTURES[:1]) == [(UNANSWERED, 0.0)], "one alone may be asked again"
    with pytest.raises(ServiceAbsent, match="8 questions in a row"):
        for _ in range(8):
            categorizer.categories(PICTURES[:1])
    assert not list(tmp_path.iterdir()), "nothing that is no answer is cached"


@pytest.mark.parametrize(
    ("manner", "words"),
    [
        ("maxtok", "HTTP 400: 'max_tokens' is not supported"),
        ("locked", "HTTP 401"),
        ("moved", "HTTP 307"),
        ("proxy", "not JSON: Sign in to the proxy"),
        ("noise", "not JSON: it works!"),
        ("error200", "no such model here"),
    ],
)
def test_a_refusal_ends_at_once_in_the_endpoints_own_words(
    rude: ThreadingHTTPServer, manner: str, words: str
) -> None:
    before = len(rude.asked)  # type: ignore[attr-defined]
    with pytest.raises(ServiceAbsent, match=words):
        load_categorizer(url(rude, manner), PATIENT).categories(PICTURES)
    with pytest.raises(ServiceAbsent, match=words):
        load_model_writer(url(rude, manner), PromptWriterConfig(endpoint=PATIENT.endpoint)).write(
            "hand", 3, 0
        )
    assert len(rude.asked) == before + 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("manner", ["busy", "loading"])
def test_a_busy_endpoint_is_given_the_time_that_it_asks_for(rude: ThreadingHTTPServer, manner: str) -> None:
    began = time.monotonic()
    assert load_categorizer(url(rude, manner), PATIENT).categories(PICTURES) == [("hand", 1.0)] * 2
    assert time.monotonic() - began >= 0.3
    hurried = EndpointConfig(timeout_seconds=20, attempts=9, patience_seconds=0.1)
    rude.asked.clear()  # type: ignore[attr-defined]
    with pytest.raises(ServiceAbsent, match=r"in 1 attempts \(HTTP \d+: wait a little\)"):
        load_categorizer(url(rude, manner), HASTY.model_copy(update={"endpoint": hurried})).categories(
            PICTURES
        )


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after("2") == 2 and retry_after("0.5") == 0.5 and retry_after("-3") == 0
    assert retry_after("Fri, 31 Dec 1999 23:59:59 GMT", now=946684799.0 - 30) == 30
    assert retry_after("soon") is None and retry_after(None) is None


WRITTEN = ["a close-up of a hand holding a key", "two hands kneading bread dough", "a hand in a mitten"]


@pytest.mark.parametrize(
    "answer",
    [
        "\n".join(WRITTEN),
        "Here are three prompts for you to use today\n\n```text\n{}\n```\nLet me know of any changes!".format(
            "\n".join(WRITTEN)
        ),
        f"```json\n{json.dumps(WRITTEN, indent=2)}\n```",
        json.dumps({"prompts": WRITTEN}),
        json.dumps([{"prompt": text} for text in WRITTEN]),
        "Sure, here you have some prompts\n"
        + "\n".join(f"{i}. **Hands {i}** - {s}" for i, s in enumerate(WRITTEN)),
        "\n".join(f"**{i}.** {s}" for i, s in enumerate(WRITTEN, 1)),
        "\n".join(f"{i}) “{s}”" for i, s in enumerate(WRITTEN, 1)),
        "\n".join(f"* {s}" for s in WRITTEN),
        "\n".join(f"- **{s}**" for s in WRITTEN),
    ],
)
def test_prompts_come_in_many_clothes(answer: str) -> None:
    assert parse_lines(answer, (3, 60)) == WRITTEN


def test_thoughts_are_no_prompts() -> None:
    thought = "<think>\nOkay, the user wants prompts, so let me think about it.\n</think>\n"
    assert without_thoughts(f"{thought}a hand").strip() == "a hand"
    assert without_thoughts(thought.replace("</think>", "")) == ""
    assert without_thoughts("let me think\n</think>a hand") == "a hand"
    assert without_thoughts("a <b>hand</b>") == "a <b>hand</b>"
    cut = json.loads(answering("a hand holding a key\ntwo hands kneading br", finish_reason="length"))
    assert answer_in(cut) == "a hand holding a key", "a line that was cut off is no prompt"


@pytest.mark.parametrize("manner", ["slow", "broken"])
def test_an_endpoint_that_does_not_answer_is_one_clear_error(rude: ThreadingHTTPServer, manner: str) -> None:
    before = len(rude.asked)  # type: ignore[attr-defined]
    with pytest.raises(ServiceAbsent, match=r"did not answer in 2 attempts.*run the stage again"):
        load_categorizer(url(rude, manner), HASTY).categories(PICTURES)
    assert len(rude.asked) == before + 2  # type: ignore[attr-defined]


def test_a_writer_over_garbage_gives_up(rude: ThreadingHTTPServer) -> None:
    settings = PromptWriterConfig(attempts=2, endpoint=EndpointConfig(timeout_seconds=20, attempts=1))
    with pytest.raises(InputRefused, match=r"only 0 of 3.*\(the answer was cut off before it began"):
        load_model_writer(url(rude, "thinkcut"), settings).write("hand", 3, seed=0)


def test_a_location_is_checked_and_carries_no_key() -> None:
    assert is_endpoint("https://host/v1#m") and not is_endpoint("owner/model")
    for wrong in ("http://name:secret@host/v1#m", "http:///v1", "ftp://host/v1"):
        with pytest.raises(ConfigRefused, match="no endpoint"):
            Endpoint(wrong)
    assert Endpoint("http://host:1/v1#qwen").name == "qwen"


def test_a_name_that_leads_inside_is_not_asked_and_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def inside(host: object, *arguments: object, **named: object) -> list[object]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.1.2.3", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", inside)
    with pytest.raises(InputRefused, match=r"10\.1\.2\.3, a private or local address"):
        Endpoint("https://models.example/v1#m").complete("?", seed=0, new_tokens=1, temperature=0.0)
    assert asked == ["models.example"]
