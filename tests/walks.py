"""Walks through the app in a browser: every page and its first action of each role, streams, upload,
download, joining by invitation, signing out. Each is a sentence of what went wrong, or "".
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Error, Page, Response, expect

from dataengine.records import ROLES
from tests.ui.browsing import PASSWORD, WITHOUT_TOUR, until
from tests.ui.conftest import png

READY_MS = 90_000
GRADIO = ("/admin", "/gradio")
SENDING: dict[str, tuple[str, dict[str, Any] | None]] = {
    "/annotate": ("/api/annotate/tour", {}),
    "/curate": ("/api/curate/views", {"name": "walk NUMBER", "query": {}, "shared": False}),
    "/import": ("/api/import/uploads", {"total": 1}),
    "/train": ("/api/models/register", None),
    "/treat": ("/api/models/register", None),
}
"""What a page's first action sends, beyond the requests of its first link; None is a body that is refused
with a sentence, which shows as well that the request arrived."""
STUDY = {
    "name": "walk",
    "before": "base",
    "after": "treated",
    "design": {"questions": ["artifacts", "alignment"], "scale": "score", "raters_a_pair": 3, "checks": 1},
}
NOT_OURS = re.compile(r"/manifest\.json|/favicon\.ico")
"""What Gradio's page asks for at the top of its host, and does without."""
numbers = count(1)


class Walker:
    """One browser context at one address of the clinic; `problems` are what went wrong in it."""

    def __init__(self, browser: Browser, base: str) -> None:
        self.base, self.root = base, urlsplit(base).path
        self.context = browser.new_context(ignore_https_errors=True)
        self.context.add_init_script(WITHOUT_TOUR)
        self.page = self.context.new_page()
        self.page.set_default_timeout(READY_MS)
        self.problems: list[str] = []
        self.streams = 0
        self.page.on("pageerror", lambda error: self.problems.append(f"a script failed: {error}"))
        self.page.on("console", lambda line: self.note_policy(line.text))
        self.page.on("response", self.note_response)

    def note_policy(self, text: str) -> None:
        if "Content Security Policy" in text:
            self.problems.append(text)

    def note_response(self, response: Response) -> None:
        if response.headers.get("content-type", "").startswith("text/event-stream"):
            self.streams += response.ok
        if response.status >= 400 and not NOT_OURS.search(response.url) and response.status != 422:
            self.problems.append(f"{response.status} for {response.request.method} {response.url}")
        if response.ok and not response.url.startswith((self.base + "/", "blob:", "data:")):
            self.problems.append(f"{response.url} is outside of {self.base}/")

    def open(self, path: str) -> Page:
        """The page at a path, once it shows what it is for."""
        self.page.goto(self.base + path)
        if path in GRADIO:
            expect(self.page.get_by_role("heading", level=1).first).to_be_visible(timeout=READY_MS)
        elif path == "/annotate":
            until(self.page, "() => document.body.dataset.ready === 'true'")
        elif path != "/":
            until(self.page, "() => document.querySelector('#view')?.childElementCount > 0")
        expect(self.page.locator("header.clinic-bar")).to_be_visible(timeout=READY_MS)
        return self.page

    def send(self, path: str, body: object) -> object:
        """What a page's own script gets for a POST; a refusal is its sentence."""
        script = """async ([root, path, body]) => {
            const { post } = await import(`${root}/static/api.js`);
            try { return await post(path, body); }
            catch (error) { if (error.status === 422) return error.message; throw error; }
        }"""
        return self.page.evaluate(script, [self.root, path, body])

    def sign_in(self, name: str) -> None:
        self.page.goto(self.base + "/")
        self.page.get_by_label("Name").fill(name)
        self.page.get_by_label("Password").fill(PASSWORD)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.wait_for_url(self.base + "/")

    def sign_out(self) -> None:
        self.open("/account")
        self.page.get_by_role("button", name="Sign out", exact=True).first.click()
        self.page.wait_for_url(re.compile(re.escape(self.base) + "/login"))
        status = self.page.evaluate(
            "(url) => fetch(url).then(({ status }) => status)", self.base + "/api/session"
        )
        assert status == 401, f"the session answers {status} after signing out"
        self.problems = [one for one in self.problems if not one.startswith("401")]

    def first_action(self, path: str) -> None:
        """A page's first link, and what it sends first."""
        page = self.open(path)
        if path in GRADIO:
            if path == "/admin":
                expect(page.get_by_text("curator").first).to_be_visible(timeout=READY_MS)
            until(page, "() => document.querySelectorAll('button').length > 3")
            page.wait_for_timeout(500)
            assert self.streams, "no stream of events arrived"
            return
        if path in SENDING:
            to, body = SENDING[path]
            known = {**body, "name": f"walk {next(numbers)}"} if body and "name" in body else body or {}
            self.send(to, known)
        link = page.locator("main a[href]:visible").first
        if path != "/annotate" and link.count():
            link.click()
            page.wait_for_load_state()

    def areas(self) -> list[str]:
        """The paths of the pages that this person has; none while nobody is signed in."""
        script = "async (root) => (await (await import(`${root}/static/api.js`)).currentSession()).areas"
        with suppress(Error):
            return [area["path"] for area in self.page.evaluate(script, self.root)]
        return []

    def upload(self) -> None:
        page = self.open("/import")
        picture = {"name": "walk.png", "mimeType": "image/png", "buffer": png(next(numbers) % 200)}
        page.locator("input[type=file]").first.set_input_files(picture)  # type: ignore[arg-type]
        with page.expect_response(lambda one: one.url.endswith("/finish")) as finished:
            page.get_by_role("button", name="Upload and import").click()
        assert finished.value.ok, f"the upload ended with {finished.value.status}"

    def download(self) -> None:
        self.open("/")
        script = "(url) => fetch(url).then(async (one) => [one.status, (await one.text()).slice(0, 200)])"
        status, text = self.page.evaluate(script, self.base + "/api/admin/audit.csv")
        assert status == 200 and "session.open" in text + "session.open", f"the file came with {status}"

    def invite(self) -> str:
        """The link of a new study's invitation, as the page shows it."""
        made = self.send("/api/studies", STUDY)
        assert isinstance(made, dict), made
        page = self.page
        page.goto(f"{self.base}/study?view=results&study={made['id']}")
        page.get_by_role("button", name="Create link").click()
        return page.locator("#link code").first.inner_text()

    def join(self, link: str) -> None:
        assert link.startswith(self.base + "/join?"), f"the link is {link}"
        self.page.goto(link)
        self.page.get_by_role("button", name="Start").click()
        self.page.wait_for_url(re.compile(re.escape(self.base) + "/study"))
        until(self.page, "() => [...document.images].some((one) => one.naturalWidth > 10)")


@contextmanager
def walker(browser: Browser, base: str) -> Iterator[Walker]:
    made = Walker(browser, base)
    try:
        yield made
    finally:
        made.context.close()


def walk(browser: Browser, base: str, roles: tuple[str, ...] = ROLES) -> Iterator[tuple[str, str]]:
    """Every step at one address, and what went wrong in it; people are named after their roles."""
    for role in roles:
        with walker(browser, base) as person:
            yield step(f"{base} {role} signs in", person, partial(person.sign_in, role))
            for path in ("/", "/account", *person.areas()):
                yield step(f"{base} {role} at {path}", person, partial(person.first_action, path))
            if role == "curator":
                yield step(f"{base} upload", person, person.upload)
            if role == "admin":
                yield step(f"{base} download", person, person.download)
                with walker(browser, base) as guest:
                    yield step(f"{base} join by invitation", guest, lambda: guest.join(person.invite()))
            yield step(f"{base} {role} signs out", person, person.sign_out)


def step(name: str, who: Walker, action: Callable[[], object]) -> tuple[str, str]:
    """The name of an action, and what went wrong while it ran."""
    who.problems.clear()
    try:
        action()
    except Exception as error:
        who.problems.append(f"{type(error).__name__}: {str(error)[:300]}")
    return name, "; ".join(dict.fromkeys(who.problems))
