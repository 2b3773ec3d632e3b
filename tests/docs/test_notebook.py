"""The notebook runs as it stands, and its treated generator's images are better in the detector's eyes."""

import ast
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "docs/quickstart.ipynb"


def test_it_is_stored_without_outputs() -> None:
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert len(cells) > 5 and not any(cell.outputs or cell.execution_count for cell in cells)


@pytest.mark.docs
def test_it_runs_from_images_to_a_treated_generator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=280, resources={"metadata": {"path": tmp_path}}).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    pictures = [o for cell in code for o in cell.outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == 2
    means = ast.literal_eval(code[-1].outputs[-1]["data"]["text/plain"])
    assert 0 < means["after"] < means["before"] < 1
