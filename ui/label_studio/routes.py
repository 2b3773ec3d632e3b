"""Routes for Label Studio: pre-annotations (the ML backend protocol), webhooks, signed images.

Requests carry our secret, as header `X-Clinic-Secret` (webhooks) or as the password of basic authentication
(ML backend); `clinic push --hooks` registers both. Webhooks are answered at once and only trigger a pull.
"""

import base64
import binascii
import hmac
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from dataengine.errors import AccessDenied
from pipelines.services.exchange import label_studio
from storage.workspace import Workspace
from ui.web.gate import address_of
from ui.web.throttle import Throttle, site_of

SECRET_HEADER = "X-Clinic-Secret"
ANNOTATED = frozenset({"ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_DELETED"})
FAILURES = 30


class LabelStudioBody(BaseModel):
    """A request body from Label Studio, which sends more fields than we read."""

    model_config = ConfigDict(extra="ignore")


class Project(LabelStudioBody):
    """The project that a webhook is about."""

    id: int


class Event(LabelStudioBody):
    """A webhook's body."""

    action: str = Field(default="", max_length=64)
    project: Project | None = None


class PredictRequest(LabelStudioBody):
    """A request for pre-annotations."""

    tasks: list[dict[str, Any]] = Field(max_length=label_studio.MAX_TASKS)


def label_studio_routes(workspace: Workspace) -> APIRouter:
    """The routes under /label-studio: `/health`, `/setup`, `/predict`, `/webhook`, `/images/ID`."""
    routes = APIRouter(prefix="/label-studio")
    failures = Throttle(workspace, "label studio", FAILURES)

    def require_secret(request: Request) -> None:
        address = site_of(address_of(request))
        if failures.blocked(address):
            raise AccessDenied("too many wrong secrets from this address; wait ten minutes")
        if not hmac.compare_digest(
            secret_of(request).encode(), label_studio.shared_secret(workspace).encode()
        ):
            failures.fail(address)
            raise AccessDenied(
                "the secret is missing or wrong; `clinic push --hooks` registers the right one"
            )

    allowed = [Depends(require_secret)]

    @routes.get("/health", dependencies=allowed)
    def health() -> dict[str, str]:
        return {"status": "UP", "model_class": "ArtifactClinic"}

    @routes.post("/setup", dependencies=allowed)
    def setup() -> dict[str, str]:
        return {"model_version": label_studio.champion_version(workspace)}

    @routes.post("/predict", dependencies=allowed)
    def predict(body: PredictRequest) -> dict[str, Any]:
        results = label_studio.predictions_for(workspace, body.tasks)
        return {"results": results, "model_version": label_studio.champion_version(workspace)}

    @routes.post("/webhook", dependencies=allowed, status_code=202)
    def webhook(event: Event) -> dict[str, str]:
        if event.action == "START_TRAINING":
            return {"status": label_studio.request_retraining(workspace)}
        if event.action not in ANNOTATED or event.project is None:
            return {"status": "ignored"}
        job = label_studio.request_pull(workspace, event.project.id)
        return {"status": f"pull {job.id}" if job else "a pull is already queued"}

    @routes.get("/images/{image_id}")
    def pixels(image_id: str, expires: int, signature: Annotated[str, Field(max_length=128)]) -> Response:
        data, media_type = label_studio.signed_pixels(workspace, image_id, expires, signature)
        # The editor draws the image on a canvas, which browsers allow across sites only with this header.
        headers = {"Access-Control-Allow-Origin": "*", "Cross-Origin-Resource-Policy": "cross-origin"}
        headers["Cache-Control"] = "private, max-age=86400"
        return Response(data, media_type=media_type, headers=headers)

    return routes


def secret_of(request: Request) -> str:
    """The secret in a request; "" without one."""
    kind, _, value = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "basic":
        return request.headers.get(SECRET_HEADER, "")
    try:
        return base64.b64decode(value, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""
