"""Segment-anything assist: clicks, a box or a word in, a mask out, computed by the inference service."""

import base64

from fastapi import APIRouter

from dataengine.errors import NotFound
from dataengine.images import decode
from dataengine.masks import pack_label_map
from pipelines.services.inference import segment, segmenter_tools
from storage.workspace import Workspace
from ui.annotate.annotator import Annotator
from ui.annotate.schemas import Ask, Segment
from ui.web.errors import ERRORS


def assist_routes(workspace: Workspace) -> APIRouter:
    """The route under /api/annotate/assist."""
    routes = APIRouter(prefix="/api/annotate", tags=["annotate"], responses=ERRORS)

    @routes.post("/assist", response_model=Segment)
    def assist(ask: Ask, person: Annotator) -> Segment:
        """The mask of the object that was clicked or boxed, or of everything that the word names."""
        with workspace.catalog(read_only=True) as catalog:
            image = catalog.images.get(ask.image)
            if not segmenter_tools(catalog):
                raise NotFound("no segmenter is registered; an admin can add one on the Admin desk")
        points = [(point.x, point.y, point.inside) for point in ask.points]
        pixels = decode(workspace.blobs.get(image.sha256))
        score, mask = segment(workspace, image.id, pixels, points, ask.box, ask.word)
        return Segment(label_map=base64.b64encode(pack_label_map(mask)).decode(), score=score)

    return routes
