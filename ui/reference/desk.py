"""The API's description, for people and for programs. It has no card; the account page links to it."""

from pathlib import Path

from ui.reference.routes import reference_routes
from ui.web.access import PUBLIC
from ui.web.desk import Desk

DESK = Desk(
    folder=Path(__file__).parent,
    api={"/api/docs": PUBLIC, "/api/openapi.json": PUBLIC},
    routers=lambda site: [reference_routes(site)],
)
