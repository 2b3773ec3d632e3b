"""Our own pages: constant templates, every value escaped. Sign-in, home, refusals and the annotation page."""

from functools import cache
from html import escape
from pathlib import Path
from string import Template

from starlette.responses import HTMLResponse

HERE = Path(__file__).parent
DESKS = HERE.parent
STATIC = HERE / "static"

SIGN_IN_FORM = Template(
    """<form method="post" action="/login">
<input type="hidden" name="form_token" value="$token"><input type="hidden" name="next" value="$next">
<label>Name<input name="name" autocomplete="username" maxlength="128" required autofocus></label>
<label>Password
<input name="password" type="password" autocomplete="current-password" maxlength="1024" required></label>
<button class="button">Sign in</button></form>"""
)


JOIN_FORM = Template(
    """<p>You will see two pictures at a time and say which is better. It needs no name and no password;
what is kept is your answers and how long they took. You can stop at any time.</p>
<form method="post" action="/join"><input type="hidden" name="invitation" value="$token">
<button class="button">Begin</button></form>"""
)


@cache
def template(name: str) -> Template:
    """A desk's page, or one of `ui/web/pages`, by name."""
    own = DESKS / name / "page.html"
    return Template((own if own.is_file() else HERE / "pages" / f"{name}.html").read_text(encoding="utf-8"))


def note(text: str, kind: str = "") -> str:
    """A coloured line, or nothing for an empty text."""
    return f'<p class="note {kind}">{escape(text)}</p>' if text else ""


def login_page(form_token: str, target: str, problem: str = "", status: int = 200) -> HTMLResponse:
    """Name and password."""
    form = SIGN_IN_FORM.substitute(token=escape(form_token), next=escape(target))
    page = template("login").substitute(intro="Sign in to go on.", note=note(problem, "bad"), form=form)
    return HTMLResponse(page, status)


def start_link_page(problem: str = "", status: int = 200) -> HTMLResponse:
    """What somebody sees who comes without the start-up link while there are no accounts."""
    intro = (
        "There are no accounts yet. Open the link that <b>clinic app</b> printed when it started; "
        "it ends in <b>?token=…</b>"
    )
    return HTMLResponse(template("login").substitute(intro=intro, note=note(problem, "bad"), form=""), status)


def message_page(title: str, text: str, status: int) -> HTMLResponse:
    """One plain statement, for refusals and what does not exist."""
    return HTMLResponse(template("message").substitute(title=escape(title), text=escape(text)), status)


def annotate_page() -> HTMLResponse:
    """The canvas page; everything in it is fetched by its script."""
    return HTMLResponse(template("annotate").template)


def runs_page(title: str, script: str) -> HTMLResponse:
    """The page of a desk that follows runs, /train or /treat; everything in it is fetched by its script."""
    return HTMLResponse(template("runs").substitute(title=escape(title), script=escape(script)))


def study_page() -> HTMLResponse:
    """The page of blind studies; everything in it is fetched by its scripts."""
    return HTMLResponse(template("study").template)


def rounds_page() -> HTMLResponse:
    """The rounds desk; everything in it is fetched by its scripts."""
    return HTMLResponse(template("rounds").template)


def join_page(study: str, token: str, problem: str = "", status: int = 200) -> HTMLResponse:
    """What an invitation opens: one button, or why it opens nothing."""
    form = JOIN_FORM.substitute(token=escape(token)) if token else ""
    intro = (
        f"You are invited to judge pictures: <b>{escape(study)}</b>." if token else "An invitation to judge."
    )
    return HTMLResponse(
        template("login").substitute(intro=intro, note=note(problem, "bad"), form=form), status
    )


def curate_page() -> HTMLResponse:
    """The curation desk; everything in it is fetched by its scripts."""
    return HTMLResponse(template("curate").template)


def home_page(
    greeting: str, problem: str, figures: list[tuple[str, str]], areas: list[tuple[str, str, str]]
) -> HTMLResponse:
    """Figures as (value, caption) and cards as (path, title, caption)."""
    page = template("home").substitute(
        greeting=escape(greeting),
        note=note(problem),
        figures="".join(
            f"<div><b>{escape(value)}</b><span>{escape(caption)}</span></div>" for value, caption in figures
        ),
        areas="".join(
            f'<a class="card" href="{escape(path)}"><b>{escape(title)}</b><span>{escape(caption)}</span></a>'
            for path, title, caption in areas
        ),
    )
    return HTMLResponse(page)
