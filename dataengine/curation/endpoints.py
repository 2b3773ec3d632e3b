"""OpenAI-compatible endpoints (vLLM, Ollama, LM Studio, …) as language or vision models.

An endpoint is written as its base URL and, after `#`, the model's name: `http://127.0.0.1:8000/v1#qwen-vl`.
The API key is read from the environment variable `CLINIC_ENDPOINT_KEY`, so that it is stored in no recipe and
no catalog. Redirects are not followed, and private addresses need a permission (`dataengine.outgoing`).
"""

import base64
import email.utils
import io
import json
import logging
import os
import re
import time
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np

from dataengine.curation.config import EndpointConfig
from dataengine.errors import ConfigRefused, ServiceAbsent
from dataengine.outgoing import checked_client, networks_of

KEY_VARIABLE = "CLINIC_ENDPOINT_KEY"
LONGEST_BODY = 4 * 1024 * 1024
"""Bytes read of a response; a sensible one is far shorter."""
LONGEST_ANSWER = 20_000
"""Characters kept of an answer."""
QUOTED = 200
"""Characters of an endpoint's own words in an error message."""
BUSY = {408, 425, 429, 500, 502, 503, 504}
"""HTTP states that pass by themselves."""
THOUGHT = re.compile(r"<(think|thinking|thought|reasoning)>.*?</\1>", re.DOTALL | re.IGNORECASE)
THOUGHT_BEGINS = re.compile(r"<(think|thinking|thought|reasoning)>", re.IGNORECASE)
THOUGHT_ENDS = re.compile(r"</(think|thinking|thought|reasoning)>", re.IGNORECASE)

log = logging.getLogger(__name__)


class NoAnswer(ServiceAbsent):
    """An endpoint responded without a usable answer to this question."""


class _Busy(Exception):
    """The endpoint may answer later; after `wait` seconds where it says so."""

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


def is_endpoint(location: object) -> bool:
    """Whether this is a URL rather than a folder or hub id."""
    return str(location).startswith(("http://", "https://"))


class Endpoint:
    """One model behind an OpenAI-compatible URL."""

    def __init__(self, location: str, config: EndpointConfig | None = None) -> None:
        """Raises `ConfigRefused` when the location is no such URL, or contains credentials."""
        parts = urlsplit(location)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
            raise ConfigRefused(
                f"{location!r} is no endpoint; write it as http://HOST:PORT/v1#MODEL without credentials, "
                f"and set the API key in {KEY_VARIABLE}"
            )
        self.name = parts.fragment or parts.hostname
        self._config = config or EndpointConfig()
        self._model = parts.fragment or None
        self._base = parts._replace(fragment="").geturl().rstrip("/")

    def complete(self, content: Any, seed: int, new_tokens: int, temperature: float) -> str:
        """The model's answer to one user message, without its thoughts.

        `content` is a text, or a list of parts as OpenAI defines them. A busy endpoint is tried again after
        the time it names, or after 1, 2, 4 … seconds. Raises `NoAnswer` for a response without a usable
        answer, and `ServiceAbsent` with the endpoint's own words when it refuses the request, or when none of
        `attempts` gets a response.
        """
        request = {
            "messages": [{"role": "user", "content": content}],
            "max_tokens": new_tokens,
            "temperature": temperature,
            "seed": seed,
        } | ({"model": self._model} if self._model else {})
        problem, waited = "", 0.0
        for attempt in range(self._config.attempts):
            try:
                return answer_in(self._post(request))
            except _Busy as busy:
                problem = str(busy)
                log.warning("endpoint %s, attempt %d: %s", self._base, attempt + 1, problem)
                wait = float(2**attempt) if busy.wait is None else busy.wait
            if attempt + 1 < self._config.attempts and waited + wait <= self._config.patience_seconds:
                time.sleep(wait)
                waited += wait
            else:
                break
        raise ServiceAbsent(
            f"the endpoint {self._base} did not answer in {attempt + 1} attempts ({problem}); "
            "check that it is running and serves this model, then run the stage again"
        )

    def _post(self, request: dict[str, Any]) -> Any:
        """The JSON of the response. Raises `_Busy`, `ServiceAbsent` for a refusal, and `AddressRefused`."""
        key = os.environ.get(KEY_VARIABLE)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            with (
                checked_client(networks_of(self._base), timeout=self._config.timeout_seconds) as client,
                client.stream(
                    "POST", f"{self._base}/chat/completions", json=request, headers=headers
                ) as sent,
            ):
                body = bytearray()
                for part in sent.iter_bytes():
                    body += part
                    if len(body) > LONGEST_BODY:
                        raise self._refusal(f"its response is longer than {LONGEST_BODY >> 20} MiB")
        except httpx.InvalidURL as error:
            raise self._refusal(f"it is no address: {error}") from None
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise _Busy(" ".join(f"{type(error).__name__}: {error}".split())[:QUOTED]) from error
        said = words_in(bytes(body))
        if sent.status_code in BUSY:
            raise _Busy(f"HTTP {sent.status_code}: {said}", retry_after(sent.headers.get("Retry-After")))
        if not sent.is_success:
            raise self._refusal(f"HTTP {sent.status_code}: {said}")
        try:
            response = json.loads(bytes(body))
        except (ValueError, RecursionError):
            raise self._refusal(f"its response is not JSON: {said}") from None
        if isinstance(response, dict) and response.get("error") and not response.get("choices"):
            raise _Busy(said) if _code(response["error"]) in BUSY else self._refusal(said)
        return response

    def _refusal(self, why: str) -> ServiceAbsent:
        return ServiceAbsent(
            f"the endpoint {self._base} refuses the request of {self.name!r} ({why}); check its address, the "
            f"model's name after # and {KEY_VARIABLE}, or choose a model that takes this request"
        )


def answer_in(response: Any) -> str:
    """The text of a chat completion, without its thoughts. Raises `NoAnswer` if there is none, saying why."""
    try:
        choice = response["choices"][0]
        message = choice["message"]
        content = message.get("content")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise NoAnswer("the response has no choices with a message") from None
    if isinstance(content, list):  # parts, as OpenAI defines them
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "\n".join(text for text in texts if isinstance(text, str))
    cut = choice.get("finish_reason") == "length"
    text = without_thoughts(content)[:LONGEST_ANSWER] if isinstance(content, str) else ""
    if text.strip():
        lines = text.rstrip().splitlines()
        return "\n".join(lines[:-1]) if cut and len(lines) > 1 else text
    if cut:
        raise NoAnswer("the answer was cut off before it began: the model needs more new_tokens to think")
    if isinstance(message.get("refusal"), str):
        raise NoAnswer(f"the model refuses: {message['refusal'][:QUOTED]}")
    raise NoAnswer("the response has no text")


def without_thoughts(text: str) -> str:
    """What follows a model's thoughts; "" when they do not end."""
    text = THOUGHT.sub("", text)
    if THOUGHT_BEGINS.search(text):
        return ""
    # Some chat templates open the thoughts themselves, so that only their end is in the response.
    return THOUGHT_ENDS.split(text)[-1]


def words_in(body: bytes) -> str:
    """A response in the endpoint's own words, on one line."""
    text = body[: 20 * QUOTED].decode("utf-8", "replace")
    try:
        told = json.loads(body)
        while isinstance(told, dict):
            told = next((told[key] for key in ("error", "message", "detail") if told.get(key)), None)
        text = told if isinstance(told, str) else text
    except (ValueError, RecursionError):
        text = re.sub(r"<[^>]*>", " ", text)
    return " ".join(text.split())[:QUOTED] or "no words"


def retry_after(header: str | None, now: float | None = None) -> float | None:
    """The seconds of a Retry-After header (RFC 9110: seconds or a date); None without a readable one."""
    if not header:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        when = email.utils.parsedate_to_datetime(header).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0.0, when - (time.time() if now is None else now))


def _code(error: Any) -> int:
    code = error.get("code") if isinstance(error, dict) else None
    return int(code) if isinstance(code, int | str) and str(code).isdecimal() else 0


def image_part(image: np.ndarray) -> dict[str, Any]:
    """A uint8 HW3 image as a part of a message, inlined as PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
