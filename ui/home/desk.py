"""The home page, for everybody who is signed in."""

from pathlib import Path

from ui.home.routes import home_routes
from ui.web.access import SIGNED_IN
from ui.web.desk import Desk

DESK = Desk(
    folder=Path(__file__).parent,
    api={"/": SIGNED_IN},
    routers=lambda site: [home_routes(site)],
)
