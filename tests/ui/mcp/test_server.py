"""`clinic mcp` as an assistant starts it, over stdio, and over HTTP with every caller's own token."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastmcp import Client
from fastmcp.client.transports import StdioTransport, StreamableHttpTransport

import app
from pipelines.services.admin.tokens import create_token, revoke_token
from storage.workspace import Workspace
from tests.ui.client.conftest import token_of
from tests.ui.mcp.loops import run
from ui.client import Clinic
from ui.mcp.server import CallersTokens, build_server, callers_client

__all__ = ["token_of"]

ROOT = Path(__file__).resolve().parents[3]
PATIENCE = 250.0
Live = tuple[str, Workspace]
Tokens = Callable[..., str]


def environment(**given: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CLINIC_")}
    return kept | {"PYTHONPATH": str(ROOT)} | given


def test_an_assistant_starts_it_over_stdio(live: Live, token_of: Tokens, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.touch(0o600)
    file.write_text(token_of("curator") + "\n")
    words = ["-m", "app", "mcp", "--url", live[0], "--token-file", str(file)]

    async def go() -> tuple[list[str], Any, Any]:
        transport = StdioTransport(sys.executable, words, environment(), str(tmp_path), keep_alive=False)
        async with Client(transport, timeout=PATIENCE) as client:
            tools = [tool.name for tool in await client.list_tools()]
            found = await client.call_tool("search_images", {"words": "hand", "limit": 1})
            image = found.structured_content["images"][0]["id"]
            shown = await client.call_tool("show_image", {"image": image})
            refused = await client.call_tool("start_training", {}, raise_on_error=False)
            return tools, shown, refused

    tools, shown, refused = run(go)
    assert len(tools) == 10 and "start_training" not in tools
    assert [one.type for one in shown.content] == ["text", "image", "image"]
    assert refused.is_error and "start it with --write" in refused.content[0].text


@pytest.mark.parametrize(
    ("words", "given", "sentence"),
    [
        ((), {}, "set CLINIC_URL"),
        (("--url", "http://127.0.0.1:9"), {}, "does not answer"),
        (("--token-file", "none"), {"CLINIC_URL": "http://127.0.0.1:9"}, "cannot be read"),
        (("--http", "--token-file", "none"), {}, "every caller sends a token of its own"),
    ],
)
def test_what_cannot_start_says_so_in_one_sentence(
    words: tuple[str, ...],
    given: dict[str, str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("CLINIC_URL", "CLINIC_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("ui.client.transport.FIRST_WAIT", 0.0)
    assert app.main(["mcp", *words]) != 0
    told = capsys.readouterr()
    assert told.out == "" and sentence in told.err and len(told.err.splitlines()) == 1


def test_a_token_that_others_can_read_is_refused(tmp_path: Path) -> None:
    from dataengine.errors import ConfigRefused
    from ui.mcp.server import token_in

    file = tmp_path / "token"
    file.write_text(" \n")
    for mode, sentence in ((0o644, "chmod 600"), (0o600, "is empty")):
        file.chmod(mode)
        with pytest.raises(ConfigRefused, match=sentence):
            token_in(file)


def test_without_the_extra_it_names_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(app, "find_spec", lambda name: None)
    assert app.main(["mcp"]) != 0
    assert "pip install 'artifact-clinic[mcp]'" in capsys.readouterr().err


@contextmanager
def over_http(url: str) -> Iterator[str]:
    """The server as `clinic mcp --http --write` has it, in a thread; its address."""
    clients: dict[str, Clinic] = {}

    def client_of(token: str) -> Clinic:
        return clients.setdefault(token, Clinic(url, token))

    made = build_server(lambda: callers_client(client_of), True, auth=CallersTokens(client_of))
    config = uvicorn.Config(
        made.http_app(host_origin_protection=True), port=0, log_config=None, timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            threading.Event().wait(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        server.should_exit = True
        thread.join(20)
        for one in clients.values():
            one.close()


def test_every_caller_over_http_is_who_its_token_says(live: Live, token_of: Tokens) -> None:
    text, record = create_token(live[1], "curator", "ends soon", ["curator"], 1, "test")

    async def ask(address: str, token: str, name: str = "report") -> Any:
        transport = StreamableHttpTransport(address, headers={"Authorization": f"Bearer {token}"})
        async with Client(transport, timeout=PATIENCE) as client:
            return await client.call_tool(name, {}, raise_on_error=False)

    with over_http(live[0]) as address:
        for name in ("curator", "engineer"):
            assert run(ask, address, token_of(name)).structured_content["account"] == name
        beyond = run(ask, address, token_of("curator"), "start_training")
        assert beyond.is_error and "the engineer or admin role" in beyond.content[0].text
        assert not run(ask, address, text).is_error
        revoke_token(live[1], record.id, "test")
        for wrong in (text, "clinic_x", ""):
            headers = {"Authorization": f"Bearer {wrong}"} if wrong else {}
            ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
            answer = httpx.post(address, json=ping, headers=headers, timeout=PATIENCE)
            assert answer.status_code == 401, answer.text
        headers = {"Host": "evil.test", "Authorization": f"Bearer {token_of('curator')}"}
        assert httpx.post(address, json=ping, headers=headers, timeout=PATIENCE).status_code in (403, 421)
