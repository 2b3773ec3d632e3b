"""The web server: one FastAPI application, its checks in order, and how it is run.

    serve(workspace, ServerConfig(port=7860))

The desks declare what it serves, see `ui.desks`. Importing this loads neither torch nor Gradio.
"""

import ctypes
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import uvicorn
from anyio import CapacityLimiter, move_on_after
from anyio.to_thread import run_sync
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles

from dataengine import errors
from dataengine.errors import ClinicError, ConfigRefused, JobFailed, Unavailable, WorkspaceUnusable
from dataengine.records import LabelClass
from pipelines.services.admin.classes import color_of, list_classes
from pipelines.services.admin.maintenance import check_stores
from pipelines.services.operation.logs import request_id
from storage.opening import create_workspace
from storage.workspace import Workspace
from ui.config import ServerConfig
from ui.desks import DESKS
from ui.web.connections import bounded_connections
from ui.web.desk import Desk, Site, access_table, page_route
from ui.web.gate import UNAVAILABLE, AuthMiddleware
from ui.web.images import image_routes
from ui.web.logs import REQUEST_ID, log_to_file, logger
from ui.web.metrics import Metrics, metrics_routes
from ui.web.middleware import (
    RETRY_SECONDS,
    BodyLimit,
    RequestLog,
    ResponseHeaders,
    SameSite,
    SignInLine,
    is_loopback,
    problem_of,
)
from ui.web.oidc import check_sign_in, sign_on_routes
from ui.web.pages import STATIC, message_page
from ui.web.proxies import Forwarded, UnderPrefix, path_of
from ui.web.sessions import SessionManager
from ui.web.sign_in import auth_routes
from ui.web.versions import ApiVersion, VersionedPaths

STATUS: dict[type[ClinicError], int] = {
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.InputRefused: 422,
    errors.AccessDenied: 403,
    errors.WorkspaceUnusable: 503,
    errors.ServiceAbsent: 503,
}
START_SECONDS = 30.0
LOG_FILE = "server.log"
M_ARENA_MAX = -8
"""The number of arenas, for glibc's `mallopt`."""
HEALTH_SECONDS, HEALTH_THREADS = 0.8, 4
"""`/healthz` answers within this time, in threads of its own, whatever the database does."""
WHOLE_CHECK_SECONDS = 60.0
NOT_READY = (
    "the catalog or the blob store is damaged or does not answer; `clinic status` on the server says which"
)


def create_app(workspace: Workspace | str | Path, settings: ServerConfig | None = None) -> FastAPI:
    """The application over a workspace; `app.state.session_manager.start_token` opens it without accounts."""
    if not isinstance(workspace, Workspace):
        workspace = create_workspace(workspace)
    settings = settings or ServerConfig()
    check_sign_in(settings)
    session_manager = SessionManager(workspace, settings)
    app = FastAPI(title="Artifact Clinic", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.session_manager = session_manager
    site = Site(workspace=workspace, settings=settings, session_manager=session_manager, desks=DESKS)
    access = access_table(DESKS)
    app.include_router(auth_routes(site))
    if settings.oidc.issuer:
        app.include_router(sign_on_routes(site))
    app.include_router(image_routes(workspace))
    metrics = Metrics(workspace)
    app.include_router(metrics_routes(site, metrics))
    add_plain_routes(app, workspace)
    for desk in DESKS:
        add_desk(app, desk, site)
    # The last mount, since its path is a prefix of theirs.
    app.mount("/static", CachedFiles(directory=STATIC))
    answer_errors(app)
    # The last one added sees a request first.
    app.add_middleware(UnderPrefix)
    app.add_middleware(
        BodyLimit,
        access=access,
        largest=settings.max_body_bytes,
        seconds=settings.body_seconds,
        uploads=settings.max_upload_bytes,
    )
    app.add_middleware(AuthMiddleware, session_manager=session_manager, access=access)
    app.add_middleware(SignInLine)
    app.add_middleware(VersionedPaths)
    app.add_middleware(SameSite, hosts=(settings.host, *settings.allowed_hosts))
    app.add_middleware(ApiVersion)
    app.add_middleware(ResponseHeaders, access=access, embed_in=settings.embed_in)
    app.add_middleware(RequestLog, count=metrics.count)
    app.add_middleware(Forwarded, trusted=settings.trusted_proxies, root_path=settings.root_path)
    return app


def add_desk(app: FastAPI, desk: Desk, site: Site) -> None:
    """Mount a desk: routers, page, static files; a Gradio app only where `desks` is set."""
    for router in desk.routers(site):
        app.include_router(router)
    if desk.static is not None:
        app.mount(f"/static/{desk.name}", CachedFiles(directory=desk.static))
    if desk.mount_gradio is not None:
        if site.settings.desks:
            desk.mount_gradio(app, site)
    elif desk.path:
        app.include_router(page_route(desk))


def add_plain_routes(app: FastAPI, workspace: Workspace) -> None:
    """Health, readiness and icon."""

    waiting = CapacityLimiter(HEALTH_THREADS)

    def ask() -> None:
        with workspace.catalog(read_only=True) as catalog:
            catalog.users.count()

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        with move_on_after(HEALTH_SECONDS) as asked:
            await run_sync(ask, limiter=waiting, abandon_on_cancel=True)
        if asked.cancelled_caught:
            raise Unavailable("the catalog's database does not respond; check that it is running")
        return {"status": "ok"}

    read_at = float("-inf")

    @app.get("/readyz")
    def readyz() -> Response:
        """200 if catalog and blob store answer, else 503. The whole catalog is read once a minute.

        The answer is public, so what names paths and hosts is in the log only.
        """
        nonlocal read_at
        whole = time.monotonic() - read_at > WHOLE_CHECK_SECONDS
        try:
            check_stores(workspace, whole_catalog=whole)
        except (ClinicError, OSError) as error:
            logger.error("not ready", extra={"path": "/readyz", "reason": str(error)})
            return JSONResponse({"error": NOT_READY}, 503)
        read_at = time.monotonic() if whole else read_at
        return JSONResponse({"status": "ready"})

    @app.get("/classes.css")
    def class_colors() -> Response:
        return Response(class_styles(list_classes(workspace)), media_type="text/css")

    @app.get("/favicon.ico")
    def favicon() -> Response:
        return FileResponse(STATIC / "mark.svg", media_type="image/svg+xml")


def class_styles(classes: Sequence[LabelClass]) -> str:
    """The colours of the workspace's classes as the variables that `style.css` gives to the first six."""
    colors = [f"--class-{one.value}: {color_of(one)};" for one in classes]
    return f":root {{ {' '.join(colors)} --class-count: {len(classes)}; }}\n"


class CachedFiles(StaticFiles):
    """Static files that browsers cache but revalidate, so that an upgrade shows at once."""

    def file_response(self, *arguments: object, **keywords: object) -> Response:
        response = super().file_response(*arguments, **keywords)  # type: ignore[arg-type]
        response.headers["Cache-Control"] = "no-cache"
        return response


def answer_errors(app: FastAPI) -> None:
    """Return errors as one sentence, as JSON or as a page, never as a traceback."""

    @app.exception_handler(ClinicError)
    async def refused(request: Request, error: ClinicError) -> Response:
        status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 500)
        if path_of(request.scope) == "/api/login" and status == 403:
            status = 401
        if status >= 500:
            logger.error("failed", extra={"path": path_of(request.scope), "reason": str(error)})
        unknown = getattr(request.state, "person", None) is None
        hidden = unknown and isinstance(error, WorkspaceUnusable)
        answer = worded(request, status, UNAVAILABLE if hidden else str(error))
        if isinstance(error, Unavailable):
            answer.headers["Retry-After"] = str(RETRY_SECONDS)
        return answer

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        problems = (f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in error.errors()[:5])
        return worded(request, 422, "; ".join(problems))

    @app.exception_handler(HTTPException)
    async def refused_by_route(request: Request, error: HTTPException) -> Response:
        return worded(request, error.status_code, str(error.detail))

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        logger.exception("broken", extra={"path": path_of(request.scope)}, exc_info=error)
        answer = worded(request, 500, "internal server error; the server log has the details")
        # This handler alone answers outside of all middleware.
        answer.headers[REQUEST_ID] = request_id.get()
        return answer


def worded(request: Request, status: int, text: str) -> Response:
    """An error as a page for browsers that navigate, as JSON otherwise."""
    if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
        return message_page("Request failed", text, status)
    return JSONResponse(problem_of(text), status)


class Listening(NamedTuple):
    """The address of a server; `link` includes the start-up token while there are no accounts."""

    url: str
    link: str

    def at(self, path: str) -> "Listening":
        """The same for one page of the server."""
        url = self.url + path
        return Listening(url, url + self.link.removeprefix(self.url).removeprefix("/"))


def check_binding(settings: ServerConfig, session_manager: SessionManager) -> None:
    """Raises `ConfigRefused` for an address beyond loopback while there are no accounts."""
    reachable = not is_loopback(settings.host) and not settings.oidc.issuer
    if reachable and not session_manager.has_accounts():
        raise ConfigRefused(
            f"listening on {settings.host} needs accounts, and there are none: add an admin with "
            "`clinic users add NAME --role admin`, or listen on 127.0.0.1"
        )


def bound_socket(settings: ServerConfig) -> socket.socket:
    """A listening socket, before anything is announced: who follows the link at once waits for the server,
    and is not refused. Raises `ConfigRefused`."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # Named TCP, since asyncio sends without Nagle's wait only then; left out, every answer took 40 ms more.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise ConfigRefused(
            f"cannot listen on {settings.host}:{settings.port} ({error.strerror}); "
            "choose another --port, 0 for a free one"
        ) from None
    return listener


def server_for(app: FastAPI) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=bounded_connections(),
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="on",
            timeout_graceful_shutdown=3,
        )
    )


def listening(app: FastAPI, settings: ServerConfig, port: int) -> Listening:
    session_manager: SessionManager = app.state.session_manager
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{host}:{port}"
    return Listening(
        url, f"{url}/?token={session_manager.start_token}" if session_manager.open_to_token() else url
    )


def serve(
    workspace: Workspace,
    settings: ServerConfig | None = None,
    announce: Callable[[Listening], None] | None = None,
) -> None:
    """Serve until interrupted; `announce` gets the address (default: it is printed)."""
    settings = settings or ServerConfig()
    share_one_arena()
    log_to_file(workspace.path / LOG_FILE, settings.log_level, settings.log_bytes, settings.log_files)
    app = create_app(workspace, settings)
    check_binding(settings, app.state.session_manager)
    with bound_socket(settings) as listener:
        where = listening(app, settings, listener.getsockname()[1])
        (announce or partial(print_start, workspace=workspace))(where)
        server_for(app).run(sockets=[listener])


def share_one_arena() -> None:
    """Let all threads of this process allocate from one arena, where its C library is glibc.

    By default each thread has its own, which keeps what its largest requests needed: under the load of fifty
    annotators the server grew to 170 MiB, and is steady at 119 with one.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)


def print_start(where: Listening, workspace: Workspace) -> None:
    """Print address, workspace, log and how to stop, and a note while there are no accounts."""
    print(f"Artifact Clinic: {where.link}")
    if where.link != where.url:
        print("No accounts yet: only this computer can connect, and only with this link.")
    print(f"Workspace: {workspace.path}")
    print(f"Requests are logged to {workspace.path / LOG_FILE}")
    print("Ctrl+C stops the server and its worker; running jobs resume at the next start.", flush=True)


@contextmanager
def background(workspace: Workspace, settings: ServerConfig | None = None) -> Iterator[Listening]:
    """A server in a thread of this process, for demos and tests; it ends with the block."""
    settings = settings or ServerConfig(port=0)
    app = create_app(workspace, settings)
    check_binding(settings, app.state.session_manager)
    with bound_socket(settings) as listener:
        server = server_for(app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            wait_until_started(server, thread)
            yield listening(app, settings, listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(START_SECONDS)


def wait_until_started(server: uvicorn.Server, thread: threading.Thread) -> None:
    """Return once the server answers. Raises `JobFailed` if it does not come up."""
    deadline = time.monotonic() + START_SECONDS
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise JobFailed("the web server did not start; see its log")
        time.sleep(0.01)
