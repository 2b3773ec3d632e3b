"""The Gradio app at /gradio. Gradio is loaded only when the server mounts it."""

from pathlib import Path

from fastapi import FastAPI

from dataengine.bounds import IMAGE_BYTES
from ui.web.access import IMAGE_VIEWERS
from ui.web.desk import Desk, Site
from ui.web.policy import GRADIO_HTML


def mount_app(app: FastAPI, site: Site) -> None:
    """Build the Gradio app and mount it."""
    from ui.gradio.app import build_app
    from ui.gradio.context import AppContext
    from ui.web.gradio_kit import mount

    context = AppContext(workspace=site.workspace, lease_seconds=60 * site.settings.lease_minutes)
    mount(app, DESK.path, build_app(context), DESK.roles, IMAGE_BYTES)


DESK = Desk(
    folder=Path(__file__).parent,
    path="/gradio",
    title="Gradio",
    caption="All steps on one page: diagnose and repair, label, hard cases, retrain, treat.",
    roles=IMAGE_VIEWERS,
    mount_gradio=mount_app,
    takes_files=True,
    policy=GRADIO_HTML,
)
