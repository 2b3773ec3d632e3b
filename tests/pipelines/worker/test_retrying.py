"""What passes by itself is waited for, within bounds; what does not fails at once."""

import pytest

from dataengine.errors import Cancelled, NotFound, Unavailable, WorkspaceUnusable
from pipelines.worker import retrying
from pipelines.worker.retrying import patiently, pause_before


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(retrying, "LONGEST_PAUSE", 0.02)


class Failing:
    """Work that fails a number of times before it succeeds."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def test_it_is_repeated_until_it_succeeds_and_says_what_it_waits_for() -> None:
    said: list[str] = []
    causes = ("the blob store x has not answered", "the disk is full", "it is locked")
    work = Failing(*map(Unavailable, causes))
    assert patiently(work, said.append) == "done" and work.calls == 4
    assert said[0] == "waiting for the blob store, attempt 2, next in 0 s"
    waits = dict(line.split(", ")[1::-1] for line in said)
    assert waits == {
        "attempt 2": "waiting for the blob store",
        "attempt 3": "waiting for disk space",
        "attempt 4": "waiting for the database",
    }


@pytest.mark.parametrize("error", [NotFound("x"), WorkspaceUnusable("read-only"), ValueError("x")])
def test_what_does_not_pass_by_itself_fails_at_once(error: Exception) -> None:
    work = Failing(error)
    with pytest.raises(type(error)):
        patiently(work)
    assert work.calls == 1


def test_waiting_is_bounded_and_ends_with_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLINIC_RETRY_SECONDS", "0.1")
    work = Failing(*(Unavailable("the database does not respond") for _ in range(1000)))
    with pytest.raises(Unavailable, match=r"the database does not respond .*did not pass by itself"):
        patiently(work)
    assert 3 < work.calls < 100


def test_who_is_cancelled_waits_no_longer() -> None:
    def say(message: str) -> None:
        raise Cancelled("on request")

    with pytest.raises(Cancelled):
        patiently(Failing(Unavailable("x")), say)


def test_pauses_double_up_to_a_bound_and_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "FIRST_PAUSE", 1.0)
    monkeypatch.setattr(retrying, "LONGEST_PAUSE", 30.0)
    for attempt, middle in ((2, 1), (3, 2), (4, 4), (20, 30)):
        pauses = {pause_before(attempt) for _ in range(50)}
        assert all(0.5 * middle <= pause <= 1.5 * middle for pause in pauses) and len(pauses) > 40
