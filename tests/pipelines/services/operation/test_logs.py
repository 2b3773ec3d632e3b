"""Log lines: JSON, without secrets, in files that begin anew; a worker's output the same way."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.services.operation.logs import JsonFormatter, PrivateLog, relay, request_id, without_secrets

SECRET = "s3cr3t-0123456789"


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {SECRET}",
        f"authorization=basic {SECRET}",
        f"sent Bearer {SECRET} to the proxy",
        f"Cookie: clinic_session_7860={SECRET}; theme=dark; other={SECRET}",
        f"Set-Cookie: a={SECRET}; Path=/",
        f"GET /login?token={SECRET}&next=/",
        f'{{"password": "{SECRET}"}}',
        f"api_key={SECRET}",
        f"postgresql://clinic:{SECRET}@database/clinic",
        f"signed with whsec_{SECRET.replace('-', '')}{SECRET}",
    ],
)
def test_no_secret_gets_into_a_line(text: str) -> None:
    assert SECRET not in without_secrets(text) and "s3cr3t0123456789" not in without_secrets(text)


def test_what_is_no_secret_stays() -> None:
    for text in (
        "job treat-1 failed: out of memory",
        "GET /api/images/abc 200",
        "https://host:7860/x",
        "a basic idea",
    ):
        assert without_secrets(text) == text


def test_fields_named_like_secrets_are_emptied_at_every_depth() -> None:
    record = logging.makeLogRecord(
        {
            "msg": "asked",
            "headers": {"Authorization": SECRET, "Host": "h"},
            "token": SECRET,
            "tries": [SECRET, 3],
        }
    )
    line = json.loads(JsonFormatter().format(record))
    assert line["headers"] == {"Authorization": "[removed]", "Host": "h"}
    assert line["token"] == "[removed]" and line["tries"] == [SECRET, 3]


def test_each_line_of_a_request_holds_its_id() -> None:
    held = request_id.set("0123456789abcdef")
    try:
        assert json.loads(JsonFormatter().format(logging.makeLogRecord({"msg": "x"})))["request"] == (
            "0123456789abcdef"
        )
    finally:
        request_id.reset(held)
    assert "request" not in json.loads(JsonFormatter().format(logging.makeLogRecord({"msg": "x"})))


def test_the_output_of_a_process_becomes_json_lines_in_files_that_begin_anew(tmp_path: Path) -> None:
    code = (
        "import logging, os, sys\n"
        "from pipelines.services.operation.logs import log_to_stderr; log_to_stderr()\n"
        "log = logging.getLogger('clinic.worker')\n"
        "os.write(2, b'native noise with password=hunter2\\n')\n"
        "for n in range(40): log.info('line %s', n, extra={'token': 'hunter2'})\n"
        "raise SystemExit('gone')"
    )
    file = PrivateLog(tmp_path / "worker.log", most_bytes=2000, kept=10)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout
        relay(process.stdout, file, "worker")
    file.close()
    files = sorted(tmp_path.iterdir())
    assert len(files) > 2 and all(one.stat().st_size <= 2000 for one in files)
    assert all(one.stat().st_mode & 0o777 == 0o600 for one in files)
    lines = [json.loads(line) for one in files for line in one.read_text().splitlines()]
    assert "hunter2" not in str(lines)
    events = {line["event"]: line for line in lines}
    assert {f"line {n}" for n in range(40)} <= events.keys() and "gone" in events
    assert events["line 3"]["logger"] == "clinic.worker" and events["line 3"]["level"] == "info"
    assert events["native noise with password=[removed]"]["logger"] == "worker"
