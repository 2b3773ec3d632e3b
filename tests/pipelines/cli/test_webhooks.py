"""`clinic webhooks`: register, test, rotate, look at the log, remove."""

import json
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook as Verifier

import app
from storage.opening import create_workspace
from tests.pipelines.receiver import receiving


def test_an_address_from_registration_to_removal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    create_workspace(tmp_path / "w").close()

    def run(*words: str, status: int = 0) -> Any:
        capsys.readouterr()
        assert app.main(["--workspace", str(tmp_path / "w"), "webhooks", *words, "--json"]) == status
        return json.loads(capsys.readouterr().out) if status == 0 else None

    with receiving() as receiver:
        address = f"{receiver.url}/s3cr3t"
        run("add", "chat", address, status=1)
        secret = run("add", "chat", address, "--allow-network", "127.0.0.0/8")["secret"]
        assert run("secret", "chat")["secret"] == secret
        assert run("test", "chat")["status"] == 204
        assert Verifier(secret).verify(receiver.got[0][2], receiver.got[0][1])["type"] == "test"
        assert run("rotate", "chat", "--hours", "0")["secret"] != secret
        [listed] = run("events", "chat", "--event", "job failed")["webhooks"]
        assert listed["events"] == ["job failed"] and "s3cr3t" not in str(listed)
        [sent] = run("log", "chat")["deliveries"]
        assert (sent["event"], sent["state"]) == ("test", "delivered")
        assert run("remove", "chat") == {"webhooks": []}
        assert run("list") == {"webhooks": []}
        run("test", "chat", status=1)
