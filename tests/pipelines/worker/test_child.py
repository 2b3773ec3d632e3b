"""The child process: results, errors, deaths, stops; and that its group always ends."""

import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataengine.errors import Cancelled, ConfigRefused, JobFailed
from pipelines.worker.child import Child, ChildDied
from tests.pipelines.rig import REPOSITORY, alive, until


@pytest.fixture
def child() -> Iterator[Child]:
    child = Child("tests.pipelines.echo_child", cwd=REPOSITORY)
    yield child
    child.kill()


def test_it_answers_task_after_task_in_one_process(child: Child) -> None:
    first = child.call({"do": "pid"})
    assert child.call({"do": "pid"}) == first and first["pid"] != child.pid


def test_progress_arrives_before_the_result(child: Child) -> None:
    events: list[dict[str, object]] = []
    assert child.call({"do": "report", "times": 3}, events.append) == {"reported": 3}
    assert [event["progress"] for event in events] == [0, 1, 2]


def test_our_errors_come_back_as_themselves_and_others_by_name(child: Child) -> None:
    with pytest.raises(ConfigRefused, match="no good"):
        child.call({"do": "refuse"})
    with pytest.raises(JobFailed, match="ZeroDivisionError: division by zero"):
        child.call({"do": "divide"})
    with pytest.raises(JobFailed, match="loss became non-finite at step 3"):
        child.call({"do": "explode"})
    assert child.call({"do": "report", "times": 0}) == {"reported": 0}


def test_a_child_that_dies_says_how_and_the_next_call_has_a_new_one(child: Child) -> None:
    with pytest.raises(ChildDied, match="signal 9"):
        child.call({"do": "die", "signal": 9})
    with pytest.raises(ChildDied, match="status 3"):
        child.call({"do": "exit", "status": 3})
    assert child.call({"do": "report", "times": 0}) == {"reported": 0}


def test_a_stop_ends_the_whole_group_even_if_it_does_not_listen(child: Child, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    began = 0.0

    def stop() -> bool:
        nonlocal began
        if pids.exists() and not began:
            began = time.monotonic()
        return bool(began)

    with pytest.raises(Cancelled):
        child.call({"do": "deaf", "pids": str(pids)}, should_stop=stop)
    until(lambda: not any(alive(int(pid)) for pid in pids.read_text().split()), 2)
    assert time.monotonic() - began < 2


def test_a_parent_that_is_killed_takes_a_busy_group_along(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    code = f"""
        from pipelines.worker.child import Child
        Child("tests.pipelines.echo_child").call({{"do": "deaf", "pids": {str(pids)!r}}})
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], cwd=REPOSITORY)
    until(pids.exists, 60, "the group is busy")
    group = [int(pid) for pid in pids.read_text().split()]
    assert all(alive(pid) for pid in group)
    parent.kill()
    parent.wait()
    until(lambda: not any(alive(pid) for pid in group), 2, "child and grandchild end")


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_no_descriptor_is_left_open() -> None:
    before = open_descriptors()
    for _ in range(3):
        child = Child("tests.pipelines.echo_child", cwd=REPOSITORY)
        child.call({"do": "report", "times": 1})
        child.kill()
    assert open_descriptors() <= before
