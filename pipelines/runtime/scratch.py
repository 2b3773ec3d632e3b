"""Scratch folders of trainings that can move: what a paused run has kept goes where all workers reach it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dataengine.errors import Paused
from storage.workspace import Workspace

HANDED_OVER = "handed-over.json"


@contextmanager
def scratch_folder(workspace: Workspace, work_id: str) -> Iterator[Path]:
    """The scratch folder of a training. In a team it holds what the run had kept when it was paused, wherever
    that was; a worker that died takes what it kept on its own disk along.
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
    """The training is over: nobody needs its scratch any more."""
    workspace.checkpoints.discard(work_id)
    workspace.job_files.drop(work_id, HANDED_OVER)
