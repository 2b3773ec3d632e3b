"""Server-rendered pages: Jinja templates that escape every value. The layout and the sign-in pages are in
`pages/`, a desk's templates in its own folder.
"""

from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse

from pipelines.services.operation.logs import request_id

UI = Path(__file__).parents[1]
STATIC = Path(__file__).parent / "static"
ROOT: ContextVar[str] = ContextVar("root", default="")
"""The sub-path of our pages in the browser's address, such as "/clinic", while a request is answered."""


@cache
def templates() -> Environment:
    """All templates, by their path below `ui/`."""
    return Environment(loader=FileSystemLoader(UI), autoescape=True, undefined=StrictUndefined)


def render(template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A page from the template of that path below `ui/`."""
    return HTMLResponse(templates().get_template(template).render(root=ROOT.get(), **values), status)


def login_page(
    form_token: str,
    target: str,
    problem: str = "",
    status: int = 200,
    name: str = "",
    provider: str = "",
    passwords: bool = True,
) -> HTMLResponse:
    """Name and password, after a failure the name stays, and a button for single sign-on with `provider`."""
    return render(
        "web/pages/login.html",
        status,
        token=form_token,
        next=target,
        problem=problem,
        name=name,
        provider=provider,
        passwords=passwords,
    )


def sign_on_failed_page(text: str, target: str, status: int) -> HTMLResponse:
    """Why single sign-on failed, in one sentence, and the way back."""
    return render("web/pages/sign_on_failed.html", status, text=text, next=target)


def start_link_page(problem: str = "", status: int = 200) -> HTMLResponse:
    """The page for visitors without the start-up link while there are no accounts."""
    return render("web/pages/start_link.html", status, problem=problem)


def message_page(title: str, text: str, status: int) -> HTMLResponse:
    """A short message, for refusals and missing pages."""
    return render("web/pages/message.html", status, title=title, text=text, request=request_id.get())
