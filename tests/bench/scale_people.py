"""Part `people`: fifty people annotate for eight minutes at two servers behind one proxy, on PostgreSQL.

People, thinking, doubled and cut-off submits are those of `hold_people`; nginx hands every request to the
next server, so that one person's session, lease and draft are met by both.
"""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from tests.bench import harness
from tests.bench.annotate_server import SETTINGS
from tests.bench.harness import ROOT, Figure, figure, full, p95
from tests.bench.hold_people import PEOPLE, SIDE, compare, let_work, memory_growth, queue_images
from tests.bench.postgres import on_postgres
from tests.bench.web_server import server_process, wait_until_listening
from tests.proxies import free_ports

SERVERS = 2


def figures(quick: bool) -> list[Figure]:
    """All of the part's figures."""
    seconds = 20.0 if quick else 3600.0 if full() else 480.0
    harness.RESULTS.mkdir(parents=True, exist_ok=True)
    names = [f"person{number:02d}" for number in range(PEOPLE)]
    with ExitStack() as running:
        folder = Path(
            running.enter_context(tempfile.TemporaryDirectory(prefix="scale-", dir=harness.RESULTS))
        )
        running.enter_context(on_postgres())
        workspace = queue_images(folder / "workspace", names, round(25 * seconds))
        trusted = ('trusted_proxies=["127.0.0.1"]',)
        servers = [
            running.enter_context(server_process(ROOT, workspace.path, *SETTINGS, *trusted))
            for _ in range(SERVERS)
        ]
        url = running.enter_context(balanced(folder, [server.url for server in servers]))
        told, memory, cpu = let_work(url, [server.pid for server in servers], names, seconds)
        wrong = compare(workspace, told)
        for line in failures(workspace.path):
            print(f"  {line}", flush=True)
        workspace.close()
    said = ", ".join(f"{count} {what}" for what, count in wrong.items() if count) or "nothing was wrong"
    load = (
        f"{PEOPLE} people, think time 3 s ± 50 %, {SIDE}², PostgreSQL, {SERVERS} servers behind nginx, "
        f"{os.cpu_count()} cores with the load, {seconds:.0f} s"
    )
    growth, ends = memory_growth(memory, seconds)
    submits, nexts = told["submit_ms"], told["next_ms"]
    trials = f"{told['twice']} sent twice at once, {told['cut']} cut off and sent again"
    return [
        figure("people_answers", len(told["answers"]), unit="answers", note=load),
        p95("people_submit_p95_ms", submits, note=f"{cpu}; median {np.median(submits):.0f} ms; goal ≤ 200"),
        p95("people_next_p95_ms", nexts, note=f"median {np.median(nexts):.0f} ms"),
        figure("people_wrong", sum(wrong.values()), n=len(told["answers"]), note=f"{said}; {trials}; goal 0"),
        figure("people_growth", growth, unit="share", n=len(memory), note=f"{ends}; goal ≤ 0.05"),
    ]


def failures(folder: Path, most: int = 10) -> list[str]:
    """What the servers wrote of requests that they failed, and of errors."""
    found = []
    for file in sorted(folder.glob("server.log*")):
        for line in file.read_text().splitlines():
            row = json.loads(line)
            if int(row.get("status", 0)) >= 500 or row.get("level") in ("ERROR", "error"):
                found.append(line)
    return found[:most]


@contextmanager
def balanced(folder: Path, urls: Sequence[str]) -> Iterator[str]:
    """nginx before the servers, each request to the next one; yields its address."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        raise SystemExit("this part needs nginx (Debian: nginx-light)")
    port = free_ports(1)[0]
    upstream = "".join(f"server {urlsplit(url).netloc};\n" for url in urls)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    headers = {
        "Host": "$http_host",
        "X-Forwarded-For": "$remote_addr",
        "X-Forwarded-Proto": "http",
        "Connection": '""',
    }
    told = "".join(f"proxy_set_header {name} {value};\n" for name, value in headers.items())
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off;\npid {folder}/nginx.pid;\nerror_log {folder}/error.log;\n"
        "events { worker_connections 1024; }\n"
        f"http {{\naccess_log off;\n{places}client_max_body_size 16m;\n"
        f"upstream clinic {{\n{upstream}keepalive 64;\nkeepalive_timeout 2s;\n}}\n"
        f"server {{\nlisten 127.0.0.1:{port};\nlocation / {{\nproxy_pass http://clinic;\n"
        f"proxy_http_version 1.1;\nproxy_next_upstream off;\n{told}}}\n}}\n}}\n"
    )
    command = [program, "-p", str(folder), "-c", str(config)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as proxy:
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until_listening(url)
            time.sleep(0.2)
            yield url
        finally:
            proxy.terminate()
            proxy.wait(10)
