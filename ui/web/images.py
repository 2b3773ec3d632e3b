"""Pixels, thumbnails and artifact maps over HTTP, immutable under their hashes."""

import gzip
import re
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Depends, Request, Response

from dataengine.errors import NotFound
from dataengine.masks import LabelMap
from storage.catalog import Catalog
from storage.workspace import Workspace
from ui.web.access import ACCESS, require
from ui.web.errors import ERRORS
from ui.web.sessions import Person, signed_in

SEEING = ACCESS["/api/images"]
IMMUTABLE = "private, max-age=31536000, immutable"
SHOWN_TYPES = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp"})

Signed = Annotated[Person, Depends(signed_in)]


def image_routes(workspace: Workspace) -> APIRouter:
    """The routes under /api/images."""
    routes = APIRouter(prefix="/api", tags=["images"], responses=ERRORS)

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


def map_response(shown: LabelMap, **headers: str) -> Response:
    """A label map as the browser takes it: gzipped raw bytes, its size in headers."""
    height, width = shown.shape
    sent = {"Content-Encoding": "gzip", "X-Height": str(height), "X-Width": str(width), **headers}
    body = gzip.compress(np.ascontiguousarray(shown).tobytes(), 4)
    return Response(body, headers=sent, media_type="application/octet-stream")
