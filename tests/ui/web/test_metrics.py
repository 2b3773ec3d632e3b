"""/metrics: who may read it, what it tells, and what a scrape costs over large tables."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import event, text
from starlette.testclient import TestClient

from dataengine.errors import ConfigRefused, WorkspaceUnusable
from dataengine.records import Job, Label, QueueItem, WorkerBeat, now
from pipelines.services.admin import monitoring
from storage.opening import create_workspace
from storage.queries import operation
from storage.workspace import Workspace
from tests.ui.conftest import ORIGIN, PASSWORD, sign_in
from ui.config import ServerConfig
from ui.server import create_app
from ui.web import metrics
from ui.web.metrics import TOKEN, TOKEN_FILE, metrics_token, refusal_of

SECRET = "0123456789abcdef0123456789abcdef"
HERE = ("127.0.0.1", 50_000)


def scraper(
    workspace: Workspace, mode: str = "loopback", client: tuple[str, int] = HERE, **settings: object
) -> TestClient:
    app = create_app(workspace, ServerConfig(desks=False, metrics=mode, **settings))
    return TestClient(app, base_url=ORIGIN, client=client, follow_redirects=False)


def samples(answer: str) -> dict[str, float]:
    """Every sample by its name with its labels, as in the text."""
    found = {}
    for family in text_string_to_metric_families(answer):
        for one in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(one.labels.items()))
            found[f"{one.name}{{{labels}}}" if labels else one.name] = one.value
    return found


def scraped(client: TestClient, **headers: str) -> dict[str, float]:
    answer = client.get("/metrics", headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return samples(answer.text)


def image_ids(workspace: Workspace) -> list[str]:
    with workspace.engine.connect() as connection:
        return list(connection.scalars(text("SELECT id FROM images ORDER BY id")))


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each scrape reads the workspace."""
    monkeypatch.setattr(metrics, "CACHE_SECONDS", 0.0)


# ---- who may read it ----


@pytest.mark.parametrize(
    ("mode", "accounts", "peer", "headers", "status"),
    [
        ("auto", False, "127.0.0.1", {}, 200),
        ("auto", True, "127.0.0.1", {}, 401),
        ("auto", True, "127.0.0.1", {"Authorization": f"Bearer {SECRET}"}, 200),
        ("auto", True, "203.0.113.9", {"Authorization": f"bearer {SECRET}"}, 200),
        ("auto", False, "203.0.113.9", {}, 401),
        ("auto", False, "127.0.0.1", {"X-Forwarded-For": "203.0.113.9"}, 401),
        ("auto", False, "127.0.0.1", {"Forwarded": "for=203.0.113.9"}, 401),
        ("auto", False, "127.0.0.1", {"Host": "clinic.example.org"}, 401),
        ("auto", False, "127.0.0.1", {"Authorization": "Bearer wrong"}, 401),
        ("auto", False, "127.0.0.1", {"Authorization": "Bearer"}, 401),
        ("loopback", True, "127.0.0.1", {}, 200),
        ("loopback", True, "::1", {"Host": "[::1]:7860"}, 200),
        ("loopback", True, "127.0.0.1", {"Via": "1.1 proxy"}, 401),
        ("loopback", True, "10.0.0.2", {}, 401),
        ("token", False, "127.0.0.1", {}, 401),
        ("token", False, "127.0.0.1", {"Authorization": f"Basic {SECRET}"}, 401),
        ("token", False, "127.0.0.1", {"Authorization": f"Bearer {SECRET}"}, 200),
        ("off", False, "127.0.0.1", {"Authorization": f"Bearer {SECRET}"}, 404),
    ],
)
def test_strangers_see_no_metrics(
    mode: str, accounts: bool, peer: str, headers: dict[str, str], status: int
) -> None:
    sent = {"host": "127.0.0.1:7860"} | {name.lower(): value for name, value in headers.items()}
    scope = {
        "type": "http",
        "client": (peer, 50_000),
        "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
    }
    answer = refusal_of(mode, SECRET, lambda: accounts)(scope)
    assert (200 if answer is None else answer.status_code) == status
    if status == 401:
        assert answer is not None and answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert SECRET.encode() not in answer.body
    without = refusal_of(mode, "", lambda: accounts)(scope)
    assert without is not None or "Authorization" not in headers, "no token opens a server that has none"


def test_a_team_scrapes_with_a_token_and_in_no_other_way(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN, SECRET)
    client = scraper(workspace, "auto", ("203.0.113.9", 50_000))
    for refused in (client.get("/metrics"), client.get(f"/metrics?token={SECRET}")):
        assert refused.status_code == 401 and "clinic_jobs" not in refused.text
    assert scraped(client, Authorization=f"Bearer {SECRET}")["clinic_catalog_up"] == 1


def test_the_token_may_be_in_a_file_and_short_ones_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{SECRET}\n")
    assert metrics_token({TOKEN_FILE: str(file)}) == SECRET and metrics_token({}) == ""
    file.write_text("")
    for wrong in ({TOKEN: "short"}, {TOKEN_FILE: str(file)}, {TOKEN_FILE: str(tmp_path / "none")}):
        with pytest.raises(ConfigRefused, match=r"token|cannot be read"):
            metrics_token(wrong)


# ---- what it tells ----


def test_requests_are_counted_by_template_and_never_by_path(workspace: Workspace) -> None:
    client = scraper(workspace, "loopback")
    sign_in(client, "annotator", PASSWORD)
    ids = image_ids(workspace)[:3]
    for id in ids:
        client.get(f"/api/images/{id}/thumbnail")
    for path in ("/api/images/no-such/thumbnail", "/static/style.css", "/secret/../path", "/none/at/all"):
        client.get(path)
    client.request("BREW", "/none")
    found = scraped(client)
    told = " ".join(found)
    assert not any(id in told for id in ids) and "no-such" not in told and "BREW" not in told
    route = "/api/images/{image_id}/thumbnail"
    assert found[f"clinic_http_requests_total{{method=GET,route={route},status=2xx}}"] == 3
    assert found[f"clinic_http_requests_total{{method=GET,route={route},status=4xx}}"] == 1
    assert found["clinic_http_requests_total{method=GET,route=/static,status=2xx}"] == 1
    assert found["clinic_http_requests_total{method=other,route=none,status=4xx}"] == 1
    assert found[f"clinic_http_request_duration_seconds_count{{route={route},status=2xx}}"] == 3
    again = scraper(workspace)
    assert f"clinic_http_requests_total{{method=GET,route={route},status=2xx}}" not in scraped(again), (
        "each application counts its own"
    )


def test_the_figures_of_the_workspace(workspace: Workspace, fresh: None) -> None:
    client = scraper(workspace)
    before = scraped(client)
    assert before["clinic_catalog_up"] == 1
    assert before["clinic_annotation_queue_images"] == 6
    assert 0 <= before["clinic_annotation_queue_oldest_age_seconds"] < 3600
    assert before["clinic_jobs{state=queued}"] == before["clinic_workers"] == 0
    assert before["clinic_disk_free_bytes"] <= before["clinic_disk_total_bytes"]
    assert before["clinic_catalog_size_bytes"] > 4096
    assert "clinic_backup_last_success_timestamp_seconds" not in before
    (workspace.path / "backups").mkdir()
    (workspace.path / "backups" / "one.tar").write_bytes(b"x" * 321)
    image = image_ids(workspace)[0]
    with workspace.catalog() as catalog:
        catalog.jobs.add(Job(id="q", kind="treat", created=now() - 100))
        catalog.jobs.add(Job(id="r", kind="treat", state="running", started=now() - 10))
        catalog.jobs.finish("r", "failed", error="it broke")
        catalog.labels.submit(Label(image_id=image, author="curator", height=64, width=64, clean=True))
        memory = {"cuda:0": {"used": 5, "total": 9}}
        catalog.workers.beat(
            WorkerBeat(id="w", host="h", pid=1, devices=("cuda:0",), job_id="q", memory=memory)
        )
        catalog.commit()
    after = scraped(client)
    assert after["clinic_jobs{state=queued}"] == after["clinic_jobs{state=failed}"] == 1
    assert 99 < after["clinic_jobs_oldest_queued_age_seconds"] < 160
    assert after["clinic_jobs_ended_total{kind=treat,outcome=failed}"] == 1
    assert 9 < after["clinic_job_duration_seconds_sum{kind=treat,outcome=failed}"] < 70
    assert after["clinic_labels_total{decision=clean,role=curator}"] == 1
    assert after["clinic_workers"] == after["clinic_worker_busy{worker=w}"] == 1
    assert abs(after["clinic_worker_last_heartbeat_timestamp_seconds{host=h,worker=w}"] - time.time()) < 60
    assert after["clinic_device_memory_used_bytes{device=cuda:0,worker=w}"] == 5
    assert after["clinic_device_memory_total_bytes{device=cuda:0,worker=w}"] == 9
    assert after["clinic_backup_size_bytes"] == 321
    assert abs(after["clinic_backup_last_success_timestamp_seconds"] - time.time()) < 60
    assert scraped(client)["clinic_jobs_ended_total{kind=treat,outcome=failed}"] == 1, "counted once"
    deadline = time.monotonic() + 10
    while "clinic_blobs_files" not in (last := scraped(client)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert last["clinic_blobs_files"] >= 8 and last["clinic_blobs_size_bytes"] > 0


def test_names_and_helps_follow_the_conventions(bare: Workspace) -> None:
    scrape = scraper(bare).get("/metrics").text
    families = [one for one in text_string_to_metric_families(scrape) if one.name.startswith("clinic_")]
    assert len(families) > 20
    units = ("_seconds", "_bytes", "_info", "_images", "_files", "_pending", "_up", "_busy")
    for one in families:
        assert (one.documentation.endswith(".") and one.documentation[0].isupper()) or one.documentation[
            0
        ] == "1"
        assert one.type in ("counter", "gauge", "histogram")
        plain = one.name.removeprefix("clinic_") in ("jobs", "rounds", "workers")
        if one.type == "counter":
            assert f"# TYPE {one.name}_total counter" in scrape or one.name.endswith("_total")
        else:
            assert plain or one.name.endswith(units), one.name


def test_a_catalog_that_does_not_answer_is_told_and_requests_are_still_shown(
    bare: Workspace, fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = scraper(bare)
    assert scraped(client)["clinic_catalog_up"] == 1

    def fails(monitor: monitoring.Monitor) -> monitoring.Reading:
        raise WorkspaceUnusable("the disk is gone")

    monkeypatch.setattr(monitoring.Monitor, "read", fails)
    found = scraped(client)
    assert found["clinic_catalog_up"] == 0 and "clinic_annotation_queue_images" not in found
    assert found["clinic_http_requests_total{method=GET,route=/metrics,status=2xx}"] == 1
    answers = threading.Event()
    monkeypatch.setattr(monitoring.Monitor, "read", lambda monitor: answers.wait(60))
    monkeypatch.setattr(metrics, "ANSWER_SECONDS", 0.2)
    assert scraped(client)["clinic_catalog_up"] == 0 and not answers.is_set()
    answers.set()


def test_many_scrapes_read_the_workspace_once(bare: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[float] = []
    read = monitoring.Monitor.read
    monkeypatch.setattr(monitoring.Monitor, "read", lambda self: reads.append(now()) or read(self))
    client = scraper(bare)
    for _ in range(5):
        scraped(client)
    assert len(reads) == 1


# ---- what it costs ----

ROWS, FEW = 100_000, 3_000
TABLES = {
    "images": "id=i, sha256=i, height=64, width=64, media_type='', prompt='', settings='{}', source='real', "
    "origin='', licence='', split='train', \"group\"=i, purpose='', status='active', created=i",
    "queue_items": "image_id=i, round_id='r', kind='draw', priority=0, opinions=1, reason='', given=0, "
    "done=i % 2, queued=i",
    "labels": "image_id=i, author='ada', revision=1, height=64, width=64, clean=1, source='person', "
    "lead_seconds=1, note='', created=i",
    "queue_answers": "image_id=i, round_id='r', kind='draw', author='ada', skipped=1, reason='', created=i",
    "jobs": "id=i, kind='export', args='{}', state='succeeded', progress=1, message='', result='{}', "
    "error='', requested_by='', cancel_requested=0, pause_requested=0, created=i, started=i, finished=i + 1",
}
"""Columns of tables, with `i` from 1 on."""


def filled(folder: Path, rows: int) -> Workspace:
    """A workspace with that many images, of which half wait, and as many labels, answers and jobs."""
    workspace = create_workspace(folder)
    numbers = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})"
    with workspace.engine.begin() as connection:
        for table, values in TABLES.items():
            columns, fields = zip(*(one.split("=", 1) for one in values.split(", ")), strict=True)
            into = f"INSERT INTO {table} ({', '.join(columns)})"
            connection.exec_driver_sql(f"{into} {numbers} SELECT {', '.join(fields)} FROM n")
    return workspace


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    workspace = filled(tmp_path_factory.mktemp("small") / "w", FEW)
    yield workspace
    workspace.close()


@pytest.mark.metrics
def test_a_scrape_of_large_tables_takes_less_than_50_ms(tmp_path: Path, fresh: None) -> None:
    """Of the processor's time: how long it takes by the clock depends on what else runs on this machine."""
    client = scraper(filled(tmp_path / "w", ROWS))
    assert scraped(client)["clinic_annotation_queue_images"] == ROWS / 2
    took = []
    for _ in range(5):
        began = time.process_time()
        client.get("/metrics")
        took.append(time.process_time() - began)
    assert sorted(took)[2] < 0.05, f"scrapes took {took}"


HARMLESS = ("SCAN anon", "SCAN pragma", "SCAN CONSTANT", "SCAN workers", "SCAN users")
"""Bounded subqueries, pragmas, and two tables that hold a row for each person and worker."""


def test_no_read_of_a_scrape_scans_a_table(small: Workspace) -> None:
    """By SQLite's own plans."""
    reads: list[tuple[str, object]] = []

    def note(connection: object, cursor: object, sql: str, arguments: object, *rest: object) -> None:
        reads.append((sql, arguments))

    event.listen(small.engine, "before_cursor_execute", note)
    monitoring.Monitor(small, since=FEW - 10.0).read()
    event.remove(small.engine, "before_cursor_execute", note)
    queries = [one for one in reads if one[0].lstrip().upper().startswith("SELECT")]
    assert len(queries) > 12
    with small.engine.connect() as connection:
        for sql, arguments in queries:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", arguments).all()
            scans = [row[3] for row in plan if row[3].startswith("SCAN")]
            assert all(scan.startswith(HARMLESS) for scan in scans), (sql, scans)


def test_rows_that_commit_late_are_counted_and_none_twice(
    small: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (operation, monitoring):
        monkeypatch.setattr(module, "MOST_NEW", 400)
    monitor = monitoring.Monitor(small, since=float(FEW - 1_000))
    counted = 0
    for _ in range(8):
        counted += len(monitor.read().labels)
    assert counted == 2 * 1_001, "labels and skips, in pieces of what one reading takes"
    with small.catalog() as catalog:
        catalog.queue.add_many([QueueItem(image_id="1", round_id="late")])
        label = Label(image_id="1", author="bob", height=64, width=64, clean=False, created=now() - 5)
        catalog.labels.submit(label)
        catalog.commit()
    assert [one.decision for one in monitor.read().labels] == ["marked"] and monitor.read().labels == []
