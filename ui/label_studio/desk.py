"""The backend for Label Studio. Its routes check the shared secret themselves."""

from pathlib import Path

from ui.label_studio.routes import label_studio_routes
from ui.web.access import PUBLIC
from ui.web.desk import Desk

DESK = Desk(
    folder=Path(__file__).parent,
    api={"/label-studio": PUBLIC},
    routers=lambda site: [label_studio_routes(site.workspace)],
)
