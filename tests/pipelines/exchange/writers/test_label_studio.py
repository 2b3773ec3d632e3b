"""Label Studio's JSON as we write it: a server that knows none of our people takes it, and we know them."""

import json
import xml.etree.ElementTree as tree
from pathlib import Path

from dataengine.masks import pack_label_map
from dataengine.records import Label
from pipelines.exchange.readers.folders import import_folder
from pipelines.exchange.writers.snapshot_folder import export_folder
from storage.workspace import Workspace
from tests.pipelines.exchange.labelled import HEIGHT, LEFT, WIDTH, boxed, picture, said, take


def test_authors_stand_where_the_server_does_not_look(
    fresh: Workspace, another: Workspace, tmp_path: Path
) -> None:
    picture(tmp_path / "p" / "a.png")
    import_folder(fresh, tmp_path / "p")
    (blob,) = fresh.blobs.put_many([pack_label_map(boxed(LEFT).astype("uint8"))])
    with fresh.catalog() as catalog:
        (image,) = catalog.images.find()
        for author, drawn in (("ada", blob), ("label-studio:b@c.d", None), ("émile", None)):
            catalog.labels.submit(
                Label(
                    image_id=image.id, author=author, height=HEIGHT, width=WIDTH, label_map=drawn,
                    clean=drawn is None, lead_seconds=3.5, created=1_700_000_000.5,
                )
            )  # fmt: skip
        catalog.commit()
    done = export_folder(fresh, tmp_path / "out", format="label-studio")
    (task,) = json.loads((done.folder / "tasks.json").read_text())
    assert [one["author"] for one in task["annotations"]] == ["ada", "label-studio:b@c.d", "émile"]
    assert not any("completed_by" in one for one in task["annotations"])
    assert any("person who loads tasks.json" in loss for loss in done.losses)
    config = tree.parse(done.folder / "label_config.xml")
    brush = config.find("BrushLabels")
    assert brush is not None and brush.get("name") == task["annotations"][0]["result"][0]["from_name"]

    take(another, "label-studio", done.folder)
    ((_, labels),) = said(another).values()
    assert {(one.author, one.clean, one.lead_seconds, one.created) for one in labels} == {
        ("ada", False, 3.5, 1_700_000_000.5),
        ("label-studio:b@c.d", True, 3.5, 1_700_000_000.5),
        ("émile", True, 3.5, 1_700_000_000.5),
    }
    # Into the workspace that it came from, nothing comes back as new.
    assert take(fresh, "label-studio", done.folder).labels == 0


def test_exports_of_before_are_still_read(fresh: Workspace, tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    answer = {"id": 1, "completed_by": {"email": "ada"}, "result": []}
    task = {"id": 1, "data": {"image": "/data/local-files/?d=images/a.png"}, "annotations": [answer]}
    (tmp_path / "tasks.json").write_text(json.dumps([task]))
    take(fresh, "label-studio", tmp_path)
    ((_, (label,)),) = said(fresh).values()
    assert (label.author, label.clean) == ("label-studio:ada", True)
