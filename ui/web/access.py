"""Access control: roles, and the table of paths that the desks declare. Unlisted paths are refused."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from dataengine.errors import AccessDenied
from dataengine.records import ROLES
from ui.web.policy import PAGES, ContentPolicy


def roles(*names: str) -> frozenset[str]:
    """The named roles and admin, who has access to everything."""
    return frozenset({*names, "admin"})


PUBLIC: frozenset[str] = frozenset({"public"})
SIGNED_IN: frozenset[str] = frozenset(ROLES)
ADMINS = roles()
CURATORS = roles("curator")
ENGINEERS = roles("engineer")
IMAGE_VIEWERS = roles("annotator", "curator", "engineer")

SHARED_PATHS: Mapping[str, frozenset[str]] = {
    "/healthz": PUBLIC,
    "/readyz": PUBLIC,
    # It asks for a token itself, see `ui.web.metrics`.
    "/metrics": PUBLIC,
    "/static": PUBLIC,
    "/favicon.ico": PUBLIC,
    "/classes.css": SIGNED_IN,
    "/login": PUBLIC,
    "/api/login": PUBLIC,
    "/logout": SIGNED_IN,
    "/api/logout": SIGNED_IN,
    "/api/session": SIGNED_IN,
    "/api/images": IMAGE_VIEWERS,
}
"""Path prefixes that belong to no desk, with the roles that may open them."""

PUBLIC_BODY = 16 * 2**10
PLAIN_BODY = 2**20

GRADIO_ROUTES = (
    "",
    "assets",
    "static",
    "svelte",
    "config",
    "theme.css",
    "favicon.ico",
    "manifest.json",
    "gradio_api/info",
    "gradio_api/config",
    "gradio_api/startup-events",
    "gradio_api/heartbeat",
    "gradio_api/queue/join",
    "gradio_api/queue/data",
    "gradio_api/cancel",
    "gradio_api/call",
    "gradio_api/run",
    "gradio_api/file=",
)
"""The Gradio routes that a desk needs; proxying, monitoring and code editing stay closed, and uploads too
unless the desk takes files."""
GRADIO_UPLOADS = ("gradio_api/upload", "gradio_api/upload_progress")


@dataclass(frozen=True, slots=True)
class AccessTable:
    """Roles by path prefix, the paths under which Gradio apps are mounted, and those of large requests."""

    paths: Mapping[str, frozenset[str]]
    gradio: frozenset[str] = frozenset()
    large: frozenset[str] = frozenset()
    """Paths whose requests may hold a label map or a file."""
    uploads: frozenset[str] = frozenset()
    """Mounted Gradio apps that take files."""
    policies: Mapping[str, ContentPolicy] = field(default_factory=dict)
    """Content policies by path prefix, where it is not that of plain pages."""

    def allowed_roles(self, path: str) -> frozenset[str]:
        """The roles that may ask for `path`, by its longest listed prefix; empty when nothing is listed."""
        matches = [prefix for prefix in self.paths if within(path, prefix)]
        if not matches or self._closed_gradio_route(path):
            return frozenset()
        return self.paths[max(matches, key=len)]

    def body_limit(self, path: str, largest: int) -> int:
        """Bytes that a request for `path` may hold, at most `largest`; few where nobody is signed in."""
        if self.allowed_roles(path) == PUBLIC:
            return min(PUBLIC_BODY, largest)
        return largest if path in self.large or self.is_gradio(path) else min(PLAIN_BODY, largest)

    def policy(self, path: str) -> ContentPolicy:
        """The content policy of what is served at `path`."""
        return next((policy for prefix, policy in self.policies.items() if within(path, prefix)), PAGES)

    def is_gradio(self, path: str) -> bool:
        """True for everything inside a mounted Gradio app."""
        return any(within(path, mounted) for mounted in self.gradio)

    def is_upload(self, path: str) -> bool:
        """True where a Gradio app writes files to disk as they arrive."""
        return any(path == f"{mounted}/{GRADIO_UPLOADS[0]}" for mounted in self.uploads)

    def _closed_gradio_route(self, path: str) -> bool:
        """True for the parts of a mounted Gradio app that no desk uses."""
        mounted = next((one for one in self.gradio if within(path, one)), None)
        if mounted is None:
            return False
        inner = path.removeprefix(mounted).strip("/")
        return not any(
            inner == route or (route and inner.startswith(route if route.endswith("=") else route + "/"))
            for route in GRADIO_ROUTES + (GRADIO_UPLOADS if mounted in self.uploads else ())
        )


def within(path: str, prefix: str) -> bool:
    """True if `path` is `prefix` or lies below it; nothing lies below "/"."""
    return path == prefix or (prefix != "/" and path.startswith(prefix + "/"))


def may(held: Collection[str], wanted: Collection[str]) -> bool:
    """True if any held role is among those wanted."""
    return not set(held).isdisjoint(wanted)


def role_words(roles: Collection[str]) -> str:
    """Alternatives in words, admin last: "curator, engineer or admin"."""
    *others, last = sorted(roles, key=lambda role: (role == "admin", role))
    return f"{', '.join(others)} or {last}" if others else last


def require(held: Collection[str], wanted: Collection[str], action: str) -> None:
    """The second role check. Raises `AccessDenied` unless a held role allows the action."""
    if not may(held, wanted):
        raise AccessDenied(
            f"{action} needs the {role_words(wanted)} role; you have {', '.join(sorted(held)) or 'none'}. "
            "Ask an admin for access."
        )
