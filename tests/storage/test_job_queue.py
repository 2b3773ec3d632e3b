"""The line of waiting work in the durable-work engine's own database."""

import sqlite3
import threading
from pathlib import Path

from sqlalchemy import Connection, create_engine, text

from storage import job_queue

COLUMNS = "workflow_uuid TEXT, status TEXT, queue_name TEXT, priority INTEGER, created_at INTEGER"
ROWS = [
    ("b:run", "ENQUEUED", "tasks", 0, 20),
    ("a:run", "ENQUEUED", "tasks", 0, 10),
    ("c:run", "ENQUEUED", "tasks", 0, 30),
    ("busy:run", "PENDING", "tasks", 0, 1),
    ("job", "ENQUEUED", "jobs", 0, 2),
]


def fill(connection: Connection) -> None:
    connection.execute(text(f"CREATE TABLE workflow_status ({COLUMNS})"))
    for row in ROWS:
        names = dict(zip(("id", "status", "queue", "priority", "at"), row, strict=True))
        connection.execute(
            text("INSERT INTO workflow_status VALUES (:id, :status, :queue, :priority, :at)"), names
        )
    connection.commit()


def test_who_is_moved_first_is_next_and_the_others_keep_their_order(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'jobs.sqlite'}"
    with create_engine(url).connect() as connection:
        fill(connection)
    assert job_queue.waiting_workflows(url, "tasks") == ["a:run", "b:run", "c:run"]
    assert job_queue.move_first(url, ["tasks"], "c:run")
    assert job_queue.waiting_workflows(url, "tasks") == ["c:run", "a:run", "b:run"]
    assert job_queue.move_first(url, ["tasks"], "b:run")
    assert job_queue.waiting_workflows(url, "tasks") == ["b:run", "c:run", "a:run"]
    assert not job_queue.move_first(url, ["tasks"], "busy:run")
    assert not job_queue.move_first(url, ["tasks"], "job")


def test_a_file_that_another_process_writes_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "jobs.sqlite"
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")  # in this state SQLite refuses to change the mode without waiting
    threading.Timer(0.3, lambda: other.execute("COMMIT")).start()
    job_queue.prepare(f"sqlite:///{file}")
    assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_texts_of_ended_workflows_are_replaced_without_a_trace(tmp_path: Path) -> None:
    file = tmp_path / "jobs.sqlite"
    url, name = f"sqlite:///{file}", "somebody-7f3a"
    job_queue.prepare(url)
    with create_engine(url).connect() as connection:
        connection.execute(text("CREATE TABLE workflow_status (workflow_uuid TEXT PRIMARY KEY, status TEXT)"))
        connection.execute(
            text("CREATE TABLE workflow_output (workflow_uuid TEXT PRIMARY KEY, output TEXT, n INTEGER)")
        )
        for id, status in (("old", "SUCCESS"), ("live", "PENDING")):
            connection.execute(text(f"INSERT INTO workflow_status VALUES ('{id}', '{status}')"))
            connection.execute(text(f"INSERT INTO workflow_output VALUES ('{id}', 'for {name}', 1)"))
        connection.commit()
    changed, left = job_queue.scrub(url, lambda said: said.replace(name, "X"))
    assert (changed, left) == (1, "")
    with create_engine(url).connect() as connection:
        found = dict(connection.execute(text("SELECT workflow_uuid, output FROM workflow_output")).all())  # type: ignore[arg-type]
    assert found == {"old": "for X", "live": f"for {name}"}, "work under way keeps what it reads"
    wal = tmp_path / "jobs.sqlite-wal"
    bodies = file.read_bytes() + (wal.read_bytes() if wal.exists() else b"")
    assert bodies.count(name.encode()) == 1


def test_without_a_work_queue_there_is_nothing_to_replace(tmp_path: Path) -> None:
    assert job_queue.scrub(f"sqlite:///{tmp_path / 'jobs.sqlite'}", str.upper) == (0, "")
