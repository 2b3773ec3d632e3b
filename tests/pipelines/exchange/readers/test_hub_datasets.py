"""`clinic import hf://OWNER/NAME` through the HTTP calls of `datasets`, against a hub of this test."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from storage.opening import open_workspace
from tests.local_hub import Hub
from tests.pipelines.exchange.labelled import picture
from tests.pipelines.exchange.readers.test_hugging_face import configured, shard, tar

ROOT = Path(__file__).resolve().parents[4]


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
