"""What desks share: runs, their order in the queue, jobs, registering models. It has no page."""

from pathlib import Path

from ui.runs.routes import JOB_READERS, job_routes, model_routes, queue_routes
from ui.web.access import ADMINS, ENGINEERS
from ui.web.desk import Desk

DESK = Desk(
    folder=Path(__file__).parent,
    api={"/api/queue": ADMINS, "/api/models": ENGINEERS, "/api/jobs": JOB_READERS},
    routers=lambda site: [make(site.workspace) for make in (queue_routes, model_routes, job_routes)],
)
