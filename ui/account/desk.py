"""The own account at /account: password and sessions. It has no card; its link is the name in the header."""

from pathlib import Path

from ui.account.routes import account_routes
from ui.web.access import SIGNED_IN
from ui.web.desk import Desk

DESK = Desk(
    folder=Path(__file__).parent,
    path="/account",
    roles=SIGNED_IN,
    api={"/api/account": SIGNED_IN},
    routers=lambda site: [account_routes(site.workspace)],
)
