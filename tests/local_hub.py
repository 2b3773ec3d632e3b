"""A hub of datasets and models on this machine, for tests of what downloads from one or uploads to it."""

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

REVISION = "5" * 40


KINDS = ("datasets", "models")
LARGE = (".safetensors", ".onnx", ".pt2", ".parquet", ".png")
"""Files that are uploaded by themselves, before the commit that names them."""


class Hub(ThreadingHTTPServer):
    """Serves the data sets and models below a folder, OWNER/NAME each, and notes which files are
    downloaded."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Requests)
        self.folder = folder
        self.asked: list[str] = []
        self.downloads: list[str] = []
        self.revision = REVISION
        self.cut: dict[str, int] = {}
        """Bytes after which the connection breaks, once, by file."""
        self.gated: dict[str, str] = {}
        """The token that a repository asks for."""
        self.created: list[dict[str, Any]] = []
        """What `create_repo` sent."""
        self.writer = ""
        """The token that uploads need; "" for none."""
        self.stored: dict[str, bytes] = {}
        """Large files that were uploaded and wait for their commit, by SHA-256."""
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def files(self, repository: str) -> list[Path]:
        home = self.folder / repository
        return sorted(path for path in home.rglob("*") if path.is_file())

    def tree(self, repository: str, below: str, deep: bool) -> list[dict[str, Any]]:
        home = self.folder / repository / below
        return [self.entry(repository, path) for path in sorted(home.rglob("*") if deep else home.glob("*"))]

    def commit(self, repository: str, lines: bytes) -> None:
        """Write the files of a commit below the folder."""
        for line in lines.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                content = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                content = self.stored.pop(value["oid"])
            else:
                continue
            target = self.folder / repository / value["path"]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)

    def entry(self, repository: str, path: Path) -> dict[str, Any]:
        name = path.relative_to(self.folder / repository).as_posix()
        if path.is_dir():
            return {"type": "directory", "oid": "0" * 40, "size": 0, "path": name}
        return {"type": "file", "oid": etag(path), "size": path.stat().st_size, "path": name}


def etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


def _of_the_api(where: list[str]) -> bool:
    return where[:1] == ["api"] and where[1:2] in ([kind] for kind in KINDS)


class Requests(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        body = self._body()
        where = unquote(urlsplit(self.path).path).strip("/").split("/")
        if _of_the_api(where) and "paths-info" in where:
            repository = "/".join(where[2:4])
            wanted = set(json.loads(body)["paths"])
            entries = self.server.tree(repository, "", deep=True)
            self._answer(200, [one for one in entries if one["path"] in wanted])
        elif where == ["api", "validate-yaml"]:
            self._answer(200, {"errors": [], "warnings": []})
        elif self.server.writer and self.headers.get("Authorization") != f"Bearer {self.server.writer}":
            self._answer(401, {"error": "Invalid username or password."})
        else:
            self._upload(where, body)

    def do_PUT(self) -> None:
        data = self._body()
        digest = self.path.rpartition("/")[2]
        if hashlib.sha256(data).hexdigest() != digest:
            self._answer(400, {"error": "the content does not match its hash"})
            return
        self.server.stored[digest] = data
        self._answer(200, {})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            return b"".join(iter(self._chunk, b""))
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _chunk(self) -> bytes:
        data = self.rfile.read(int(self.rfile.readline(), 16))
        self.rfile.readline()
        return data

    def _upload(self, where: list[str], body: bytes) -> None:
        repository = "/".join(where[2:4])
        if where == ["api", "repos", "create"]:
            asked = json.loads(body)
            self.server.created.append(asked)
            kind = "datasets/" if asked.get("type") == "dataset" else ""
            self._answer(200, {"url": f"{self.server.url}/{kind}{asked['organization']}/{asked['name']}"})
        elif _of_the_api(where) and where[4:5] == ["preupload"]:
            names = [one["path"] for one in json.loads(body)["files"]]
            modes = {name: "lfs" if name.endswith(LARGE) else "regular" for name in names}
            files = [{"path": n, "uploadMode": m, "shouldIgnore": False} for n, m in modes.items()]
            self._answer(200, {"files": files})
        elif where[-3:] == ["lfs", "objects", "batch"]:
            objects = [
                one | {"actions": {"upload": {"href": f"{self.server.url}/store/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            self._answer(200, {"transfer": "basic", "objects": objects})
        elif _of_the_api(where) and where[4:5] == ["commit"]:
            self.server.commit(repository, body)
            url = f"{self.server.url}/{repository}/commit/{REVISION}"
            self._answer(200, {"success": True, "commitUrl": url, "commitOid": REVISION, "hookOutput": ""})
        else:
            self._answer(404, {"error": f"unexpected {self.path}"})

    def do_GET(self) -> None:
        where = unquote(urlsplit(self.path).path).strip("/").split("/")
        if where[:1] == ["datasets"]:
            where = where[1:]
        repository = "/".join(where[2:4] if _of_the_api(where) else where[:2])
        wanted = self.server.gated.get(repository)
        if wanted and self.headers.get("Authorization") != f"Bearer {wanted}":
            self._answer(401, {"error": "Access is restricted"}, {"X-Error-Code": "GatedRepo"})
        elif _of_the_api(where):
            self._about(repository, where[4:])
        elif where[2:3] == ["resolve"]:
            self._file(repository, "/".join(where[4:]))
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
            about = {"id": repository, "sha": self.server.revision, "siblings": siblings, "private": False}
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
        self.send_header("X-Repo-Commit", self.server.revision)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        self.server.downloads.append(name if not start else f"{name} from {start}")
        self.wfile.write(data[start : self.server.cut.pop(name, len(data))])

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
