"""The admin desk at /admin. It is a Gradio app: Gradio is loaded only when the server mounts it."""

from pathlib import Path

from fastapi import FastAPI

from ui.web.access import ADMINS
from ui.web.desk import Desk, Site


def mount_admin(app: FastAPI, site: Site) -> None:
    """Build the Gradio app and mount it."""
    from ui.admin.gradio_kit import mount
    from ui.admin.routes import build_admin_desk

    mount(app, DESK.path, build_admin_desk(site.workspace, site.settings.allowed_networks), ADMINS)


DESK = Desk(
    folder=Path(__file__).parent,
    path="/admin",
    title="Admin",
    caption="People, models, endpoints, workers, disk and backups.",
    roles=ADMINS,
    mount_gradio=mount_admin,
)
