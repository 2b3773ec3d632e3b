"""Blind studies at /study: judging, creating, and joining by invitation."""

from pathlib import Path

from ui.study.invitations import joining_routes
from ui.study.routes import RATERS, study_routes
from ui.study.studies import making_routes
from ui.web.access import ADMINS, ENGINEERS, PUBLIC
from ui.web.desk import Desk

DESK = Desk(
    folder=Path(__file__).parent,
    path="/study",
    title="Study",
    caption="Blind comparison of before and after.",
    roles=RATERS,
    api={
        "/api/study": RATERS,
        "/api/studies": ENGINEERS,
        "/api/invitations": ADMINS,
        "/join": PUBLIC,  # an invitation is its own secret
    },
    routers=lambda site: [
        study_routes(site.workspace),
        making_routes(site.workspace),
        joining_routes(site.session_manager),
    ],
)
