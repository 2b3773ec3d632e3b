"""Messages to webhooks: at least once each, with growing pauses, and nothing secret in any log."""

import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from standardwebhooks import Webhook as Verifier

from dataengine.records import Endpoint, Job, JobState, Round, Study, Webhook, new_secret, now
from pipelines.runtime.events import announce, announce_job
from pipelines.services.operation.webhooks import Answer, list_deliveries
from pipelines.worker import webhook_sender
from pipelines.worker.webhook_sender import CLAIM_SECONDS, PAUSES, WebhookSender, pause_after
from storage.opening import create_workspace
from storage.workspace import Workspace
from tests.pipelines.receiver import receiving

STAY = threading.Event()
ADDRESS = "https://hooks.example/services/s3cr3t"
TAKEN = Answer(taken=True, status=204)


def register(
    workspace: Workspace, id: str = "h", location: str = ADDRESS, name: str = "chat", ago: float = 10.0
) -> str:
    """The secret of a new webhook, registered that many seconds ago."""
    secret = new_secret()
    with workspace.catalog() as catalog:
        endpoint = Endpoint(id=id, kind="webhook", name=name, location=location, created=now() - ago)
        catalog.endpoints.add(endpoint)
        catalog.webhooks.set(Webhook(endpoint_id=id, secret=secret))
        catalog.commit()
    return secret


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Workspace]:
    made = create_workspace(tmp_path / "w")
    yield made
    made.close()


@pytest.fixture
def workspace(empty: Workspace) -> Workspace:
    """One with a webhook, rounds that wait and have failed, and an open study."""
    register(empty)
    with empty.catalog() as catalog:
        catalog.rounds.add(Round(id="r1", recipe={}, stage="wait_for_labels", state="waiting"))
        catalog.rounds.add(Round(id="r2", recipe={}, stage="treat", state="failed"))
        for id, finished in (("r2.treat.1", now() - 100), ("r2.treat.2", now())):
            catalog.jobs.add(Job(id=id, kind="stage", state="failed", finished=finished))
        catalog.rounds.add(Round(id="r3", recipe={}, stage="judge", state="failed"))
        catalog.jobs.add(Job(id="r3.judge.1", kind="stage", state="failed", finished=now() - 100))
        catalog.studies.add(Study(id="s", name="hands", before_id="g", after_id="h", pairs=(("a", "b"),)))
        catalog.commit()
    return empty


class Recording:
    """Takes the place of the network: keeps what is sent, and answers as it is told, then with 204."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.sent: list[tuple[str, str, dict[str, object]]] = []

    def __call__(self, endpoint: Endpoint, hook: Webhook, message_id: str, body: str) -> Answer:
        self.sent.append((endpoint.id, message_id, json.loads(body)))
        return self.answers.pop(0) if self.answers else TAKEN


def test_what_waits_for_people_is_told_once_to_each_address(workspace: Workspace) -> None:
    network = Recording()
    sender = WebhookSender(workspace, network)
    assert sender.sweep(STAY) == 3 and sender.sweep(STAY) == 0
    assert WebhookSender(workspace, network).sweep(STAY) == 0, "another worker does not repeat them"
    by_event = {str(body["event"]): body for _, _, body in network.sent}
    assert set(by_event) == {"people needed", "engineers needed", "raters needed"}
    assert by_event["people needed"]["subject"] == "r1"
    assert by_event["engineers needed"]["subject"] == "r2", "r3 failed before there was a webhook"
    register(workspace, "i", name="mail", ago=0.0)
    assert sender.sweep(STAY) == 2, "a new address is told what is still open"


@pytest.mark.parametrize(
    ("kind", "state", "events"),
    [
        ("treat", "succeeded", ["job finished"]),
        ("treat", "failed", ["job failed"]),
        ("backup", "failed", ["backup failed", "job failed"]),
        ("treat", "cancelled", []),
        ("treat", "paused", []),
        ("stage", "failed", []),
    ],
)
def test_the_end_of_a_job_is_told_without_its_error(
    empty: Workspace, kind: str, state: JobState, events: list[str]
) -> None:
    register(empty)
    with empty.catalog() as catalog:
        announce_job(catalog, Job(id="j", kind=kind, error="ada's folder /home/ada is full"), state)
        catalog.commit()
    network = Recording()
    WebhookSender(empty, network).sweep(STAY)
    assert sorted(str(body["event"]) for _, _, body in network.sent) == events
    assert "/home/ada" not in str(network.sent)


def test_what_is_not_taken_is_sent_again_with_the_same_id_and_growing_pauses(
    empty: Workspace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    register(empty)
    clock = now()
    monkeypatch.setattr(webhook_sender, "now", lambda: clock)
    with empty.catalog() as catalog:
        announce(catalog, "round finished", "r", "r", "It is finished.")
        catalog.commit()
    clock = now()
    refusing = Answer(taken=False, status=500, error="it answered 500")
    network = Recording(*[refusing] * 20)
    sender, times = WebhookSender(empty, network), []
    while [one.state for one in list_deliveries(empty, "h")] == ["pending"]:
        if sender.sweep(STAY) == 0 and len(network.sent) > len(times):
            times.append(clock)
        clock += 1.0 if len(times) < 3 else 600.0
    assert len({id for _, id, _ in network.sent}) == 1 and len(times) == len(PAUSES) + 1
    for number, pause in enumerate(PAUSES):
        assert pause <= times[number + 1] - times[number] <= 1.1 * pause + 601
    with empty.catalog(read_only=True) as catalog:
        events = catalog.audit.list()
    assert [event.action for event in events] == ["webhook.failed"]
    [lost] = list_deliveries(empty, "h")
    assert (lost.state, lost.attempts, lost.status) == ("failed", len(PAUSES) + 1, 500)
    told = caplog.text + str(events) + str(lost)
    assert "chat" in told and "s3cr3t" not in told and "hooks.example" not in told


def test_a_receiver_that_is_gone_is_not_asked_again_and_one_that_is_busy_when_it_wants() -> None:
    assert PAUSES[0] <= pause_after(1) <= 1.1 * PAUSES[0]
    assert 600 <= pause_after(1, 600.0) <= 660
    assert pause_after(1, 1e9) <= 1.1 * 86_400


def test_gone_ends_the_attempts(empty: Workspace) -> None:
    register(empty)
    with empty.catalog() as catalog:
        announce(catalog, "round finished", "r", "r", "It is finished.")
        catalog.commit()
    WebhookSender(empty, Recording(Answer(taken=False, status=410, error="it answered 410"))).sweep(STAY)
    assert [one.state for one in list_deliveries(empty, "h")] == ["failed"]


def test_a_silent_address_does_not_delay_the_others(empty: Workspace) -> None:
    register(empty, "h")
    register(empty, "i", name="mail")
    with empty.catalog() as catalog:
        for number in range(4):
            announce(catalog, "round finished", f"r{number}", f"r{number}", "It is finished.")
        catalog.commit()
    asked: list[str] = []

    def send(endpoint: Endpoint, hook: Webhook, message_id: str, body: str) -> Answer:
        asked.append(endpoint.id)
        return TAKEN if endpoint.id == "i" else Answer(taken=False, error="ConnectTimeout")

    assert WebhookSender(empty, send).sweep(STAY) == 4
    assert sorted(asked) == ["h", "i", "i", "i", "i"]


def test_a_worker_that_is_killed_while_it_sends_leaves_the_message_to_another(
    empty: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(empty)
    with empty.catalog() as catalog:
        announce(catalog, "round finished", "r", "r", "It is finished.")
        catalog.commit()

    def killed(*arguments: object) -> Answer:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        WebhookSender(empty, killed).sweep(STAY)
    network = Recording()
    other = WebhookSender(empty, network)
    assert other.sweep(STAY) == 0, "it may still be sent by the first"
    later = now() + CLAIM_SECONDS + 1
    monkeypatch.setattr(webhook_sender, "now", lambda: later)
    assert other.sweep(STAY) == 1 and other.sweep(STAY) == 0
    assert [(one.state, one.attempts) for one in list_deliveries(empty, "h")] == [("delivered", 2)]


def test_two_workers_send_each_message_once(workspace: Workspace) -> None:
    network = Recording()
    senders = [WebhookSender(workspace, network) for _ in range(4)]
    threads = [threading.Thread(target=one.sweep, args=(STAY,)) for one in senders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(network.sent) == len({id for _, id, _ in network.sent}) == 3


def test_the_log_is_shortened_but_nothing_is_told_twice(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Recording()
    with workspace.catalog() as catalog:
        announce(catalog, "round finished", "r", "r", "It is finished.")
        catalog.commit()
    assert WebhookSender(workspace, network).sweep(STAY) == 4
    later = now() + webhook_sender.KEPT_SECONDS + 60
    monkeypatch.setattr(webhook_sender, "now", lambda: later)
    assert WebhookSender(workspace, network).sweep(STAY) == 0
    left = {one.event for one in list_deliveries(workspace, "h")}
    assert left == {"people needed", "engineers needed", "raters needed"}


def test_a_real_receiver_gets_signed_messages_from_a_sweep(
    empty: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("httpx").setLevel(logging.NOTSET)
    with receiving() as receiver, caplog.at_level(logging.INFO):
        secret = register(empty, location=f"{receiver.url}/here?key=s3cr3t")
        with empty.catalog() as catalog:
            announce(catalog, "detector promoted", "d", "d", "The detector d has become champion.")
            catalog.commit()
        receiver.answers.append((503, {"Retry-After": "0"}))
        sender = WebhookSender(empty)
        assert sender.sweep(STAY) == 0
        with empty.catalog() as catalog:
            catalog.deliveries.repeat(list_deliveries(empty, "h")[0].id, now())
            catalog.commit()
        assert sender.sweep(STAY) == 1
    first, second = receiver.got
    assert first[1]["webhook-id"] == second[1]["webhook-id"] and first[2] == second[2]
    assert Verifier(secret).verify(second[2], second[1])["type"] == "detector.promoted"
    assert "webhook chat, try 1 of" in caplog.text and "s3cr3t" not in caplog.text
