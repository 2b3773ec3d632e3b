"""The notebook of the client runs as it stands, with the sources of the client's wheel, on a live server."""

from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from storage.workspace import Workspace
from ui.client import wheel

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "docs/client.ipynb"


def test_it_is_stored_without_outputs() -> None:
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert len(cells) > 5 and not any(cell.outputs or cell.execution_count for cell in cells)


@pytest.mark.docs
def test_it_runs(
    live: tuple[str, Workspace],
    token_of: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from nbclient import NotebookClient

    wheel.write_sources(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("CLINIC_URL", live[0])
    monkeypatch.setenv("CLINIC_TOKEN", token_of("admin", "annotator", "curator", "engineer"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": tmp_path}}).execute()
    told = "".join(
        output.get("text", "") + str(output.get("data", {}).get("text/plain", ""))
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )
    for part in (
        "Count(count=4",
        "(1, True, ['shape distortion'",
        "label map is (63, 64)",
        "404 there is no image",
    ):
        assert part in told, told
    assert "Imported(added=0, duplicates=1" in told and "first doctor champion" in told
