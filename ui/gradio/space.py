"""The Gradio app on a Hugging Face Space: Gradio's own server, without accounts and without our other pages.

Everyone who reaches a Space may do everything but administer it, each browser session as a person of its own.
With the secret `CLINIC_PASSWORD` only those who sign in as `clinic` with it get in.
"""

import os

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from dataengine.bounds import IMAGE_BYTES
from dataengine.records import ROLES
from storage.workspace import Workspace
from ui.gradio.context import GUEST, AppContext
from ui.web.pages import STATIC
from ui.web.sessions import Person

USER, PASSWORD = "clinic", "CLINIC_PASSWORD"
STYLES = (STATIC / "style.css", STATIC / "gradio.css")
GUESTS = Person(name=GUEST, roles=tuple(role for role in ROLES if role != "admin"), csrf="", token="")


class EverybodyIsGuest:
    """Makes whoever asks a guest; Gradio has checked the password before, where there is one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope.setdefault("state", {})["person"] = GUESTS
        await self.app(scope, receive, send)


def serve_space(workspace: Workspace, host: str = "0.0.0.0", port: int = 7860) -> None:
    """Serve the app until interrupted."""
    from ui.gradio.app import build_app
    from ui.web.gradio_kit import theme, tune_queue

    blocks = build_app(AppContext(workspace=workspace, desks=False))
    tune_queue(blocks)
    password = os.environ.get(PASSWORD, "")
    blocks.launch(
        server_name=host,
        server_port=port,
        auth=(USER, password) if password else None,
        theme=theme(),
        css_paths=list(map(str, STYLES)),
        max_file_size=IMAGE_BYTES,
        footer_links=["api"],
        ssr_mode=False,
        enable_monitoring=False,
        quiet=True,
        app_kwargs={"middleware": [Middleware(EverybodyIsGuest)]},
    )


def address() -> tuple[str, int]:
    """Where a Space has to listen."""
    name, port = os.environ.get("GRADIO_SERVER_NAME", "0.0.0.0"), os.environ.get("GRADIO_SERVER_PORT", "7860")
    return name, int(port)
