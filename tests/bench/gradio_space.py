"""A Space's start: `python app.py` in a Space's folder to the first artifact map, with this environment's
packages; each time with a workspace of its own, since a Space's is new after every restart.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from gradio_client import Client, handle_file

from dataengine.clinic.world import stream
from dataengine.images import encode_png
from pipelines.services.standalone.space import write_space
from tests.bench.harness import ROOT, Figure, bootstrap, figure

STARTS = 5
PATIENCE = 300.0


def figures(quick: bool) -> list[Figure]:
    """Start the Space again and again."""
    with tempfile.TemporaryDirectory() as name:
        folder = write_space(Path(name) / "space", ROOT)
        picture = Path(name) / "picture.png"
        picture.write_bytes(encode_png(stream("validation", flawed=1.0)[0].image))
        seconds = [start(folder, picture) for _ in range(1 if quick else STARTS)]
    interval = bootstrap(seconds, lambda drawn: float(np.median(drawn)))
    return [
        figure(
            "space_start_s",
            float(np.median(seconds)),
            interval,
            "s",
            len(seconds),
            "`python app.py` to the first map of an uploaded image; worker and first data start beside it",
        )
    ]


def start(folder: Path, picture: Path) -> float:
    """Seconds from the call of `python app.py` to the first map. Raises `RuntimeError` if none comes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as workspace:
        own = {"SPACE_ID": "bench/clinic", "CLINIC_WORKSPACE": str(Path(workspace) / "workspace")}
        where = {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(port), "HF_HUB_OFFLINE": "1"}
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "app.py"],
            cwd=folder,
            env=kept | own | where,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            client = connect(f"http://127.0.0.1:{port}/", began)
            found = client.predict([handle_file(picture)], None, api_name="/diagnose")
            seconds = time.monotonic() - began
            if found[-2]["data"][0][0] != picture.name:
                raise RuntimeError(f"the Space answered {found[-2]}")
        finally:
            process.terminate()
            process.wait(60)
    return seconds


def connect(url: str, began: float) -> Client:
    """A client, as soon as the Space answers."""
    while True:
        try:
            return Client(url, download_files=False, verbose=False)
        except Exception as error:
            if time.monotonic() - began > PATIENCE:
                raise RuntimeError("the Space did not start") from error
            time.sleep(0.1)
