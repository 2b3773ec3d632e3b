"""Who may go where: the one table of routes and roles. What is not listed is refused."""

from collections.abc import Collection
from dataclasses import dataclass

from dataengine.errors import AccessDenied
from dataengine.records import ROLES


@dataclass(frozen=True, kw_only=True, slots=True)
class Area:
    """A place in the app that has a card on the home page and a link in the header."""

    path: str
    title: str
    caption: str
    roles: frozenset[str]


def roles(*names: str) -> frozenset[str]:
    """The named roles and admin, who may go everywhere."""
    return frozenset({*names, "admin"})


PUBLIC: frozenset[str] = frozenset({"public"})
SIGNED_IN: frozenset[str] = frozenset(ROLES)

AREAS = (
    Area(
        path="/annotate",
        title="Annotate",
        caption="Paint what is broken in the images that teach most.",
        roles=roles("annotator", "curator"),
    ),
    Area(
        path="/curate",
        title="Curate",
        caption="Images, artifact maps and labels, by category and confidence.",
        roles=roles("curator", "engineer"),
    ),
    Area(
        path="/train",
        title="Train",
        caption="Detectors, what they measure, and which one is champion.",
        roles=roles("engineer"),
    ),
    Area(
        path="/treat",
        title="Treat",
        caption="Treatments of generators, before and after.",
        roles=roles("engineer"),
    ),
    Area(
        path="/study",
        title="Study",
        caption="Blind judging of before against after.",
        roles=roles("rater", "engineer"),
    ),
    Area(
        path="/rounds",
        title="Rounds",
        caption="The loop: stages, results, jobs and workers.",
        roles=roles("curator", "engineer"),
    ),
    Area(
        path="/admin",
        title="Admin",
        caption="People, models, endpoints, workers, disk and backups.",
        roles=roles(),
    ),
)

ACCESS: dict[str, frozenset[str]] = {
    "/healthz": PUBLIC,
    "/static": PUBLIC,
    "/favicon.ico": PUBLIC,
    "/login": PUBLIC,
    "/api/login": PUBLIC,
    "/label-studio": PUBLIC,  # its routes ask for the secret themselves
    "/join": PUBLIC,  # an invitation is its own secret
    "/": SIGNED_IN,
    "/logout": SIGNED_IN,
    "/api/logout": SIGNED_IN,
    "/api/session": SIGNED_IN,
    "/api/openapi.json": SIGNED_IN,
    "/api/annotate": roles("annotator", "curator"),
    "/api/annotate/gold": roles("curator"),
    "/api/annotate/merged": roles("curator"),
    "/api/images": roles("annotator", "curator", "engineer"),
    "/api/curate": roles("curator", "engineer"),
    "/api/curate/people": roles("curator"),
    "/api/train": roles("engineer"),
    "/api/treat": roles("engineer"),
    "/api/queue": roles(),
    "/api/study": roles("rater", "engineer"),
    "/api/studies": roles("engineer"),
    "/api/invitations": roles(),
    "/api/rounds": roles("curator", "engineer"),
    **{area.path: area.roles for area in AREAS},
}

OWN_PAGES = frozenset({"/annotate", "/curate", "/train", "/treat", "/study", "/rounds"})
"""Areas that are pages of ours under the strict content policy; the others are Gradio desks."""

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
    "gradio_api/file=",
)
"""What a desk needs of Gradio's own routes; uploads, proxying, monitoring and code editing stay shut."""


def allowed_roles(path: str) -> frozenset[str]:
    """The roles that may ask for `path`, by its longest listed prefix; empty when nothing is listed."""
    matches = [
        prefix for prefix in ACCESS if path == prefix or (prefix != "/" and path.startswith(prefix + "/"))
    ]
    if not matches or closed_gradio_route(path):
        return frozenset()
    return ACCESS[max(matches, key=len)]


def desk_of(path: str) -> Area | None:
    """The Gradio desk that `path` lies in, or None."""
    for area in AREAS:
        if area.path not in OWN_PAGES and (path == area.path or path.startswith(area.path + "/")):
            return area
    return None


def closed_gradio_route(path: str) -> bool:
    """True for the parts of a mounted Gradio app that no desk uses."""
    area = desk_of(path)
    if area is None:
        return False
    inner = path.removeprefix(area.path).strip("/")
    return not any(
        inner == route or (route and inner.startswith(route if route.endswith("=") else route + "/"))
        for route in GRADIO_ROUTES
    )


def may(held: Collection[str], wanted: Collection[str]) -> bool:
    """True if any held role is among those wanted."""
    return not set(held).isdisjoint(wanted)


def require(held: Collection[str], wanted: Collection[str], action: str) -> None:
    """Raise `AccessDenied` unless a held role allows the action: the second check."""
    if not may(held, wanted):
        raise AccessDenied(
            f"{action} needs one of the roles {', '.join(sorted(wanted))}; "
            f"you have {', '.join(sorted(held)) or 'none'}. Ask an admin to add one."
        )
