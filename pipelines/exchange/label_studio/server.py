"""A Label Studio server through its SDK: connection, projects, uploads, tasks; errors in one line.

Both personal and legacy access tokens work. Tokens are never stored. The SDK is imported on first use.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from dataengine.bounds import JSON_MEMORY, allowance, check_json
from dataengine.errors import ConfigRefused, InputRefused, ServiceAbsent
from dataengine.outgoing import checked_client, networks_of
from dataengine.records import LabelClass
from pipelines.exchange.label_studio.tasks import FROM_NAME, TO_NAME, label_config

if TYPE_CHECKING:
    from label_studio_sdk import LabelStudio


OLDEST = (1, 20)
"""Earlier servers lack personal tokens and bulk imports of predictions."""
PAGE = 500
SECONDS = 120.0
TOKEN_VARIABLE = "LABEL_STUDIO_API_KEY"
URL_VARIABLE = "LABEL_STUDIO_URL"


def resolve_token(given: str = "") -> str:
    """The given token, else the environment's. Raises `ConfigRefused` without one."""
    token = given or os.environ.get(TOKEN_VARIABLE, "")
    if not token:
        raise ConfigRefused(f"no token: set {TOKEN_VARIABLE}, or give --token-file FILE")
    return token


@contextmanager
def translating_errors(url: str) -> Iterator[None]:
    """Convert the SDK's exceptions inside the block to `ServiceAbsent` or `InputRefused`."""
    import httpx
    from label_studio_sdk.core.api_error import ApiError
    from pydantic import ValidationError

    try:
        yield
    except ApiError as error:
        raise InputRefused(_error_of(error, url)) from None
    except ValidationError:
        raise InputRefused(f"the server at {url} is not a supported Label Studio") from None
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise ServiceAbsent(
            f"no Label Studio answers at {url} ({type(error).__name__}); is it running, is the URL correct?"
        ) from None


def _error_of(error: Any, url: str) -> str:
    body = error.body if isinstance(error.body, dict) else {}
    detail = body.get("detail") or body.get("validation_errors") or str(error.body or "")[:200]
    if error.status_code == 401:
        return (
            f"{url} refused the token ({detail}); give a personal access token (Account & Settings), or a "
            "legacy token if the organization allows them"
        )
    if error.status_code == 403:
        return f"the token's owner may not do this at {url}: {detail}"
    if error.status_code == 404:
        return f"{url} has no such page; is this the URL of Label Studio, and does the project still exist?"
    return f"{url} answered {error.status_code}: {detail}"


@dataclass(frozen=True)
class Server:
    """A connected server."""

    url: str
    client: "LabelStudio"

    @classmethod
    def connect(cls, url: str, token: str) -> "Server":
        """Connect to a server. Raises `ConfigRefused` for an invalid URL, `ServiceAbsent` if nothing answers,
        `InputRefused` for a wrong token, another service, or a server that is too old.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.username:
            raise ConfigRefused(
                f"{url!r} is not a URL of a Label Studio server, such as https://labels.example"
            )
        url = url.rstrip("/")
        with translating_errors(url):
            from label_studio_sdk import LabelStudio

            # Servers behind a proxy redirect to https; each redirect is checked like the first address.
            client = checked_client(networks_of(url), timeout=SECONDS, follow_redirects=True)
            server = cls(url, LabelStudio(base_url=url, api_key=token, httpx_client=client, timeout=SECONDS))
            server._check_version(server.get("version"))
            server.client.users.whoami()
        return server

    def _check_version(self, payload: Any) -> None:
        release = payload.get("release") if isinstance(payload, dict) else None
        try:
            version = tuple(int(part) for part in str(release).split(".")[:2])
        except ValueError:
            raise InputRefused(f"the server at {self.url} is not Label Studio") from None
        if version < OLDEST:
            raise InputRefused(
                f"{self.url} runs Label Studio {release}; {'.'.join(map(str, OLDEST))} or newer is required"
            )

    def get(self, path: str, **params: Any) -> Any:
        """JSON of a route of the API. Raises the SDK's errors; call it inside `translating_errors`."""
        return self._json(self._http().request(f"api/{path}", method="GET", params=params))

    def post(self, path: str, **sent: Any) -> Any:
        """Send to a route for which the SDK's models are too slow or too strict."""
        return self._json(self._http().request(f"api/{path}", method="POST", **sent))

    def _http(self) -> Any:
        return self.client._client_wrapper.httpx_client

    def _json(self, response: Any) -> Any:
        from label_studio_sdk.core.api_error import ApiError

        check_json(
            response.content, allowance(len(response.content), JSON_MEMORY), f"the answer of {self.url}"
        )
        try:
            body = response.json() if response.content else None
        except ValueError:
            body = None if response.status_code < 400 else response.text[:200]
            if response.status_code < 400:
                raise InputRefused(f"the server at {self.url} is not Label Studio") from None
        if response.status_code >= 400:
            raise ApiError(status_code=response.status_code, body=body)
        return body

    # ---- projects ------------------------------------------------------------------------------------

    def project(self, named: str) -> Any | None:
        """The project of that number or title; None if there is none. Raises `InputRefused` if several have
        the title."""
        found: list[int] = []
        page, more = 1, True
        with translating_errors(self.url):
            while more:
                # Names only: counting every project's tasks makes the list slow.
                payload = self.get("projects", page=page, page_size=PAGE, include="id,title")
                found += [one["id"] for one in payload["results"] if named in (str(one["id"]), one["title"])]
                page, more = page + 1, bool(payload.get("next"))
            exact = [number for number in found if str(number) == named]
            if len(found) > 1 and not exact:
                numbers = ", ".join(map(str, found))
                raise InputRefused(f"{len(found)} projects are called {named!r}; give the number: {numbers}")
            chosen = next(iter(exact or found), None)
            return None if chosen is None else self.client.projects.get(chosen)

    def ready_project(self, named: str, classes: Sequence[LabelClass]) -> Any:
        """The project, created or updated to our classes; a retired one is offered only while annotations of
        the project use it, since the server keeps their labels. Raises `InputRefused` if it has other labels.
        """
        project = self.project(named)
        live = [one for one in classes if not one.retired]
        with translating_errors(self.url):
            if project is None:
                if len(named) < 3 or named.isdigit():
                    raise InputRefused(
                        f"there is no project {named!r}; a new one needs a title of at least 3 letters"
                    )
                return self.client.projects.create(
                    title=named, label_config=label_config(live), enable_empty_annotation=True
                )
            theirs, names = brush_labels(project), [one.name for one in classes]
            if theirs - set(names):
                raise InputRefused(
                    f"project {named!r} has other labels ({', '.join(sorted(theirs)) or 'none of ours'}) "
                    f"than this workspace ({', '.join(names)}); name another project, or a new title"
                )
            used = self._used_labels(project.id) if any(one.retired for one in classes) else set()
            shown = [one for one in classes if not one.retired or one.name in used]
            if theirs != {one.name for one in shown}:
                self.client.projects.update(project.id, label_config=label_config(shown))
        return project

    def _used_labels(self, project_id: int) -> set[str]:
        """The labels that annotations and drafts of the project use."""
        summary = self.get(f"projects/{project_id}/summary/")
        counts = [summary.get(name) or {} for name in ("created_labels", "created_labels_drafts")]
        return {label for count in counts for label in count.get(FROM_NAME) or {}}

    def tasks(self, project_id: int) -> Iterator[dict[str, Any]]:
        """Every task's `id`, `data` and `predictions_model_versions`."""
        page = 1
        while True:
            with translating_errors(self.url):
                payload = self.get(
                    "tasks",
                    project=project_id,
                    page=page,
                    page_size=PAGE,
                    fields="all",
                    include="id,data,predictions_model_versions",
                )
            yield from payload["tasks"]
            if page * PAGE >= payload["total"]:
                return
            page += 1

    # ---- sending -------------------------------------------------------------------------------------

    def upload(self, project_id: int, files: Sequence[tuple[str, bytes, str]]) -> list[str]:
        """Upload (name, bytes, media type) files to the project, without tasks; returns their URLs in
        order."""
        with translating_errors(self.url):
            sent = {f"file{number}": file for number, file in enumerate(files)}
            payload = self.post(
                f"projects/{project_id}/import", params={"commit_to_project": "false"}, files=sent
            )
            ids = payload["file_upload_ids"]
            known = self.get(f"projects/{project_id}/file-uploads", ids=json.dumps(ids))
        # The server prefixes each name with a random part.
        paths = {one["file"].rpartition("/")[2].partition("-")[2]: one["file"] for one in known}
        if any(name not in paths for name, _, _ in files):
            raise InputRefused(f"{self.url} stored only {len(paths)} of {len(files)} uploaded files")
        return [f"/data/{paths[name]}" for name, _, _ in files]

    def add_tasks(self, project_id: int, tasks: Sequence[dict[str, Any]]) -> None:
        """Add tasks with their predictions."""
        with translating_errors(self.url):
            self.post(f"projects/{project_id}/import", json=list(tasks))

    def add_predictions(self, project_id: int, predictions: Sequence[dict[str, Any]]) -> None:
        """Add predictions (with `task`) to existing tasks."""
        with translating_errors(self.url):
            self.post(f"projects/{project_id}/import/predictions", json=list(predictions))

    def set_model_version(self, project_id: int, model_version: str) -> None:
        """Set the project's model version; without it, score filters silently find nothing."""
        with translating_errors(self.url):
            self.client.projects.update(project_id, model_version=model_version)


def brush_labels(project: Any) -> set[str]:
    """The labels of the project's brush. Raises `InputRefused` if it has no brush control of ours."""
    control = (project.parsed_label_config or {}).get(FROM_NAME)
    control = control if isinstance(control, dict) else getattr(control, "__dict__", None)
    if not control or control.get("type") != "BrushLabels" or control.get("to_name") != [TO_NAME]:
        raise InputRefused(
            f"project {project.title!r} has other labels: no BrushLabels named {FROM_NAME!r} for an Image "
            f"named {TO_NAME!r}. Name another project, or a new title to make one"
        )
    return set(control.get("labels") or [])
