"""The training desk at /train."""

from pathlib import Path

from ui.train.routes import train_routes
from ui.web.access import ENGINEERS
from ui.web.desk import Desk

DESK = Desk(
    folder=Path(__file__).parent,
    path="/train",
    title="Train",
    caption="Detectors, their metrics, and the current champion.",
    roles=ENGINEERS,
    api={"/api/train": ENGINEERS},
    routers=lambda site: [train_routes(site.workspace)],
)
