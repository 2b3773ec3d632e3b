"""`clinic import hf://OWNER/NAME` through the HTTP calls of `datasets`, against a hub of this test."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from storage.opening import open_workspace
from tests.pipelines.exchange.labelled import picture
from tests.pipelines.exchange.readers.test_hugging_face import configured, shard, tar

ROOT = Path(__file__).resolve().parents[4]
REVISION = "5" * 40


class Hub(ThreadingHTTPServer):
    """Serves the data sets below a folder, OWNER/NAME each, and notes which files are downloaded."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Requests)
        self.folder = folder
        self.asked: list[str] = []
        self.downloads: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def files(self, repository: str) -> list[Path]:
        home = self.folder / repository
        return sorted(path for path in home.rglob("*") if path.is_file())

    def tree(self, repository: str, below: str, deep: bool) -> list[dict[str, Any]]:
        home = self.folder / repository / below
        return [self.entry(repository, path) for path in sorted(home.rglob("*") if deep else home.glob("*"))]

    def entry(self, repository: str, path: Path) -> dict[str, Any]:
        name = path.relative_to(self.folder / repository).as_posix()
        if path.is_dir():
            return {"type": "directory", "oid": "0" * 40, "size": 0, "path": name}
        return {"type": "file", "oid": etag(path), "size": path.stat().st_size, "path": name}


def etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


class Requests(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        where = unquote(urlsplit(self.path).path).strip("/").split("/")
        if where[:2] == ["api", "datasets"] and "paths-info" in where:
            repository = "/".join(where[2:4])
            wanted = set(json.loads(body)["paths"])
            entries = self.server.tree(repository, "", deep=True)
            self._answer(200, [one for one in entries if one["path"] in wanted])
        else:
            self._answer(404, {"error": f"unexpected {self.path}"})

    def do_GET(self) -> None:
        where = unquote(urlsplit(self.path).path).strip("/").split("/")
        if where[:2] == ["api", "datasets"]:
            self._about("/".join(where[2:4]), where[4:])
        elif where[:1] == ["datasets"] and where[3:4] == ["resolve"]:
            self._file("/".join(where[1:3]), "/".join(where[5:]))
        else:
            self._answer(404, {"error": f"unexpected {self.path}"})

    def _about(self, repository: str, rest: list[str]) -> None:
        files = self.server.files(repository)
        if not files:
            self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif rest[:1] == ["tree"]:
            deep = "recursive=true" in urlsplit(self.path).query.lower()
            self._answer(200, self.server.tree(repository, "/".join(rest[2:]), deep))
        else:
            siblings = [{"rfilename": self.server.entry(repository, path)["path"]} for path in files]
            about = {"id": repository, "sha": REVISION, "siblings": siblings, "private": False}
            self._answer(200, about | {"tags": [], "downloads": 0, "likes": 0, "gated": False})

    def _file(self, repository: str, name: str) -> None:
        path = self.server.folder / repository / name
        if not path.is_file():
            self._answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
            return
        data = path.read_bytes()
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{etag(path)}"')
        self.send_header("X-Repo-Commit", REVISION)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        self.server.downloads.append(name)
        self.wfile.write(data[start:])

    def _answer(self, status: int, said: object, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(said).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        self.server.asked.append(self.path)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    server = Hub(tmp_path / "hub")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


COMMANDS = """
import contextlib, io, json, sys, app
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as said:
        status = app.main(["import", *words])
    print(json.dumps({**json.loads(said.getvalue()), "status": status}))
"""


def imported(hub: Hub, tmp_path: Path, *commands: list[str]) -> list[dict[str, Any]]:
    """What each `clinic import WORDS` says, all in one process that knows this hub alone."""
    at = ["--format", "hf", "--workspace", str(tmp_path / "w"), "--json"]
    home = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps([[*words, *at] for words in commands])],
        env=os.environ | home | {"PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_XET": "1"},
        cwd=tmp_path,
        capture_output=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_datasets_of_the_hub(hub: Hub, tmp_path: Path) -> None:
    root = configured(tmp_path / "hub" / "ada" / "tables")
    (root / "run.py").write_text("open('ran', 'w')")
    for number in range(3):
        picture(
            tmp_path / "hub" / "ada" / "images" / ("train", "test")[number % 2] / f"{number}.png", 20 + number
        )
    tar(tmp_path / "hub" / "ada" / "tars" / "0000.tar", shard(5))
    card = tmp_path / "hub" / "ada" / "elsewhere" / "README.md"
    card.parent.mkdir()
    card.write_text(f"---\nconfigs:\n- config_name: a\n  data_files: {hub.url}/secret.parquet\n---\n")
    unclear, tables, again, images, tars, nothing, elsewhere = imported(
        hub,
        tmp_path,
        ["hf://ada/tables"],
        ["hf://ada/tables", "--config", "b"],
        ["hf://datasets/ada/tables", "--config", "b"],
        ["hf://ada/images"],
        ["hf://ada/tars"],
        ["hf://ada/nothing"],
        ["hf://ada/elsewhere"],
    )
    assert unclear["status"] == 1 and "has the configurations a, b" in unclear["error"]
    assert (tables["status"], tables["added"], tables["labels"], tables["refused"]) == (0, 2, 1, [])
    assert (again["added"], again["duplicates"]) == (0, 2)
    assert (images["status"], images["added"], images["refused"]) == (0, 3, [])
    assert (tars["status"], tars["labels"], tars["refused"]) == (0, 2, [])
    assert nothing["status"] == 1 and "'ada/nothing' cannot be downloaded" in nothing["error"]
    assert elsewhere["status"] == 1 and "leads out of the dataset" in elsewhere["error"]
    assert hub.downloads.count("b/two.parquet") == 1 and "a/one.parquet" not in hub.downloads
    assert "run.py" not in hub.downloads and not list(tmp_path.rglob("ran"))
    assert not [path for path in hub.asked if "secret" in path]
    with open_workspace(tmp_path / "w").catalog(read_only=True) as catalog:
        splits = sorted(image.split for image in catalog.images.find() if image.origin.endswith(".png"))
    assert splits == ["benchmark", "train", "train"]
