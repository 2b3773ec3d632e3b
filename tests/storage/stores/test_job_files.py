"""What jobs write, seen from another disk: in order, whole, once; on one machine nothing is copied."""

import threading
from pathlib import Path

import pytest

from storage.stores.job_files import LOG, METRICS, JobFiles
from storage.workspace import Workspace


def team(workspace: Workspace, path: Path) -> JobFiles:
    """The job files of a machine that shares the catalog and no disk."""
    return JobFiles(workspace.catalog, path / "jobs", shared=True)


def write(files: JobFiles, name: str, text: str, job: str = "j") -> None:
    files.folder(job).mkdir(parents=True, exist_ok=True)
    with (files.folder(job) / name).open("a") as file:
        file.write(text)


def test_figures_and_log_reach_another_disk_piece_by_piece(workspace: Workspace, tmp_path: Path) -> None:
    worker, server = team(workspace, tmp_path / "worker"), team(workspace, tmp_path / "server")
    assert not server.read("j", METRICS).exists()
    write(worker, METRICS, '{"done": 1}\n{"done": 2}\n{"do')
    write(worker, LOG, "hello\x00, café")
    worker.send("j")
    assert server.read("j", METRICS).read_text() == '{"done": 1}\n{"done": 2}\n'
    assert server.read("j", LOG).read_text() == "hello, café"
    write(worker, METRICS, 'ne": 3}\n')
    worker.send("j")
    worker.send("j")
    team(workspace, tmp_path / "worker").send("j")  # the worker was started anew
    assert server.read("j", METRICS).read_text().count("\n") == 3
    assert not (tmp_path / "server" / "jobs").exists()
    with server.read("j", METRICS).open("a") as copy:
        copy.write("cut sh")
    write(worker, METRICS, '{"done": 4}\n')
    worker.send("j")
    assert server.read("j", METRICS).read_text().splitlines()[2:] == ['{"done": 3}', '{"done": 4}']


def test_two_workers_write_one_job(workspace: Workspace, tmp_path: Path) -> None:
    machines = [team(workspace, tmp_path / name) for name in ("a", "b")]

    def work(files: JobFiles) -> None:
        for number in range(10):
            write(files, METRICS, f'{{"by": "{files.folder("j").parts[-3]}", "n": {number}}}\n')
            files.send("j")

    threads = [threading.Thread(target=work, args=(files,)) for files in machines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    server = team(workspace, tmp_path / "server")
    lines = server.read("j", METRICS).read_text().splitlines()
    assert len(lines) == len(set(lines)) == 20
    for name in ("a", "b"):
        mine = [line for line in lines if f'"by": "{name}"' in line]
        assert mine == [f'{{"by": "{name}", "n": {number}}}' for number in range(10)]


def test_a_flood_is_sent_in_bounded_pieces(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.stores.job_files.LIMITS", {METRICS: 30, LOG: 30})
    worker, server = team(workspace, tmp_path / "worker"), team(workspace, tmp_path / "server")
    write(worker, METRICS, "".join(f'{{"done": {number:2}}}\n' for number in range(10)))
    write(worker, LOG, "x" * 500 + "the end")
    worker.send("j")
    assert server.read("j", METRICS).read_text().count("\n") == 2
    worker.send("j", everything=True)
    assert server.read("j", METRICS).read_text() == (worker.folder("j") / METRICS).read_text()
    log = server.read("j", LOG).read_text()
    assert log.endswith("the end") and len(log) < 100 and "477 bytes are on the worker's machine only" in log


def test_notes_are_replaced_whole(workspace: Workspace, tmp_path: Path) -> None:
    for shared in (False, True):
        files = JobFiles(workspace.catalog, tmp_path / "jobs", shared)
        assert files.get("run", "note.json") is None
        files.put("run", "note.json", {"step": 1})
        files.put("run", "note.json", {"step": 2})
        other = JobFiles(workspace.catalog, tmp_path / ("elsewhere" if shared else "jobs"), shared)
        assert other.get("run", "note.json") == {"step": 2}
        other.drop("run", "note.json")
        assert files.get("run", "note.json") is None


def test_on_one_machine_nothing_is_copied(workspace: Workspace, tmp_path: Path) -> None:
    files = JobFiles(workspace.catalog, tmp_path / "jobs", shared=False)
    write(files, METRICS, "{}\n")
    files.send("j", everything=True)
    assert files.read("j", METRICS) == tmp_path / "jobs" / "j" / METRICS
    with workspace.catalog(read_only=True) as catalog:
        assert list(catalog.job_files.after("j", METRICS)) == []
