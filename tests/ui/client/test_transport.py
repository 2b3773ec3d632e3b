"""Repeating, refusing and streaming, against servers that fail in every way."""

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from ui.client import ApiError, Clinic
from ui.client.transport import API_VERSION, Transport
from ui.web import versions

Answers = list[httpx.Response | Exception]
URL = "http://clinic.test"


class Server:
    """Gives the answers in turn, the last one again and again; remembers requests and pauses."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers, self.requests, self.pauses = list(answers), [], []  # type: ignore[var-annotated]

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def transport(self, token: str = "clinic_x") -> Transport:
        http = httpx.Client(transport=httpx.MockTransport(self))
        return Transport(URL, token, http=http, sleep=self.pauses.append)


def ok() -> httpx.Response:
    return httpx.Response(200, json={"ok": True})


def failing(status: int, **headers: str) -> httpx.Response:
    headers["Clinic-Version"] = "1"
    return httpx.Response(status, json={"error": "the disk is full"}, headers=headers)


def test_client_and_server_agree_on_the_version() -> None:
    assert API_VERSION == versions.API_VERSION


@pytest.mark.parametrize("status", [502, 503, 504])
def test_what_is_repeatable_is_repeated_with_growing_pauses(status: int) -> None:
    server = Server(failing(status), httpx.ReadError("broken"), failing(status), ok())
    assert server.transport().get("/x") == {"ok": True}
    assert len(server.pauses) == 3 and server.pauses[2] > 2 * server.pauses[0] * 0.9


@pytest.mark.parametrize(
    "answer",
    [failing(503), httpx.ReadError("broken"), httpx.RemoteProtocolError("cut"), httpx.ReadTimeout("slow")],
)
def test_what_may_have_been_done_is_not_sent_again(answer: httpx.Response | Exception) -> None:
    server = Server(answer, ok())
    with pytest.raises(ApiError, match=r"the disk is full|may have been carried out"):
        server.transport().post("/train/start", {})
    assert len(server.requests) == 1
    server = Server(answer, ok())
    assert server.transport().post("/annotate/submit", {}, repeatable=True) == {"ok": True}


@pytest.mark.parametrize("answer", [httpx.ConnectError("refused"), failing(429)])
def test_what_was_never_done_is_sent_again(answer: httpx.Response | Exception) -> None:
    server = Server(answer, answer, ok())
    assert server.transport().post("/train/start", {}) == {"ok": True}
    assert len(server.requests) == 3


def test_the_server_says_when_to_come_back() -> None:
    server = Server(failing(429, **{"Retry-After": "7"}), ok())
    server.transport().get("/x")
    assert server.pauses == [7.0]
    server = Server(failing(429, **{"Retry-After": "3600"}), ok())
    with pytest.raises(ApiError, match="in 3600 seconds") as refused:
        server.transport().get("/x")
    assert refused.value.status == 429 and not server.pauses


def test_it_gives_up_with_the_servers_sentence() -> None:
    server = Server(failing(503))
    with pytest.raises(ApiError, match=r"^the disk is full$") as error:
        server.transport().get("/x")
    assert error.value.status == 503 and len(server.requests) == 5
    server = Server(httpx.ConnectError("Connection refused"))
    with pytest.raises(ApiError, match=r"does not answer .*is the server running") as error:
        server.transport().get("/x")
    assert error.value.status is None


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 500])
def test_refusals_are_final(status: int) -> None:
    server = Server(failing(status))
    with pytest.raises(ApiError, match="the disk is full") as error:
        server.transport().get("/x")
    assert error.value.status == status and len(server.requests) == 1


def test_the_token_is_sent_and_never_shown() -> None:
    server = Server(failing(401))
    transport = server.transport(" clinic_secret\n")
    with pytest.raises(ApiError) as error:
        transport.get("/x")
    assert server.requests[0].headers["Authorization"] == "Bearer clinic_secret"
    assert "secret" not in f"{error.value!r} {vars(error.value)}"
    for wrong in ("clinic secret", "clinic_ä", "clinic_\x01"):
        with pytest.raises(ApiError, match="copy it again") as error:
            Transport(URL, wrong)
        assert wrong not in str(error.value)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (
            httpx.Response(302, headers={"location": "https://clinic.test/"}),
            "redirects to https://clinic.test/",
        ),
        (httpx.Response(404, json={"error": "not found"}), "has no API of version 1; update the server"),
        (httpx.Response(200, text="<html>"), "the answer is no JSON"),
        (httpx.Response(502, text="<html>bad gateway"), "the server answered 502 Bad Gateway"),
        (httpx.Response(200, json={}, headers={"Clinic-Version": "2"}), "update this client"),
        (httpx.Response(404, json={}, headers={"Clinic-Version": "0"}), "update the server"),
    ],
)
def test_what_is_no_answer_of_this_version(answer: httpx.Response, sentence: str) -> None:
    with pytest.raises(ApiError, match=sentence):
        Server(answer).transport().get("/x")


@pytest.mark.parametrize("id", ["", "..", "a/b", "../session", "a?b", "a#b", "a%2fb", "ä", "a b", "a\n"])
def test_an_id_leads_to_no_other_path(id: str) -> None:
    server = Server(ok())
    clinic = Clinic(URL, "", http=httpx.Client(transport=httpx.MockTransport(server)))
    for look in (clinic.images.get, clinic.images.pixels, clinic.jobs.get, clinic.training.pause):
        with pytest.raises(ApiError, match="is no id"):
            look(id)
    assert not server.requests


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("http://ada:secret@clinic.test", "leave user and password out"),
        ("", "CLINIC_URL"),
        ("clinic.test", "begins with https"),
        ("ftp://x", "begins with https"),
    ],
)
def test_an_address_that_is_none(url: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLINIC_URL", raising=False)
    with pytest.raises(ApiError, match=sentence):
        Clinic(url)


def test_address_and_token_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLINIC_URL", "https://clinic.test/lab/")
    monkeypatch.setenv("CLINIC_TOKEN", "clinic_x")
    with Clinic() as clinic:
        assert clinic.url == "https://clinic.test/lab"


class Broken(httpx.SyncByteStream):
    """A body that breaks off."""

    def __init__(self, *parts: bytes) -> None:
        self.parts = parts

    def __iter__(self) -> Iterator[bytes]:
        yield from self.parts
        raise httpx.ReadError("the connection broke")


def ranged(body: bytes, tag: str) -> Callable[[httpx.Request], httpx.Response]:
    """A server that breaks off once and can go on."""
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers.get("range", ""))
        if len(asked) == 1:
            return httpx.Response(200, stream=Broken(body[:1000], body[1000:1500]), headers={"ETag": '"a"'})
        if request.headers.get("if-range") == tag:
            start = int(asked[-1].removeprefix("bytes=").removesuffix("-"))
            return httpx.Response(206, content=body[start:], headers={"ETag": tag})
        return httpx.Response(200, content=body, headers={"ETag": tag})

    answer.asked = asked  # type: ignore[attr-defined]
    return answer


@pytest.mark.parametrize("tag", ['"a"', '"changed"'])
def test_a_download_goes_on_where_it_broke(tag: str, tmp_path: Path) -> None:
    body = bytes(range(256)) * 20
    server = ranged(body, tag)
    http = httpx.Client(transport=httpx.MockTransport(server))
    target = Transport(URL, "", http=http, sleep=lambda _: None).download("/x", tmp_path / "x.zip")
    assert target.read_bytes() == body and list(tmp_path.iterdir()) == [target]
    assert server.asked == ["", "bytes=1500-"]  # type: ignore[attr-defined]


def test_a_failed_download_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"before")
    with pytest.raises(ApiError, match="the disk is full"):
        Server(failing(404)).transport().download("/x", tmp_path / "x.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["x.zip"]
    assert (tmp_path / "x.zip").read_bytes() == b"before"
