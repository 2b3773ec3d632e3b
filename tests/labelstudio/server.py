"""A real Label Studio in an environment of its own (`build/labelstudio-venv`): SQLite, no telemetry."""

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "build" / "labelstudio-venv" / "bin" / "label-studio"
EMAIL, PASSWORD = "ada@example.org", "correct-horse-9"
START_SECONDS = 1500.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class LabelStudioServer:
    """One server over one data folder; it can be stopped and started again."""

    folder: Path
    port: int = field(default_factory=free_port)
    token: str = field(default_factory=lambda: secrets.token_hex(20))
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start and wait until it answers."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "LABEL_STUDIO_BASE_DATA_DIR": str(self.folder),
            "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
            "SSRF_PROTECTION_ENABLED": "false",
            "USE_DEFAULT_BANNED_SUBNETS": "false",
            "COLLECT_ANALYTICS": "False",
            "LATEST_VERSION_CHECK": "False",
            "SENTRY_DSN": "",
            "FRONTEND_SENTRY_DSN": "",
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        command = ["nice", "-n", "10", str(PROGRAM), "start", "--no-browser", "--port", str(self.port)]
        command += ["--internal-host", "127.0.0.1", "--data-dir", str(self.folder)]
        command += ["--username", EMAIL, "--password", PASSWORD, "--user-token", self.token]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                env=environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                tail = (self.folder / "server.log").read_text(errors="replace")[-2000:]
                self.stop()
                pytest.fail(f"Label Studio did not start:\n{tail}")
            time.sleep(0.5)

    def answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def stop(self) -> None:
        """End it and everything that it started."""
        if self.process is None:
            return
        for kind in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, kind)
                self.process.wait(15)
                break
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        self.process = None


@contextmanager
def running(folder: Path) -> Iterator[LabelStudioServer]:
    """A server for the block; the test is skipped (or fails, where services are required) without one."""
    if not PROGRAM.is_file():
        from tests.services import absent

        absent("Label Studio is not installed in build/labelstudio-venv: `make test-labelstudio` installs it")
    server = LabelStudioServer(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
