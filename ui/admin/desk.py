"""The admin desk at /admin. It is a Gradio app: Gradio is loaded only when the server mounts it."""

from pathlib import Path

from fastapi import APIRouter, FastAPI

from ui.web.access import ADMINS
from ui.web.desk import Desk, Site
from ui.web.policy import GRADIO


def mount_admin(app: FastAPI, site: Site) -> None:
    """Build the Gradio app and mount it."""
    from ui.admin.routes import build_admin_desk
    from ui.web.gradio_kit import mount

    mount(app, DESK.path, build_admin_desk(site), ADMINS)


def admin_routers(site: Site) -> list[APIRouter]:
    """The files that the desk links to."""
    if not site.settings.desks:
        return []
    from ui.admin.exports import export_routes

    return [export_routes(site.workspace)]


DESK = Desk(
    folder=Path(__file__).parent,
    path="/admin",
    title="Admin",
    caption="People, models, endpoints, workers, disk and backups.",
    roles=ADMINS,
    api={"/api/admin": ADMINS},
    routers=admin_routers,
    mount_gradio=mount_admin,
    policy=GRADIO,
)
