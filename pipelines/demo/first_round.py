"""What a Space begins with: a few images, and a small round up to the images that people label.

`python -m pipelines.demo.first_round WORKSPACE` prepares one in a process of its own, so that the app
answers meanwhile. Does nothing in a workspace that has a round. Cost: about twenty seconds; the worker runs
the round.
"""

import sys
from pathlib import Path
from typing import Any

from pipelines import recipes
from pipelines.config import DemoDataConfig
from pipelines.demo.data import prepare
from pipelines.services.rounds import start_round
from storage.opening import create_workspace
from storage.workspace import Workspace

DATA = DemoDataConfig(clean=60, previous=24, validation=12, benchmark=12, benchmark_clean=6)
TO_LABEL = 20
SEEDS = 2
"""Images of each prompt; with one, the hard categories would hold fewer than ten to label."""


def begin_first_round(workspace: Workspace) -> None:
    """Prepare the workspace and start its round, unless it has one."""
    with workspace.catalog(read_only=True) as catalog:
        if catalog.rounds.list():
            return
    prepare(workspace, DATA)
    start_round(workspace, recipe(), "space")


def recipe() -> dict[str, Any]:
    """The smallest round, with images drawn as well as the demo's; people train and treat by themselves."""
    settings = recipes.cpu_smoke().model_dump(mode="json") | {"parts": ["detector"]}
    settings["generate"]["sampling"] = recipes.demo().generate.sampling.model_dump(mode="json")
    settings["generate"]["seeds_per_prompt"] = settings["write_prompts"]["seeds_per_prompt"] = SEEDS
    settings["mine"]["budget"] = TO_LABEL
    return settings


if __name__ == "__main__":
    begin_first_round(create_workspace(Path(sys.argv[1])))
