"""The Gradio desk, mounted under its path. Importing this loads Gradio."""

from fastapi import FastAPI

from storage.workspace import Workspace
from ui.admin.gradio_kit import mount
from ui.admin.routes import build_admin_desk
from ui.config import ServerConfig


def mount_desks(app: FastAPI, workspace: Workspace, settings: ServerConfig) -> None:
    """Build the desks and mount them for the roles of the access table."""
    mount(app, "/admin", build_admin_desk(workspace, settings.allowed_networks))
