"""The API's version in addresses: `/api/v1/…` is `/api/…`."""

from starlette.types import ASGIApp, Receive, Scope, Send

API = "/api"
VERSION = "v1"
VERSIONED = f"{API}/{VERSION}"


class VersionedPaths:
    """What follows sees the path without the version, so that roles, limits and routes are stated once."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(f"{VERSIONED}/"):
            scope["path"] = API + scope["path"].removeprefix(VERSIONED)
            scope["raw_path"] = scope.get("raw_path", b"").replace(VERSIONED.encode(), API.encode(), 1)
        await self.app(scope, receive, send)
