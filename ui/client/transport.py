"""One HTTP connection to a clinic: authentication, versions, retries, errors, streaming."""

import email.utils
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import httpx

from dataengine.errors import ClinicError

API_VERSION = 1
"""The version of the API that this client speaks."""
VERSION_HEADER = "Clinic-Version"
BASE = f"/api/v{API_VERSION}"
ATTEMPTS = 5
FIRST_WAIT, LONGEST_WAIT = 0.25, 8.0
PATIENCE = 60.0
"""Seconds of a `Retry-After` that are waited for; a longer one is passed on as an error."""
TRANSIENT = frozenset({502, 503, 504})
NOT_FOUND, LIMITED, PARTIAL, NOTHING_LEFT = 404, 429, 206, 416
ID = re.compile(r"\w[\w.:=+-]*", re.ASCII)
TIMEOUT = httpx.Timeout(60.0, connect=10.0)


class ApiError(ClinicError):
    """A request failed. The message is the server's sentence, or says why there is no answer.

    `status` is the HTTP status, None where no answer came.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Transport:
    """Requests to one server.

    A request is repeated, with growing pauses, where it cannot have been carried out (no connection, 429)
    and, if it is `repeatable`, also where it may have been (a connection that broke, 502, 503, 504).
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        http: httpx.Client | None = None,
        attempts: int = ATTEMPTS,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = checked_url(url)
        self.attempts = max(1, attempts)
        self._sleep = sleep
        self._http = http or httpx.Client(timeout=TIMEOUT)
        self._headers = {VERSION_HEADER: str(API_VERSION), "Accept": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {checked_token(token)}"

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        """The JSON of a GET; None for 204."""
        return json_of(self.request("GET", path, params=params))

    def post(self, path: str, body: Any = None, *, repeatable: bool = False) -> Any:
        """The JSON that a POST of JSON answers with; None for 204."""
        return json_of(self.request("POST", path, json=body, repeatable=repeatable))

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        content: bytes | None = None,
        repeatable: bool | None = None,
    ) -> httpx.Response:
        """A successful answer, read whole. GET is repeatable by itself. Raises `ApiError`."""
        again = method == "GET" if repeatable is None else repeatable
        sent = {"params": given(params), "json": json, "content": content}
        headers = self._headers
        if content is not None:
            headers = headers | {"Content-Type": "application/octet-stream"}

        def attempt() -> httpx.Response:
            answer = self._http.request(method, self._address(path), headers=headers, **sent)
            self._check(answer)
            return answer

        return self._repeated(attempt, again)

    def download(self, path: str, target: str | Path, params: Mapping[str, Any] | None = None) -> Path:
        """Stream an answer into a file, which appears when it is whole; its path.

        A transfer that breaks goes on where it stopped if the server can do so. Raises `ApiError`.
        """
        target = Path(target)
        part = target.with_name(f".{target.name}.part")
        try:
            with part.open("wb") as file:
                self._repeated(Download(self, path, given(params), file).attempt, True)
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
        return target

    @contextmanager
    def stream(
        self, path: str, params: Mapping[str, Any], headers: Mapping[str, str]
    ) -> Iterator[httpx.Response]:
        """One attempt at a successful answer whose body is not read yet; 416 counts as success."""
        asked = self._headers | dict(headers)
        with self._http.stream("GET", self._address(path), params=params, headers=asked) as answer:
            if answer.status_code != NOTHING_LEFT:
                if answer.is_error:
                    answer.read()
                self._check(answer)
            yield answer

    def _repeated(self, attempt: Callable[[], Any], repeatable: bool) -> Any:
        for turn in range(self.attempts):
            last = turn + 1 == self.attempts
            wait = min(LONGEST_WAIT, FIRST_WAIT * 2**turn) * random.uniform(0.5, 1.0)
            try:
                return attempt()
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                if last:
                    raise ApiError(
                        f"{self.url} does not answer ({reason(error)}); is the server running?"
                    ) from None
            except httpx.HTTPError as error:
                if last or not repeatable:
                    raise ApiError(unanswered(error, repeatable)) from None
            except httpx.InvalidURL as error:
                raise ApiError(f"{self.url} is no usable address: {error}") from None
            except Refused as error:
                if last or not (error.status == LIMITED or (repeatable and error.status in TRANSIENT)):
                    raise ApiError(str(error), error.status) from None
                wait = max(wait, error.retry_after)
                if wait > PATIENCE:
                    raise ApiError(f"{error} (in {wait:.0f} seconds)", error.status) from None
            self._sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def _address(self, path: str) -> str:
        return f"{self.url}{BASE}{path}"

    def _check(self, answer: httpx.Response) -> None:
        """Raise `ApiError` for another version of the API, `Refused` for any failure."""
        spoken = answer.headers.get(VERSION_HEADER, "")
        if spoken.isdigit() and int(spoken) != API_VERSION:
            older = "this client" if int(spoken) > API_VERSION else "the server"
            raise ApiError(
                f"this client speaks version {API_VERSION} of the API and {self.url} version {spoken}; "
                f"update {older}",
                answer.status_code,
            )
        if answer.status_code == NOT_FOUND and not spoken:
            raise ApiError(
                f"{self.url} has no API of version {API_VERSION}; update the server, or correct the address",
                answer.status_code,
            )
        if answer.is_redirect:
            where = answer.headers.get("location", "another address")
            raise ApiError(f"{self.url} redirects to {where}; use the address that the server is reached at")
        if answer.is_error:
            raise Refused(sentence_of(answer), answer.status_code, seconds_of(answer.headers))


class Download:
    """A file on its way, whose attempts go on where the last one broke off."""

    def __init__(self, transport: Transport, path: str, params: Mapping[str, Any], file: IO[bytes]) -> None:
        self.transport, self.path, self.params, self.file = transport, path, params, file
        self.tag = ""

    def attempt(self) -> None:
        """Append what the file lacks; begin it again where the server cannot send a part of it."""
        headers = {}
        if self.tag and self.file.tell():
            headers = {"Range": f"bytes={self.file.tell()}-", "If-Range": self.tag}
        with self.transport.stream(self.path, self.params, headers) as answer:
            if answer.status_code == NOTHING_LEFT:
                return
            if answer.status_code != PARTIAL:
                self.file.seek(0)
                self.file.truncate()
            self.tag = answer.headers.get("etag", "")
            for chunk in answer.iter_bytes():
                self.file.write(chunk)


class Refused(Exception):
    """An answer with an error status, before it is decided whether to repeat the request."""

    def __init__(self, message: str, status: int, retry_after: float) -> None:
        super().__init__(message)
        self.status, self.retry_after = status, retry_after


def checked_url(url: str) -> str:
    """The address of a server without a slash at its end. Raises `ApiError` for none, and other schemes."""
    if not url:
        raise ApiError('name the server: Clinic("https://clinic.example.org", token), or set CLINIC_URL')
    if not url.startswith(("http://", "https://")):
        raise ApiError(f"{url!r} is no address of a server; it begins with https:// or http://")
    if "@" in url.split("/")[2]:
        raise ApiError("leave user and password out of the address; a token takes their place")
    return url.rstrip("/")


def checked_token(token: str) -> str:
    """A token without white space around it. Raises `ApiError` for what no header can hold."""
    token = token.strip()
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ApiError("the token has characters that no token has; copy it again from the account page")
    return token


def an_id(text: str) -> str:
    """An id that goes into a path. Raises `ApiError` for what could lead to another path."""
    if not ID.fullmatch(text):
        raise ApiError(f"{text!r} is no id; take it from a list")
    return text


def given(params: Mapping[str, Any] | None) -> dict[str, Any]:
    """Query parameters without those that are None; lists stay lists."""
    return {name: value for name, value in (params or {}).items() if value is not None}


def json_of(answer: httpx.Response) -> Any:
    """An answer's JSON; None for 204. Raises `ApiError` for what is none."""
    if answer.status_code == 204:
        return None
    try:
        return answer.json()
    except ValueError:
        raise ApiError(
            "the answer is no JSON; does the address lead to a clinic, or to something before it?",
            answer.status_code,
        ) from None


def sentence_of(answer: httpx.Response) -> str:
    """The server's own sentence about a failure."""
    try:
        body = answer.json()
    except ValueError:
        body = None
    text = body.get("error") or body.get("detail") if isinstance(body, dict) else None
    return str(text) if text else f"the server answered {answer.status_code} {answer.reason_phrase}".strip()


def seconds_of(headers: Mapping[str, str]) -> float:
    """What `Retry-After` asks for, in seconds; 0 without one."""
    asked = headers.get("retry-after", "")
    if asked.isascii() and asked.isdigit():
        return float(asked)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(asked).timestamp() - time.time())
    except ValueError:
        return 0.0


def reason(error: Exception) -> str:
    """What an error of the connection says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def unanswered(error: httpx.HTTPError, repeatable: bool) -> str:
    """What to know about a request without an answer."""
    if repeatable:
        return f"no answer came ({reason(error)})"
    return (
        f"no answer came ({reason(error)}), and the request was not repeated because it may have been "
        "carried out; look before you send it again"
    )
