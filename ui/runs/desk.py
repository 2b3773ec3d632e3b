"""What /train and /treat share: runs, and their order in the queue. It has no page."""

from pathlib import Path

from ui.runs.routes import queue_routes
from ui.web.access import ADMINS
from ui.web.desk import Desk

DESK = Desk(
    folder=Path(__file__).parent,
    api={"/api/queue": ADMINS},
    routers=lambda site: [queue_routes(site.workspace)],
)
