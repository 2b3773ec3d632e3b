"""The API's version: in addresses, where `/api/v1/…` is `/api/…`, and in a header of every answer."""

import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui.web.middleware import refused

API_VERSION = 1
"""Raised when a client that was written before would misunderstand an answer."""
API = "/api"
VERSION = f"v{API_VERSION}"
VERSIONED = f"{API}/{VERSION}"
VERSION_HEADER = "Clinic-Version"
OTHER = re.compile(rf"{API}/v([0-9]{{1,5}})(?:/|$)")


class VersionedPaths:
    """What follows sees the path without the version, so that roles, limits and routes are stated once."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(f"{VERSIONED}/"):
            scope["path"] = API + scope["path"].removeprefix(VERSIONED)
            scope["raw_path"] = scope.get("raw_path", b"").replace(VERSIONED.encode(), API.encode(), 1)
        await self.app(scope, receive, send)


class ApiVersion:
    """Names the API's version in every answer under /api, and refuses clients of another one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(f"{API}/"):
            await self.app(scope, receive, send)
            return

        async def with_version(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[VERSION_HEADER] = str(API_VERSION)
            await send(message)

        spoken = Headers(scope=scope).get(VERSION_HEADER, str(API_VERSION))
        asked = OTHER.match(scope["path"])
        answer = self.app
        if spoken != str(API_VERSION):
            answer = refused(400, other_version(spoken))
        elif asked is not None and int(asked[1]) != API_VERSION:
            answer = refused(404, other_version(asked[1]))
        await answer(scope, receive, with_version)


def other_version(spoken: str) -> str:
    """Why a client of this version of the API is refused, and which side to update."""
    if not (spoken.isascii() and spoken.isdigit() and len(spoken) < 6):
        return f"the header {VERSION_HEADER} is no version of the API; send {API_VERSION}, or leave it out"
    older = "client" if int(spoken) < API_VERSION else "server"
    return (
        f"this client speaks version {int(spoken)} of the API and this server version {API_VERSION}; "
        f"update the {older}"
    )
