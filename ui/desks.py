"""All Gradio desks, mounted under their paths. Importing this loads Gradio."""

from collections.abc import Callable

import gradio as gr
from fastapi import FastAPI

from storage.workspace import Workspace
from ui.admin import build_admin_desk
from ui.config import ServerConfig
from ui.desk import mount
from ui.treat import build_treat_desk

DESKS: dict[str, Callable[[Workspace], gr.Blocks]] = {
    "/treat": build_treat_desk,
}


def mount_desks(app: FastAPI, workspace: Workspace, settings: ServerConfig) -> None:
    """Build every desk and mount it for the roles of the access table."""
    for path, build in DESKS.items():
        mount(app, path, build(workspace))
    mount(app, "/admin", build_admin_desk(workspace, settings.allowed_networks))
