"""An OpenAI-compatible server of this machine that answers what a test wants, in order."""

import base64
import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image


class BoxesServer(ThreadingHTTPServer):
    """`answers` are given one after the other, the last one again and again; a number is a pause."""

    answers: list[Any]
    asked: list[dict[str, Any]]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1#see"

    def texts(self) -> list[str]:
        """The texts of the requests so far."""
        return [body["messages"][0]["content"][1]["text"] for body in self.asked]

    def sizes(self) -> list[tuple[int, int]]:
        """(width, height) of the images of the requests so far."""
        urls = [body["messages"][0]["content"][0]["image_url"]["url"] for body in self.asked]
        return [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).size for url in urls]


class _Handler(BaseHTTPRequestHandler):
    server: BoxesServer

    def do_POST(self) -> None:
        self.server.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        answers = self.server.answers
        said = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(said, float):
            time.sleep(said)
            said = "[]"
        content = said if isinstance(said, str) else json.dumps(said)
        body = json.dumps({"choices": [{"message": {"content": content}, "finish_reason": "stop"}]}).encode()
        try:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            pass  # the client has left

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def boxes_server(*answers: Any) -> Iterator[BoxesServer]:
    """A server with these answers."""
    server = BoxesServer(("127.0.0.1", 0), _Handler)
    server.answers, server.asked = list(answers), []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
