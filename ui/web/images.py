"""Pixels, thumbnails and artifact maps over HTTP, immutable under their hashes."""

import gzip
import re
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray

from dataengine.errors import NotFound
from dataengine.images import as_shown
from storage.catalog import Catalog
from storage.workspace import Workspace
from ui.web.access import IMAGE_VIEWERS
from ui.web.blob_pool import reads_blobs
from ui.web.errors import ERRORS
from ui.web.sessions import Person, Requires

IMMUTABLE = "private, max-age=31536000, immutable"
SHOWN_TYPES = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp"})

Viewer = Annotated[Person, Requires(IMAGE_VIEWERS, "viewing images")]
MapViewer = Annotated[Person, Requires(IMAGE_VIEWERS, "viewing artifact maps")]


def image_routes(workspace: Workspace) -> APIRouter:
    """The routes under /api/images."""
    routes = APIRouter(prefix="/api", tags=["images"], responses=ERRORS)

    @routes.get("/images/{image_id}/pixels")
    @reads_blobs
    def pixels(image_id: str, request: Request, person: Viewer) -> Response:
        with workspace.catalog(read_only=True) as catalog:
            image = catalog.images.get(image_id)
        return image_response(workspace, request, image.sha256, image.media_type)

    @routes.get("/images/{image_id}/thumbnail")
    @reads_blobs
    def thumbnail(image_id: str, request: Request, person: Viewer) -> Response:
        with workspace.catalog(read_only=True) as catalog:
            image = catalog.images.get(image_id)
        if image.thumbnail is None:
            return image_response(workspace, request, image.sha256, image.media_type)
        return image_response(workspace, request, image.thumbnail)

    @routes.get("/images/{image_id}/map")
    @reads_blobs
    def confidence_map(image_id: str, person: MapViewer, detector: str | None = None) -> Response:
        with workspace.catalog(read_only=True) as catalog:
            map_ref, detector_id = find_map(catalog, image_id, detector)
        confidence = workspace.maps.get(map_ref)
        return map_response(
            confidence, **{"X-Detector": detector_id, "Cache-Control": "private, max-age=3600"}
        )

    return routes


def find_map(catalog: Catalog, image_id: str, detector_id: str | None) -> tuple[str, str]:
    """An image's map reference for a detector (default: the champion), and the detector's id.

    Raises `NotFound`.
    """
    if detector_id is None:
        champion = catalog.detectors.champion()
        detector_id = champion.id if champion else ""
    prediction = catalog.predictions.get(image_id, detector_id)
    if prediction is None or prediction.map_ref is None:
        raise NotFound(
            f"image {image_id!r} has no map by detector {detector_id!r}; run `clinic diagnose` first"
        )
    return prediction.map_ref, detector_id


def image_response(
    workspace: Workspace, request: Request, sha256: str, media_type: str | None = None
) -> Response:
    """A stored image, which never changes under its hash; served so that browsers never execute it.

    With `media_type` it is an image as it came in, which is sent as every browser shows it: upright, opaque.
    """
    # Not the bare hash, under which browsers may still keep files that they do not turn.
    etag = f'"{sha256}"' if media_type is None else f'"{sha256}.shown"'
    headers = {"ETag": etag, "Cache-Control": IMMUTABLE}
    if etag in re.split(r"\s*,\s*", request.headers.get("if-none-match", "")):
        return Response(status_code=304, headers=headers)
    data = workspace.blobs.get(sha256)
    data, kind = (data, sniffed(data)) if media_type is None else as_shown(data, media_type)
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


def map_response(values: NDArray[np.uint8], **headers: str) -> Response:
    """A label map or 8-bit artifact map (uint8 HW) as browsers take it: gzipped, its size in headers."""
    height, width = values.shape
    sent = {"Content-Encoding": "gzip", "X-Height": str(height), "X-Width": str(width), **headers}
    body = gzip.compress(np.ascontiguousarray(values).tobytes(), 4)
    return Response(body, headers=sent, media_type="application/octet-stream")
