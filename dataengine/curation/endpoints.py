"""OpenAI-compatible endpoints as language or vision models, through huggingface_hub's client.

An endpoint is written as its base URL and, after `#`, the model's name: `http://127.0.0.1:8000/v1#qwen-vl`.
The API key is read from the environment variable `CLINIC_ENDPOINT_KEY`, so that it is stored in no recipe and
no catalog.
"""

import base64
import io
import logging
import os
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from dataengine.curation.config import EndpointConfig
from dataengine.errors import ConfigRefused, ServiceAbsent

KEY_VARIABLE = "CLINIC_ENDPOINT_KEY"
NO_KEY = "none"
LONGEST_ANSWER = 20_000
"""Characters read of an answer; a sensible one is far shorter."""

log = logging.getLogger(__name__)


def is_endpoint(location: object) -> bool:
    """Whether this is a URL rather than a folder or hub id."""
    return str(location).startswith(("http://", "https://"))


class Endpoint:
    """One model behind an OpenAI-compatible URL."""

    def __init__(self, location: str, config: EndpointConfig | None = None) -> None:
        """Raises `ConfigRefused` when the location is no such URL, or contains credentials."""
        from huggingface_hub import InferenceClient

        parts = urlsplit(location)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
            raise ConfigRefused(
                f"{location!r} is no endpoint; write it as http://HOST:PORT/v1#MODEL without credentials, "
                f"and set the API key in {KEY_VARIABLE}"
            )
        self.name = parts.fragment or parts.hostname
        self.unusable = 0
        """Number of answers so far without text."""
        self._config = config or EndpointConfig()
        self._model = parts.fragment or None
        self._base = parts._replace(fragment="").geturl()
        self._client = InferenceClient(
            base_url=self._base,
            api_key=os.environ.get(KEY_VARIABLE, NO_KEY),
            timeout=self._config.timeout_seconds,
        )

    def complete(self, content: Any, seed: int, new_tokens: int, temperature: float) -> str:
        """The model's answer to one user message, "" when it is not text.

        `content` is a text, or a list of parts as OpenAI defines them. Unusable answers are logged and
        counted. Raises `ServiceAbsent` when every one of `attempts` fails: the endpoint is unreachable,
        refuses, or times out.
        """
        problem = ""
        for attempt in range(self._config.attempts):
            try:
                answer = self._client.chat_completion(
                    messages=[{"role": "user", "content": content}],
                    model=self._model,
                    max_tokens=new_tokens,
                    temperature=temperature,
                    seed=seed,
                )
                return self._text(answer)
            except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
                return self._refused(error)
            except Exception as error:  # the client's errors come from several HTTP libraries
                problem = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                log.warning("endpoint %s, attempt %d: %s", self._base, attempt + 1, problem)
        raise ServiceAbsent(
            f"the endpoint {self._base} did not answer in {self._config.attempts} attempts ({problem}); "
            "check that it is running and serves this model, then run the stage again"
        )

    def _text(self, answer: Any) -> str:
        text = answer.choices[0].message.content
        if not isinstance(text, str):
            return self._refused(f"its content is {type(text).__name__}")
        return text[:LONGEST_ANSWER]

    def _refused(self, why: object) -> str:
        self.unusable += 1
        log.warning("endpoint %s gave no usable answer (%d so far): %s", self._base, self.unusable, why)
        return ""


def image_part(image: np.ndarray) -> dict[str, Any]:
    """A uint8 HW3 image as a part of a message, inlined as PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
