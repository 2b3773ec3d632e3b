"""The annotation desk at /annotate."""

from pathlib import Path

from ui.annotate.annotator import ANNOTATORS
from ui.annotate.routes import annotation_routes
from ui.web.access import CURATORS
from ui.web.desk import Desk

DESK = Desk(
    folder=Path(__file__).parent,
    path="/annotate",
    title="Annotate",
    caption="Mark artifacts in the most informative images.",
    roles=ANNOTATORS,
    api={
        "/api/annotate": ANNOTATORS,
        "/api/annotate/gold": CURATORS,
        "/api/annotate/merged": CURATORS,
    },
    large_bodies=frozenset({"/api/annotate/submit", "/api/annotate/draft"}),
    routers=lambda site: [annotation_routes(site.workspace, site.settings)],
)
