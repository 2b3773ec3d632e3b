"""The webhooks tab: what it lists, and that no secret or address is in it before somebody asks."""

import pandas as pd

from pipelines.services.endpoints import add_endpoint
from pipelines.services.operation.webhooks import reveal_secret, rotate_secret, send_test
from storage.workspace import Workspace
from tests.pipelines.receiver import receiving
from ui.admin.webhooks import HOOKS, LOG, hook_state


def test_the_tab_lists_webhooks_and_the_messages_of_the_chosen_one(bare: Workspace) -> None:
    assert hook_state(bare, None)[0].empty
    with receiving() as receiver:
        hook = add_endpoint(bare, "webhook", "chat", f"{receiver.url}/s3cr3t", "ada", ("127.0.0.0/8",))
        send_test(bare, hook.id)
    rotate_secret(bare, hook.id, "ada")
    table, note, chosen, editor, events, secret, log, *_ = hook_state(bare, hook.id)
    assert isinstance(table, pd.DataFrame) and list(table.columns) == list(HOOKS)
    assert list(log.columns) == list(LOG) and list(log["event"]) == ["test"]
    assert list(log["last answer"]) == ["status 204"] and chosen == hook.id
    assert editor["visible"] and len(events) == 9 and "former secret" in note and secret == ""
    shown = f"{table.to_dict()} {log.to_dict()} {note}"
    assert "s3cr3t" not in shown and reveal_secret(bare, hook.id, "ada") not in shown
    assert hook_state(bare, "no such")[2] is None
