"""`clinic export --push-to-hub` through huggingface_hub's own HTTP calls, against a hub of this test."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataengine.records import SnapshotItem
from pipelines.exchange.formats import import_dataset
from pipelines.exchange.import_options import ImportOptions
from pipelines.exchange.importer import Ingest
from storage.workspace import Workspace
from tests.local_hub import Hub
from tests.pipelines.exchange import layouts

ROOT = Path(__file__).resolve().parents[3]
TOKEN = "hf_" + "x" * 34


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    server = Hub(tmp_path / "hub")
    server.writer = TOKEN
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_snapshot_goes_to_the_hub_with_its_card(fresh: Workspace, tmp_path: Path, hub: Hub) -> None:
    path = layouts.coco(tmp_path / "d")
    wanted = ImportOptions(path=path, mapping={"odd hand": "watermark"})
    import_dataset(fresh, "coco", wanted, Ingest(licence="CC-BY-4.0", validation=0.0))
    with fresh.catalog(read_only=True) as catalog:
        images = catalog.images.find()
        labels = {one.image_id: one.label_map for one in catalog.labels.of_images([i.id for i in images])}
    items = [
        SnapshotItem(image_id=i.id, image_sha256=i.sha256, kind="true", target=labels[i.id], split=i.split)
        for i in images
        if i.id in labels
    ]
    snapshot = fresh.snapshots.publish(items)

    def exported(folder: str, token: str) -> tuple[int, dict[str, object]]:
        home = {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": hub.url, "HF_TOKEN": token}
        words = ["export", str(tmp_path / folder), "--format", "hf", "--snapshot", snapshot.id]
        words += ["--push-to-hub", "ada/set", "--workspace", str(fresh.path), "--json"]
        program = [sys.executable, "-c", "import sys, app; sys.exit(app.main(sys.argv[1:]))", *words]
        environment = (
            os.environ | home | {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT)}
        )
        done = subprocess.run(program, env=environment, capture_output=True, timeout=120, check=False)
        return done.returncode, json.loads(done.stdout)

    status, said = exported("refused", "hf_wrong")
    assert status == 1 and "the hub refused 'ada/set'" in str(said["error"]) and not hub.files("ada/set")
    status, said = exported("out", TOKEN)
    assert status == 0 and said["rows"] == 3 and str(said["url"]).startswith(hub.url)
    assert [(one["type"], one["name"]) for one in hub.created] == [("dataset", "set")]
    assert hub.created[0].get("visibility") == "private" or hub.created[0].get("private") is True
    written = {str(p.relative_to(tmp_path / "out")): p.read_bytes() for p in (tmp_path / "out").rglob("*.*")}
    home = tmp_path / "hub" / "ada" / "set"
    uploaded = {path.relative_to(home).as_posix(): path.read_bytes() for path in hub.files("ada/set")}
    assert uploaded == written and "| CC-BY-4.0 | 3 |" in uploaded["README.md"].decode()
