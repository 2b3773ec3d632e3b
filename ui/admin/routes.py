"""The admin desk: one tab for each subject, each in a module of its own."""

import gradio as gr

from ui.admin.audit import audit_tab
from ui.admin.classes import classes_tab
from ui.admin.erasure import erasure_tab
from ui.admin.models import models_tab
from ui.admin.people import people_tab
from ui.admin.system import system_tab
from ui.admin.tokens import tokens_tab
from ui.admin.webhooks import webhooks_tab
from ui.web.desk import Site
from ui.web.gradio_kit import desk, heading


def build_admin_desk(site: Site) -> gr.Blocks:
    """The desk at /admin."""
    workspace = site.workspace
    with desk("Admin") as blocks:
        heading("Admin", "Accounts and roles, allowed models and folders, system health.")
        with gr.Tabs():
            with gr.Tab("People"):
                people_tab(site, blocks)
            with gr.Tab("API tokens") as tokens:
                tokens_tab(workspace, tokens)
            with gr.Tab("Models and endpoints") as models:
                models_tab(workspace, models, site.settings.allowed_networks)
            with gr.Tab("Webhooks") as webhooks:
                webhooks_tab(workspace, webhooks)
            with gr.Tab("System") as system:
                system_tab(workspace, system)
            with gr.Tab("Label classes") as classes:
                classes_tab(workspace, classes)
            with gr.Tab("Audit") as audit:
                audit_tab(workspace, audit)
            with gr.Tab("Erasure"):
                erasure_tab(workspace)
    return blocks
