"""The annotation API: the next image under a lease, its pixels and map, and a person's answer.

The only door for labels: the page at /annotate and simulated people use it alike.
"""

import base64
import binascii
import gzip
import re
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from dataengine.errors import MaskRefused, NotFound
from dataengine.masks import pack_label_map, unpack_label_map
from dataengine.records import Image, Label, Lease, now
from storage.catalog import Catalog
from storage.queries import annotator_day
from storage.workspace import Workspace
from ui.access import ACCESS, require
from ui.auth import Person, signed_in
from ui.config import ServerConfig

ANSWERING = ACCESS["/api/annotate"]
SEEING = ACCESS["/api/images"]
IMMUTABLE = "private, max-age=31536000, immutable"
SHOWN_TYPES = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp"})

Short = Annotated[str, Field(min_length=1, max_length=128)]
Signed = Annotated[Person, Depends(signed_in)]


class Body(BaseModel):
    """A request body: strict, bounded."""

    model_config = ConfigDict(extra="forbid")


class Answer(Body):
    """What a person says of the leased image: a label map, or that nothing is broken."""

    lease: Short
    image: Short
    revision: int = Field(ge=0, le=1_000_000)
    clean: bool = False
    label_map: str | None = Field(default=None, max_length=12_000_000)
    seconds: float = Field(default=0.0, ge=0, le=86_400, allow_inf_nan=False)
    simulated: bool = False


class Skip(Body):
    """Declining the leased image."""

    lease: Short
    reason: str = Field(default="", max_length=500)


class Release(Body):
    """Giving the leased image back."""

    lease: Short


def annotation_routes(workspace: Workspace, settings: ServerConfig) -> APIRouter:
    """The routes under /api/annotate and /api/images."""
    routes = APIRouter(prefix="/api")
    lease_seconds = 60 * settings.lease_minutes

    @routes.get("/annotate/next", response_model=None)
    def next_image(person: Signed) -> dict[str, Any] | Response:
        require(person.roles, ANSWERING, "labelling")
        with workspace.catalog() as catalog:
            lease = take_lease(catalog, person.name, lease_seconds)
            task = None if lease is None else describe(catalog, lease, person.name)
            catalog.commit()
        return Response(status_code=204) if task is None else task

    @routes.post("/annotate/submit")
    def submit(answer: Answer, person: Signed) -> dict[str, Any]:
        require(person.roles, ANSWERING, "labelling")
        with workspace.catalog(read_only=True) as catalog:
            image, classes = catalog.images.get(answer.image), len(catalog.classes.names())
        packed = read_label_map(answer, image, classes)
        blob = None if packed is None else workspace.blobs.put(packed)
        with workspace.catalog() as catalog:
            champion = catalog.detectors.champion()
            label = Label(
                image_id=image.id,
                author=person.name,
                height=image.height,
                width=image.width,
                label_map=blob,
                clean=answer.clean,
                source="simulated" if answer.simulated else "person",
                lead_seconds=answer.seconds,
                detector_id=champion.id if champion else None,
            )
            stored = catalog.labels.submit(label, answer.lease, answer.revision)
            catalog.commit()
        return {"revision": stored.revision}

    @routes.post("/annotate/skip")
    def skip(request: Skip, person: Signed) -> dict[str, bool]:
        require(person.roles, ANSWERING, "labelling")
        with workspace.catalog() as catalog:
            catalog.queue.skip(request.lease, person.name, request.reason)
            catalog.commit()
        return {"skipped": True}

    @routes.post("/annotate/release")
    def release(request: Release, person: Signed) -> dict[str, bool]:
        require(person.roles, ANSWERING, "labelling")
        with workspace.catalog() as catalog:
            released = catalog.queue.release(request.lease, person.name)
            catalog.commit()
        return {"released": released}

    @routes.get("/images/{image_id}/pixels")
    def pixels(image_id: str, request: Request, person: Signed) -> Response:
        require(person.roles, SEEING, "seeing images")
        with workspace.catalog(read_only=True) as catalog:
            image = catalog.images.get(image_id)
        return picture(workspace, request, image.sha256, image.media_type)

    @routes.get("/images/{image_id}/thumbnail")
    def thumbnail(image_id: str, request: Request, person: Signed) -> Response:
        require(person.roles, SEEING, "seeing images")
        with workspace.catalog(read_only=True) as catalog:
            image = catalog.images.get(image_id)
        if image.thumbnail is None:
            return picture(workspace, request, image.sha256, image.media_type)
        return picture(workspace, request, image.thumbnail)

    @routes.get("/images/{image_id}/map")
    def confidence_map(image_id: str, person: Signed, detector: str | None = None) -> Response:
        require(person.roles, SEEING, "seeing artifact maps")
        with workspace.catalog(read_only=True) as catalog:
            map_ref, detector_id = find_map(catalog, image_id, detector)
        confidence = workspace.maps.get(map_ref)
        height, width = confidence.shape
        headers = {
            "Content-Encoding": "gzip",
            "X-Height": str(height),
            "X-Width": str(width),
            "X-Detector": detector_id,
            "Cache-Control": "private, max-age=3600",
        }
        return Response(
            gzip.compress(confidence.tobytes(), 4), headers=headers, media_type="application/octet-stream"
        )

    return routes


def take_lease(catalog: Catalog, annotator: str, lease_seconds: float) -> Lease | None:
    """The lease this person already holds, renewed, or else the next free image; None when nothing waits."""
    moment = now()
    for lease in catalog.queue.held(annotator, moment):
        if lease.kind == "draw":
            return catalog.queue.renew(lease.id, annotator, moment + lease_seconds, moment)
    return catalog.queue.next(annotator, moment, lease_seconds, "draw")


def describe(catalog: Catalog, lease: Lease, annotator: str) -> dict[str, Any]:
    """What the page needs to know of a leased image."""
    image = catalog.images.get(lease.image_id)
    mine = catalog.labels.latest(image.id, annotator)
    day = annotator_day(catalog, annotator, now(), start_of_today())
    champion = catalog.detectors.champion()
    prediction = catalog.predictions.get(image.id, champion.id) if champion else None
    shown = champion is not None and prediction is not None and prediction.map_ref is not None
    return {
        "lease": lease.id,
        "expires": lease.expires,
        "image": {
            "id": image.id,
            "height": image.height,
            "width": image.width,
            "prompt": image.prompt,
            "category": image.category,
            "url": f"/api/images/{image.id}/pixels",
        },
        "map": {"url": f"/api/images/{image.id}/map?detector={champion.id}", "detector": champion.name}
        if champion is not None and shown
        else None,
        "classes": list(catalog.classes.names()),
        "remaining": day.remaining,
        "done_today": day.done_today,
        "revision": mine.revision if mine else 0,
    }


def read_label_map(answer: Answer, image: Image, classes: int) -> bytes | None:
    """The packed label map in its one form, or None for a clean image. Raises `MaskRefused`."""
    if answer.label_map is None:
        if answer.clean:
            return None
        raise MaskRefused("the answer holds no label map; send one, or say that the image is clean")
    try:
        packed = base64.b64decode(answer.label_map, validate=True)
    except binascii.Error as error:
        raise MaskRefused(f"the label map is no base64 ({error})") from None
    label_map = unpack_label_map(packed, image.height, image.width, classes)
    if label_map.any() == answer.clean:
        raise MaskRefused("an image is clean exactly when nothing is painted; this answer says otherwise")
    return None if answer.clean else pack_label_map(label_map)


def find_map(catalog: Catalog, image_id: str, detector_id: str | None) -> tuple[str, str]:
    """Where the detector's (the champion's) map of an image lies, and whose it is. Raises `NotFound`."""
    if detector_id is None:
        champion = catalog.detectors.champion()
        detector_id = champion.id if champion else ""
    prediction = catalog.predictions.get(image_id, detector_id)
    if prediction is None or prediction.map_ref is None:
        raise NotFound(
            f"image {image_id!r} has no map by detector {detector_id!r}; run `clinic diagnose` first"
        )
    return prediction.map_ref, detector_id


def picture(workspace: Workspace, request: Request, sha256: str, media_type: str | None = None) -> Response:
    """A stored picture, unchanged for ever under its hash; nothing in it is ever run."""
    etag = f'"{sha256}"'
    headers = {"ETag": etag, "Cache-Control": IMMUTABLE}
    if etag in re.split(r"\s*,\s*", request.headers.get("if-none-match", "")):
        return Response(status_code=304, headers=headers)
    data = workspace.blobs.get(sha256)
    kind = media_type or sniffed(data)
    return Response(
        data, headers=headers, media_type=kind if kind in SHOWN_TYPES else "application/octet-stream"
    )


def sniffed(data: bytes) -> str:
    """The media type by the first bytes, for thumbnails, whose type no row records."""
    if data.startswith(b"\x89PNG"):
        return "image/png"
    if data.startswith(b"\xff\xd8"):
        return "image/jpeg"
    return "image/webp" if data[8:12] == b"WEBP" else "application/octet-stream"


def start_of_today() -> float:
    """This machine's last midnight, in seconds since the epoch."""
    return datetime.now().replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
