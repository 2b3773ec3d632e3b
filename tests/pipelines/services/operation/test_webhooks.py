"""Webhooks: signatures that the library verifies, secrets and their rotation, events, the log, a test."""

import hashlib
import hmac
import json
import logging
from collections.abc import Iterator
from email.utils import formatdate

import pytest
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from dataengine.errors import InputRefused, NotFound, ServiceAbsent
from dataengine.records import EVENTS, Delivery, Endpoint, Study
from pipelines.runtime.events import announce
from pipelines.services.admin.endpoint_tests import check_registered
from pipelines.services.endpoints import add_endpoint, check_target, remove_endpoint
from pipelines.services.operation import webhooks
from pipelines.services.operation.webhooks import (
    SECRET,
    list_deliveries,
    list_webhooks,
    post,
    reveal_secret,
    rotate_secret,
    seconds_asked,
    send_again,
    send_test,
    set_events,
    webhook_named,
)
from pipelines.services.studies.lifecycle import close_study
from storage.opening import create_workspace
from storage.workspace import Workspace
from tests.pipelines.receiver import Receiver, receiving

HERE = ("127.0.0.0/8",)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    made = create_workspace(tmp_path_factory.mktemp("webhooks") / "w")
    yield made
    made.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture
def workspace(template: Workspace) -> Iterator[Workspace]:
    """A workspace without webhooks."""
    yield template
    with template.catalog(read_only=True) as catalog:
        registered = catalog.endpoints.of_kind("webhook")
    for one in registered:
        remove_endpoint(template, one.id, "test")


def registered(workspace: Workspace, receiver: Receiver, path: str = "/hook", name: str = "chat") -> Endpoint:
    return add_endpoint(workspace, "webhook", name, receiver.url + path, "ada", HERE)


def test_a_real_receiver_verifies_a_message_with_the_library(
    workspace: Workspace, receiver: Receiver
) -> None:
    hook = registered(workspace, receiver)
    secret = reveal_secret(workspace, hook.id, "ada")
    assert secret.startswith("whsec_")
    sent = send_test(workspace, hook.id)
    path, headers, body = receiver.got[0]
    assert path == "/hook" and headers["Content-Type"] == "application/json"
    read = Verifier(secret).verify(body, headers)
    assert read["type"] == read["event"] == "test" and headers["webhook-id"] == read["id"] == sent.message_id
    with pytest.raises(WebhookVerificationError):
        Verifier(secret).verify(body.replace(b"admin", b"forger"), headers)
    with pytest.raises(WebhookVerificationError):
        Verifier(secret).verify(body, headers | {"webhook-id": "another"})
    with pytest.raises(WebhookVerificationError):
        Verifier("whsec_" + "A" * 44).verify(body, headers)
    [logged] = list_deliveries(workspace, hook.id)
    assert (logged.state, logged.status, logged.attempts, logged.event) == ("delivered", 204, 1, "test")


def test_the_secret_of_all_addresses_still_signs(
    workspace: Workspace, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SECRET, "key")
    send_test(workspace, registered(workspace, receiver).id)
    _, headers, body = receiver.got[0]
    assert headers["X-Clinic-Signature"] == f"sha256={hmac.new(b'key', body, hashlib.sha256).hexdigest()}"


def test_while_a_secret_is_rotated_both_verify(
    workspace: Workspace, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = registered(workspace, receiver)
    old = reveal_secret(workspace, hook.id, "ada")
    new = rotate_secret(workspace, hook.id, "ada", hours=1)
    assert new != old and reveal_secret(workspace, hook.id, "ada") == new
    assert list_webhooks(workspace)[0].rotating_until is not None
    send_test(workspace, hook.id)
    later = webhooks.now() + 3601
    monkeypatch.setattr(webhooks, "now", lambda: later)
    send_test(workspace, hook.id)
    monkeypatch.undo()
    newest = rotate_secret(workspace, hook.id, "ada", hours=0)
    send_test(workspace, hook.id)
    both, expired, without = [(headers, body) for _, headers, body in receiver.got]
    for secret in (old, new):
        assert Verifier(secret).verify(both[1], both[0])
    for (headers, body), secret, former in ((expired, new, old), (without, newest, new)):
        assert Verifier(secret).verify(body, headers)
        with pytest.raises(WebhookVerificationError):
            Verifier(former).verify(body, headers)
    for wrong in (-1, 721, float("nan")):
        with pytest.raises(InputRefused, match="hours"):
            rotate_secret(workspace, hook.id, "ada", hours=wrong)


def test_no_list_log_audit_or_text_of_a_record_holds_a_secret_or_an_address(
    workspace: Workspace, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    hook = registered(workspace, receiver, "/services/s3cr3t")
    receiver.answers.append((500, {}))
    with caplog.at_level(logging.DEBUG), pytest.raises(ServiceAbsent, match="it answered 500") as refused:
        send_test(workspace, hook.id)
    secret = reveal_secret(workspace, hook.id, "ada")
    with workspace.catalog(read_only=True) as catalog:
        told = (
            f"{catalog.webhooks.find(hook.id)} {catalog.audit.list()} {list_deliveries(workspace, hook.id)}"
        )
    told += f"{list_webhooks(workspace)} {caplog.text} {refused.value}"
    assert secret not in told and "s3cr3t" not in told
    [failed] = list_deliveries(workspace, hook.id)
    assert (failed.state, failed.status) == ("failed", 500)


def test_addresses_that_are_not_allowed_get_nothing(workspace: Workspace, receiver: Receiver) -> None:
    receiver.answers.append((302, {"Location": "/elsewhere"}))
    response = post(f"{receiver.url}/away", b"{}", {})
    assert response.status_code == 302 and [path for path, _, _ in receiver.got] == ["/away"]
    for location in (
        "http://example.org/x",
        "ftp://localhost/x",
        "https://",
        "http://10.0.0.1/",
        "http://[::",
    ):
        with pytest.raises(InputRefused, match="https"):
            check_target(location)
        with pytest.raises(InputRefused, match="https"):
            post(location, b"{}", {})


def test_each_address_is_told_of_its_events_alone_and_of_each_once(
    workspace: Workspace, receiver: Receiver
) -> None:
    chat = registered(workspace, receiver, "/chat", "chat")
    mail = registered(workspace, receiver, "/mail", "mail")
    assert [one.events for one in list_webhooks(workspace)] == [tuple(EVENTS)] * 2
    set_events(workspace, mail.id, ["study finished", "round finished"], "ada")
    with workspace.catalog() as catalog:
        assert announce(catalog, "job failed", "j", "j", "It failed.", {"kind": "treat"}) == 1
        assert announce(catalog, "job failed", "j", "j", "It failed.", {"kind": "treat"}) == 0
        catalog.rollback()
        catalog.studies.add(Study(id="s", name="of ada", before_id="a", after_id="b", pairs=(("x", "y"),)))
        catalog.commit()
    close_study(workspace, "s", "ada")
    assert [one.event for one in list_deliveries(workspace, chat.id)] == ["study finished"], "rolled back"
    [told] = list_deliveries(workspace, mail.id)
    body = json.loads(told.body)
    assert body["type"] == "study.finished" and body["data"]["subject"] == body["subject"] == "s"
    assert body["timestamp"].endswith("Z") and "ada" not in told.body
    with pytest.raises(InputRefused, match="unknown events cake"):
        set_events(workspace, mail.id, ["cake"], "ada")


def test_a_message_can_be_sent_again(workspace: Workspace, receiver: Receiver) -> None:
    hook = registered(workspace, receiver)
    sent = send_test(workspace, hook.id)
    send_again(workspace, sent.id, "ada")
    [pending] = list_deliveries(workspace, hook.id)
    assert (pending.state, pending.attempts, pending.message_id) == ("pending", 0, sent.message_id)
    assert list_webhooks(workspace)[0].pending == 1
    with workspace.catalog() as catalog:
        old = {"endpoint_id": hook.id, "message_id": "m", "event": "", "subject": "", "body": ""}
        catalog.deliveries.add(Delivery(id="old", state="delivered", **old))
        catalog.commit()
    with pytest.raises(InputRefused, match="older version"):
        send_again(workspace, "old", "ada")


def test_the_test_button_of_the_admin_page_sends_a_signed_message(
    workspace: Workspace, receiver: Receiver
) -> None:
    hook = registered(workspace, receiver)
    assert "signed test message was taken" in check_registered(workspace, hook.id, HERE)
    assert Verifier(reveal_secret(workspace, hook.id, "ada")).verify(receiver.got[0][2], receiver.got[0][1])


def test_names_and_ids_find_a_webhook_and_removing_it_removes_all_of_it(
    workspace: Workspace, receiver: Receiver
) -> None:
    first, second = (registered(workspace, receiver, path) for path in ("/one", "/two"))
    assert webhook_named(workspace, first.id) == first.id
    with pytest.raises(InputRefused, match="2 webhooks are called 'chat'"):
        webhook_named(workspace, "chat")
    send_test(workspace, first.id)
    remove_endpoint(workspace, first.id, "ada")
    assert webhook_named(workspace, "chat") == second.id
    for ask in (list_deliveries, send_test):
        with pytest.raises(NotFound):
            ask(workspace, first.id)
    assert registered(workspace, receiver, "/one").id == first.id
    assert list_deliveries(workspace, first.id) == []


@pytest.mark.parametrize(
    ("header", "low", "high"), [("120", 120, 120), ("", 0, 0), ("soon", 0, 0), ("-5", 0, 0)]
)
def test_retry_after_is_seconds_or_a_date(header: str, low: float, high: float) -> None:
    assert low <= seconds_asked(header) <= high


def test_retry_after_as_a_date() -> None:

    assert 50 < seconds_asked(formatdate(webhooks.now() + 60, usegmt=True)) <= 60
    assert seconds_asked("Wed, 21 Oct 2015 07:28:00 GMT") == 0
