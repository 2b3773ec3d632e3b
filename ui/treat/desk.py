"""The treatment desk at /treat."""

from pathlib import Path

from ui.treat.routes import treat_routes
from ui.web.access import ENGINEERS
from ui.web.desk import Desk

DESK = Desk(
    folder=Path(__file__).parent,
    path="/treat",
    title="Treat",
    caption="Generator treatments, before and after.",
    roles=ENGINEERS,
    api={"/api/treat": ENGINEERS},
    large_bodies=frozenset(f"/api/treat/{name}" for name in ("prompts", "checks", "needs", "start")),
    routers=lambda site: [treat_routes(site.workspace)],
)
