"""The rounds desk at /rounds."""

from pathlib import Path

from ui.rounds.routes import READERS, rounds_routes
from ui.web.desk import Desk

DESK = Desk(
    folder=Path(__file__).parent,
    path="/rounds",
    title="Rounds",
    caption="The loop: stages, results, jobs and workers.",
    roles=READERS,
    api={"/api/rounds": READERS},
    routers=lambda site: [rounds_routes(site.workspace)],
)
