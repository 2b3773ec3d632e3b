"""Write a folder of custom nodes for ComfyUI with a detector in it."""

import shutil
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from pipelines.services.standalone.detector_exports import export_detector
from storage.workspace import Workspace

PACKAGE = "dataengine.integrations.comfyui"
NODES = ("Detect artifacts", "Artifact detector (SEGM)", "Filter by artifact score", "Guide sampler")
README = """# Artifact nodes for ComfyUI

Put this folder below `ComfyUI/custom_nodes` and restart ComfyUI. It needs what ComfyUI has (torch, numpy) and
`transformers`. The nodes are under “artifacts”:

| node | |
|---|---|
| Detect artifacts | image → mask, map, highest confidence, and the detector for detailers |
| Artifact detector (SEGM) | the detector as `SEGM_DETECTOR`, for every detailer of the Impact Pack |
| Filter by artifact score | splits a batch into images below and above a limit |
| Guide sampler by artifact detector | a model whose sampling is moved away from artifacts; needs the VAE |

Thresholds begin at the detector's operating point. `detector/README.md` is its card: what it was trained on,
how it was measured, and its licence ({licence}).
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class ComfyExport:
    """The written folder, its nodes, and the licence of the detector in it."""

    folder: Path
    nodes: tuple[str, ...]
    licence: str


def export_comfyui(
    out: Path, named: str, *, workspace: Workspace | None = None, half: bool = False
) -> ComfyExport:
    """Write the nodes and the detector, named as in `export_detector`, to a new folder.

    Raises `InputRefused` for a folder that is not empty, `ConfigRefused` for a detector that transformers
    cannot express, `NotFound` for an unknown one.
    """
    from pipelines.exchange.writers.snapshot_folder import NewFolder

    with NewFolder(out) as fresh, as_file(files(PACKAGE)) as package:
        for file in sorted(package.glob("*.py")):
            shutil.copyfile(file, fresh / file.name)
        done = export_detector(named, fresh / "detector", "transformers", workspace=workspace, half=half)
        text = README.format(licence=done.licence or "not recorded")
        (fresh / "README.md").write_text(text, encoding="utf-8")
        (fresh / "requirements.txt").write_text("transformers\n", encoding="ascii")
    return ComfyExport(folder=Path(out).absolute(), nodes=NODES, licence=done.licence)
