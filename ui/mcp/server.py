"""The MCP server of `clinic mcp`: over stdio for the assistant that starts it, or over HTTP on loopback.

Over stdio, all tools work with one token. Over HTTP, every caller sends a token of its own, which is checked
with the clinic's server at each request. Importing this needs the extra `mcp`.
"""

import functools
import inspect
import logging
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from anyio.to_thread import run_sync
from fastmcp import FastMCP
from fastmcp.exceptions import NotFoundError, ToolError, ValidationError
from fastmcp.server.auth import AccessToken, TokenVerifier
from fastmcp.server.dependencies import get_access_token
from fastmcp.server.middleware import CallNext, Middleware, MiddlewareContext
from fastmcp.tools import FunctionTool, ToolResult
from mcp_types import CallToolRequestParams, ToolAnnotations
from pydantic import ValidationError as InvalidArguments

from dataengine.errors import ClinicError, ConfigRefused
from ui.client import ApiError, Clinic
from ui.mcp.tools import Tools

NAME = "Artifact Clinic"
INSTRUCTIONS = (
    "Artifact Clinic finds the artifacts of text-to-image models pixel by pixel, with people in the loop. "
    "Begin with `report`. Curate: `hard_categories`, `search_images`, `show_image`, `queue_for_people`. "
    "Launch: `start_training` or `start_treatment`, `wait_for`, `compare`. People decide what a label is."
)
CALLERS = 64
"""Clients that are kept for callers over HTTP."""
MOST_TOKEN_BYTES = 4096


def build_server(clinic: Callable[[], Clinic], write: bool, **options: Any) -> FastMCP:
    """The server over the client that `clinic` gives; without `write`, with the tools only that change
    nothing."""
    tools = Tools(clinic)
    server: FastMCP = FastMCP(NAME, INSTRUCTIONS, mask_error_details=True, **options)
    for function in tools.reading:
        server.add_tool(tool_of(function, read_only=True))
    for function in tools.changing if write else ():
        server.add_tool(tool_of(function, read_only=False))
    closed = () if write else tuple(function.__name__ for function in tools.changing)
    server.add_middleware(OneSentence(closed))
    return server


def tool_of(function: Callable[..., Any], read_only: bool) -> FunctionTool:
    """A function as a tool, whose failures reach the assistant as the server's sentence."""

    @functools.wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        try:
            return function(*arguments, **keywords)
        except ClinicError as error:
            raise ToolError(str(error), log_level=logging.INFO) from None

    @functools.wraps(function)
    async def call_async(*arguments: Any, **keywords: Any) -> Any:
        try:
            return await function(*arguments, **keywords)
        except ClinicError as error:
            raise ToolError(str(error), log_level=logging.INFO) from None

    hints = ToolAnnotations(read_only_hint=read_only, destructive_hint=False, open_world_hint=False)
    chosen = call_async if inspect.iscoroutinefunction(function) else call
    return FunctionTool.from_function(
        chosen, description=" ".join((function.__doc__ or "").split()), annotations=hints
    )


class OneSentence(Middleware):
    """Answers what cannot be called, or not so, with one sentence."""

    def __init__(self, closed: tuple[str, ...]) -> None:
        self.closed = closed

    async def on_call_tool(
        self,
        context: MiddlewareContext[CallToolRequestParams],
        call_next: CallNext[CallToolRequestParams, ToolResult],
    ) -> ToolResult:
        name = context.message.name
        if name in self.closed:
            raise ToolError(f"{name} changes the clinic, and this server only reads; start it with --write")
        try:
            return await call_next(context)
        except (InvalidArguments, ValidationError) as error:
            raise ToolError(wrong_argument(error)) from None
        except NotFoundError:
            raise ToolError(f"there is no tool {name!r}; list the tools to see what there is") from None


def wrong_argument(error: Exception) -> str:
    """The first problem of a call's arguments in one sentence."""
    problem = error if isinstance(error, InvalidArguments) else error.__cause__
    if not isinstance(problem, InvalidArguments):
        return " ".join(str(error).split())
    first = problem.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg'][0].lower()}{first['msg'][1:]}"


class CallersTokens(TokenVerifier):
    """Lets a caller in whom the clinic's server lets in."""

    def __init__(self, client_of: Callable[[str], Clinic]) -> None:
        super().__init__()
        self.client_of = client_of

    async def verify_token(self, token: str) -> AccessToken | None:
        try:
            person = await run_sync(lambda: self.client_of(token).whoami())
        except ApiError as error:
            if error.status is not None and error.status < 500:
                return None
            raise
        return AccessToken(token=token, client_id=person["name"], scopes=[])


def callers_client(client_of: Callable[[str], Clinic]) -> Clinic:
    """The client of who calls over HTTP."""
    caller = get_access_token()
    if caller is None:
        raise ClinicError("send a token of the clinic as Authorization: Bearer")
    return client_of(caller.token)


def serve_stdio(url: str, token: str, write: bool) -> None:
    """Serve the process that started this one until it closes the pipe."""
    clinic = Clinic(url, token)
    clinic.whoami()
    build_server(lambda: clinic, write).run("stdio", show_banner=False, log_level="WARNING")


def serve_http(url: str, port: int, write: bool, host: str = "127.0.0.1") -> None:
    """Serve http://127.0.0.1:PORT/mcp to callers with tokens of their own until interrupted."""
    client_of = lru_cache(maxsize=CALLERS)(lambda token: Clinic(url, token))
    server = build_server(lambda: callers_client(client_of), write, auth=CallersTokens(client_of))
    server.run(
        "http",
        host=host,
        port=port,
        host_origin_protection=True,
        show_banner=False,
        log_level="WARNING",
    )


def token_in(path: Path) -> str:
    """The token in a file. Raises `ConfigRefused` for a file that holds none, or that others may read."""
    try:
        mode, text = path.stat().st_mode, path.read_bytes()[:MOST_TOKEN_BYTES].decode().strip()
    except (OSError, UnicodeError) as error:
        raise ConfigRefused(f"the token cannot be read from {path}: {error}") from None
    if mode & 0o077:
        raise ConfigRefused(f"others can read {path}, which holds a token; run chmod 600 on it")
    if not text:
        raise ConfigRefused(f"{path} is empty; write a token of the clinic into it")
    return text
