"""Scratch folders of trainings; a paused run's checkpoint is uploaded, so that any worker can resume it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dataengine.errors import Paused
from storage.workspace import Workspace

HANDED_OVER = "handed-over.json"


@contextmanager
def scratch_folder(workspace: Workspace, work_id: str) -> Iterator[Path]:
    """The scratch folder of a training. In a team it contains the checkpoint of the last pause, on whichever
    worker that was; later checkpoints of a worker that died are lost with its disk.
    """
    files, checkpoints = workspace.job_files, workspace.checkpoints
    folder = checkpoints.pending(work_id)
    if handed := files.get(work_id, HANDED_OVER):
        checkpoints.take_over(work_id, handed["checkpoint"])
    try:
        yield folder
    except Paused:
        if not workspace.own_database:
            files.put(work_id, HANDED_OVER, {"checkpoint": checkpoints.hand_over(work_id)})
        raise


def discard_scratch(workspace: Workspace, work_id: str) -> None:
    """Delete the scratch of a finished training."""
    workspace.checkpoints.discard(work_id)
    workspace.job_files.drop(work_id, HANDED_OVER)
