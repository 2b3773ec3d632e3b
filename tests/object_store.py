"""A small S3 store for tests: a server that keeps objects in memory, and the environment that leads to it."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from unittest.mock import patch
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

URL = "s3://clinic"
BUCKET = "/clinic"


class Store(BaseHTTPRequestHandler):
    """Put (also on condition that nothing is there), get, look, list and delete, as S3 answers them."""

    protocol_version = "HTTP/1.1"
    objects: dict[str, bytes]

    def say(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def about(self, body: bytes) -> dict[str, str]:
        return {"ETag": f'"{md5(body).hexdigest()}"', "Last-Modified": formatdate(usegmt=True)}

    def do_PUT(self) -> None:
        path, body = unquote(urlsplit(self.path).path), self.received()
        if self.headers.get("If-None-Match") == "*" and path in self.objects:
            self.say(412, b"<Error><Code>PreconditionFailed</Code></Error>")
        else:
            self.objects[path] = body
            self.say(200, headers=self.about(body))

    def received(self) -> bytes:
        """The body; without its frames where the client sends it in chunks of its own."""
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "aws-chunked" in self.headers.get("Content-Encoding", ""):
            head, _, rest = body.partition(b"\r\n")
            return rest[: int(head.split(b";")[0], 16)]
        return body

    def do_GET(self) -> None:
        split = urlsplit(self.path)
        path, query = unquote(split.path), parse_qs(split.query)
        if path.rstrip("/") == BUCKET:
            return self.listing(query.get("prefix", [""])[0], query.get("delimiter", [""])[0])
        body = self.objects.get(path)
        if body is None:
            return self.say(404, b"<Error><Code>NoSuchKey</Code></Error>")
        if self.command == "GET" and "Range" in self.headers:
            start, end = self.headers["Range"].removeprefix("bytes=").split("-")
            part = body[int(start) : int(end) + 1 if end else None]
            where = f"bytes {start}-{int(start) + len(part) - 1}/{len(body)}"
            return self.say(206, part, {"Content-Range": where} | self.about(body))
        return self.say(200, body, self.about(body))

    do_HEAD = do_GET

    def listing(self, prefix: str, delimiter: str) -> None:
        keys = [path.removeprefix(f"{BUCKET}/") for path in sorted(self.objects)]
        found, folders = "", set()
        for key in keys:
            inner = key.removeprefix(prefix)
            if not key.startswith(prefix):
                continue
            if delimiter and delimiter in inner:
                folders.add(prefix + inner.partition(delimiter)[0] + delimiter)
                continue
            body = self.objects[f"{BUCKET}/{key}"]
            found += f"<Contents><Key>{escape(key)}</Key><Size>{len(body)}</Size><ETag>x</ETag>"
            found += "<LastModified>2026-11-20T00:00:00Z</LastModified></Contents>"
        for folder in sorted(folders):
            found += f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>"
        answer = f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>"
        self.say(200, answer.encode(), {"Content-Type": "application/xml"})

    def do_DELETE(self) -> None:
        self.objects.pop(unquote(urlsplit(self.path).path), None)
        self.say(204)

    def do_POST(self) -> None:
        text = self.received().decode()
        for key in text.split("<Key>")[1:]:
            self.objects.pop(f"{BUCKET}/{key.partition('</Key>')[0]}", None)
        self.say(200, b'<?xml version="1.0"?><DeleteResult></DeleteResult>')

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def object_store() -> Iterator[dict[str, str]]:
    """An empty store; yields the environment by which processes reach it, as in compose.yaml, and sets it."""
    import s3fs

    handler = type("Handler", (Store,), {"objects": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "clinic",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with patch.dict(os.environ, environment):
        s3fs.S3FileSystem.clear_instance_cache()
        yield environment
        s3fs.S3FileSystem.clear_instance_cache()
    server.shutdown()
    server.server_close()
