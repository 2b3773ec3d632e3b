"""The curation desk at /curate."""

from pathlib import Path

from ui.curate.routes import READERS, curate_routes
from ui.web.access import CURATORS
from ui.web.desk import Desk

DESK = Desk(
    folder=Path(__file__).parent,
    path="/curate",
    title="Curate",
    caption="Images, artifact maps and labels, by category and confidence.",
    roles=READERS,
    api={"/api/curate": READERS, "/api/curate/people": CURATORS, "/api/curate/pilots": CURATORS},
    routers=lambda site: [curate_routes(site.workspace)],
)
