"""`/metrics` in the text format of Prometheus: requests of this server, and figures of its workspace.

    scrape_configs:
      - job_name: clinic
        authorization: {credentials_file: /etc/prometheus/clinic-token}
        static_configs: [{targets: ["clinic.example.org:7860"]}]

Each application has a registry of its own. The workspace is read at most once in `CACHE_SECONDS`, however
many servers scrape.
"""

import hmac
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from anyio import CapacityLimiter, move_on_after
from anyio.to_thread import run_sync
from fastapi import APIRouter, Request
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from dataengine.errors import ClinicError, ConfigRefused
from dataengine.records import WorkerBeat
from pipelines.services.admin.monitoring import Monitor, Reading
from storage.workspace import Workspace
from ui.web.desk import Site
from ui.web.middleware import host_name, is_loopback

PATH = "/metrics"
TOKEN, TOKEN_FILE = "CLINIC_METRICS_TOKEN", "CLINIC_METRICS_TOKEN_FILE"
LEAST_TOKEN = 16
CACHE_SECONDS = 5.0
ANSWER_SECONDS = 3.0
"""How long a scrape waits for the catalog; the figures of requests are shown without it."""
FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
"""Headers by which a proxy tells that the request is somebody else's."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
NO_ROUTE = "none"
"""The route of requests that were refused before one was found."""
FAST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
LONG = (1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 12 * 3600.0, 24 * 3600.0)


Samples = Callable[[Reading], Iterable[tuple[Sequence[str], float]]]
"""A gauge's samples: the values of its labels, and its own."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A gauge of the workspace: its name, help, samples, and the names of its labels."""

    name: str
    help: str
    samples: Samples
    labels: tuple[str, ...] = ()


def one(value: Callable[[Reading], float | None]) -> Samples:
    """The samples of a gauge without labels; none where there is no value."""
    return lambda read: [] if (found := value(read)) is None else [((), found)]


def device_memory(key: str) -> Samples:
    """What living workers reported of their devices: "used" or "total"."""
    return lambda read: [
        ((worker.id, device), memory[key])
        for worker in alive(read)
        for device, memory in worker.memory.items()
    ]


FIGURES = (
    Figure(
        "annotation_queue_images",
        "Images that wait for annotations, at most 100,000.",
        one(lambda read: read.standing.queue.rows),
    ),
    Figure(
        "annotation_queue_oldest_age_seconds",
        "Time since the oldest waiting image was queued, 0 if none waits.",
        one(lambda read: age(read.standing.queue.oldest)),
    ),
    Figure(
        "jobs",
        "Jobs by state: queued, running, paused or failed, at most 100,000 each.",
        lambda read: [((state,), depth.rows) for state, depth in read.standing.jobs.items()],
        ("state",),
    ),
    Figure(
        "jobs_oldest_queued_age_seconds",
        "Time since the oldest queued job was requested, 0 if none is queued.",
        one(lambda read: age(read.standing.jobs["queued"].oldest)),
    ),
    Figure(
        "rounds",
        "Rounds by state: running, waiting for people, or failed.",
        lambda read: [((state,), rows) for state, rows in read.standing.rounds.items()],
        ("state",),
    ),
    Figure("workers", "Workers with a heartbeat within their lease.", one(lambda read: len(alive(read)))),
    Figure(
        "worker_last_heartbeat_timestamp_seconds",
        "When each worker last reported.",
        lambda read: [((worker.id, worker.host), worker.beat) for worker in read.standing.workers],
        ("worker", "host"),
    ),
    Figure(
        "worker_busy",
        "1 while a living worker runs a job, else 0.",
        lambda read: [((worker.id,), float(worker.job_id is not None)) for worker in alive(read)],
        ("worker",),
    ),
    Figure(
        "device_memory_used_bytes",
        "Memory in use on a worker's device, as its job last measured it.",
        device_memory("used"),
        ("worker", "device"),
    ),
    Figure(
        "device_memory_total_bytes",
        "Memory of a worker's device.",
        device_memory("total"),
        ("worker", "device"),
    ),
    Figure(
        "catalog_size_bytes",
        "Size of the catalog's database.",
        one(lambda read: read.standing.catalog_bytes),
    ),
    Figure(
        "blobs_size_bytes",
        "Size of all blobs in a local folder, measured hourly.",
        one(lambda read: read.blobs.bytes if read.blobs else None),
    ),
    Figure(
        "blobs_files",
        "Number of blobs in a local folder, measured hourly.",
        one(lambda read: read.blobs.files if read.blobs else None),
    ),
    Figure(
        "blobs_measured_timestamp_seconds",
        "When the blobs were last measured.",
        one(lambda read: read.blobs.at if read.blobs else None),
    ),
    Figure(
        "disk_free_bytes",
        "Free bytes on the disk of the workspace's folder.",
        one(lambda read: read.disk_free),
    ),
    Figure(
        "disk_total_bytes", "Size of the disk of the workspace's folder.", one(lambda read: read.disk_total)
    ),
    Figure(
        "backup_last_success_timestamp_seconds",
        "When the newest backup was finished; absent without one.",
        one(lambda read: read.last_backup),
    ),
    Figure(
        "backup_size_bytes",
        "Size of the newest backup in the workspace's folder; absent without one.",
        one(lambda read: read.backup_bytes),
    ),
    Figure(
        "webhook_deliveries_pending",
        "Webhook messages that have not been delivered yet.",
        one(lambda read: read.standing.deliveries.rows),
    ),
)
"""The gauges that are read from the workspace."""


class WorkspaceFigures(Collector):
    """Collects `FIGURES` from the last reading; none while the catalog does not answer."""

    def __init__(self) -> None:
        self.reading: Reading | None = None

    def collect(self) -> Iterator[Metric]:
        read = self.reading
        up = "1 if the catalog answered when it was last read, else 0."
        yield GaugeMetricFamily("clinic_catalog_up", up, float(read is not None))
        for figure in FIGURES:
            family = GaugeMetricFamily(f"clinic_{figure.name}", figure.help, labels=figure.labels)
            for labels, value in figure.samples(read) if read is not None else ():
                family.add_metric(labels, value)
            yield family


class Metrics:
    """The metrics of one application. Thread-safe."""

    def __init__(self, workspace: Workspace) -> None:
        self.registry = registry = CollectorRegistry()
        self._monitor, self._figures = Monitor(workspace), WorkspaceFigures()
        self._reading = threading.Lock()
        self._read_at = float("-inf")

        def counter(name: str, help: str, *labels: str) -> Counter:
            return Counter(f"clinic_{name}", help, labels, registry=registry)

        def histogram(name: str, help: str, buckets: Sequence[float], *labels: str) -> Histogram:
            return Histogram(f"clinic_{name}", help, labels, buckets=buckets, registry=registry)

        ProcessCollector(registry=registry)
        registry.register(self._figures)
        build = Gauge(
            "clinic_build_info", "The version of this server; always 1.", ["version"], registry=registry
        )
        build.labels(version("artifact-clinic")).set(1)
        self.requests = counter(
            "http_requests_total",
            "Requests by route template and class of the status.",
            *("method", "route", "status"),
        )
        self.latency = histogram(
            "http_request_duration_seconds",
            "Time from a request's arrival to the end of its answer.",
            FAST,
            *("route", "status"),
        )
        self.jobs_ended = counter(
            "jobs_ended_total", "Jobs that ended since this server was started.", "kind", "outcome"
        )
        self.job_seconds = histogram(
            "job_duration_seconds",
            "Time from a job's start to its end, of jobs that ended since this server was started.",
            LONG,
            *("kind", "outcome"),
        )
        self.labels = counter(
            "labels_total",
            "Images that people labelled or skipped since this server was started.",
            *("role", "decision"),
        )
        self.reviews = counter(
            "reviews_total", "Reviews of labels since this server was started.", "role", "decision"
        )

    def count(self, scope: Scope, root: str, status: int, seconds: float) -> None:
        """Count one answered request; `root` is the path at which the application itself is mounted."""
        route, method, family = route_of(scope, root), scope["method"], f"{status // 100}xx"
        self.requests.labels(method if method in METHODS else "other", route, family).inc()
        self.latency.labels(route, family).observe(seconds)

    def refresh(self) -> None:
        """Read the workspace's figures, unless that was done within `CACHE_SECONDS` or is being done."""
        if not self._reading.acquire(blocking=False):
            return
        try:
            if time.monotonic() - self._read_at >= CACHE_SECONDS:
                read = self._monitor.read()
                self._read_at = time.monotonic()
                self._figures.reading = read
                self._count(read)
        except (ClinicError, OSError):
            self.forget()
        finally:
            self._reading.release()

    def forget(self) -> None:
        """Show no figure of a workspace that does not answer."""
        self._figures.reading, self._read_at = None, float("-inf")

    def text(self) -> bytes:
        """Everything, in the text format of Prometheus."""
        return generate_latest(self.registry)

    def _count(self, read: Reading) -> None:
        for job in read.ended:
            self.jobs_ended.labels(job.kind, job.state).inc()
            if job.seconds is not None:
                self.job_seconds.labels(job.kind, job.state).observe(job.seconds)
        for counter, decisions in ((self.labels, read.labels), (self.reviews, read.reviews)):
            for each in decisions:
                counter.labels(each.role, each.decision).inc()


def alive(read: Reading) -> list[WorkerBeat]:
    """The workers that are within their lease."""
    return [one for one in read.standing.workers if read.standing.now - one.beat <= read.lease]


def age(since: float | None) -> float:
    """Seconds since a time; 0 where there is none."""
    return 0.0 if since is None else max(0.0, time.time() - since)


def route_of(scope: Scope, root: str) -> str:
    """The template of the route that answered, never the path itself: those are without number."""
    mounted = scope.get("root_path", "").removeprefix(root)
    template = getattr(scope.get("route"), "path", "")
    return f"{mounted}{template}" or NO_ROUTE


def metrics_token(environment: Mapping[str, str]) -> str:
    """The token that opens `/metrics`, "" without one. Raises `ConfigRefused` for one that is too short or
    cannot be read."""
    token, file = environment.get(TOKEN, ""), environment.get(TOKEN_FILE, "")
    if file and not token:
        try:
            token = Path(file).read_text().strip()
        except (OSError, UnicodeError) as error:
            raise ConfigRefused(f"{TOKEN_FILE}: {file} cannot be read ({error})") from None
    if (token or file) and not (len(token) >= LEAST_TOKEN and token.isascii() and token.isprintable()):
        raise ConfigRefused(
            f"the token of /metrics needs at least {LEAST_TOKEN} printable ASCII characters, for example "
            "those that `openssl rand -hex 32` prints"
        )
    return token


def is_from_here(scope: Scope) -> bool:
    """Whether a program on this machine asks, and no proxy on it for somebody else."""
    headers, client = Headers(scope=scope), (scope.get("client") or ("",))[0]
    direct = not any(name in headers for name in FORWARDED)
    return direct and is_loopback(client) and is_loopback(host_name(headers.get("host", "")))


def refusal_of(mode: str, token: str, has_accounts: Callable[[], bool]) -> Callable[[Scope], Response | None]:
    """Why a request may not see the metrics, as an answer; None where it may. See `ServerConfig.metrics`."""

    def refusal(scope: Scope) -> Response | None:
        if mode == "off":
            return JSONResponse({"error": "not found"}, 404)
        scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        bearer = given.strip().encode() if scheme.lower() == "bearer" else b""
        if token and hmac.compare_digest(bearer, token.encode()):
            return None
        open_here = mode != "token" and not scheme and is_from_here(scope)
        if open_here and (mode == "loopback" or not has_accounts()):
            return None
        text = "this token does not open /metrics" if scheme else "/metrics needs a bearer token"
        return JSONResponse(
            {"error": f"{text}; the server takes it from {TOKEN} or {TOKEN_FILE}"},
            401,
            {"WWW-Authenticate": 'Bearer realm="metrics"'},
        )

    return refusal


def metrics_routes(site: Site, metrics: Metrics) -> APIRouter:
    """The route of `/metrics`. Raises `ConfigRefused` for an unusable token in the environment."""
    routes, waiting = APIRouter(), CapacityLimiter(1)
    refusal = refusal_of(site.settings.metrics, metrics_token(os.environ), site.session_manager.has_accounts)

    @routes.get(PATH)
    async def show(request: Request) -> Response:
        with move_on_after(ANSWER_SECONDS) as asked:
            refused = await run_sync(refusal, request.scope)
        if asked.cancelled_caught or refused is not None:
            return refused or JSONResponse({"error": "the catalog does not answer"}, 503)
        with move_on_after(ANSWER_SECONDS) as asked:
            await run_sync(metrics.refresh, limiter=waiting, abandon_on_cancel=True)
        if asked.cancelled_caught:
            metrics.forget()
        return Response(metrics.text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    return routes
