"""Part of `make bench-doors`: does the LoRA of the clinic's treated FLUX hold where people draw?

`LORA=DIR` names the LoRA, such as a demo's (the treated generator's checkpoint in its workspace). Without it
the FLUX is treated here as in the demo, but for fewer updates and against the teacher in the place of a
trained detector. The judge, which nothing was trained against, counts artifacts. Cells are those of `clinic
compare --under`, measured by its own code. Resumable (see `Keeper`): measured cells are kept.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dataengine.clinic import parts as clinic_parts
from dataengine.clinic.config import JUDGE_THRESHOLD
from dataengine.clinic.oracles import load_judge, load_teacher
from dataengine.clinic.world import HARD, prompts
from dataengine.treatment.config import SamplingConfig, TreatmentConfig
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.sampling.sampler import as_tensor
from dataengine.treatment.tuning.trainer import treat
from pipelines import recipes
from pipelines.config import ComparisonRun, ConditionsConfig
from pipelines.generators.register import register_generator
from pipelines.jobs.compare_under import BAD, HOLDS, compare_under
from pipelines.runtime.context import Context
from pipelines.runtime.models import Models
from storage.opening import create_workspace
from tests.bench.harness import RESULTS, Figure, Keeper, curve, device, figure, quick, wilson

UPDATES = 2 if quick() else 40
PROMPTS = 4 if quick() else 60
STEPS = 2 if quick() else 5
LIMIT = 0.7
GOAL = 0.8
AXES = ("sampler", "weights") if quick() else ConditionsConfig().axes

KEEPER = Keeper(
    "under",
    modules=("tests.bench.under",),
    settings={"updates": UPDATES, "prompts": PROMPTS, "device": device()},
    weights={name: clinic_parts.fingerprint(name) for name in clinic_parts.model_names()},
)


def treated_flux(flux: Path) -> Path:
    """The LoRA that `LORA` names, or that of the demo's treatment, against the teacher, without the guard."""
    if given := os.environ.get("LORA"):
        return Path(given)
    done = KEEPER.folder("treated") / "lora"
    if not done.is_dir():
        tuning: TreatmentConfig = recipes.named("demo").treat.tuning
        config = tuning.model_copy(
            update={"updates": UPDATES, "offline": None, "sampling": SamplingConfig(steps=STEPS, batch=16)}
        )
        teacher: Any = load_teacher(clinic_parts.materialise("teacher", KEEPER.folder("clinic/teacher")))
        asked = [one.text for one in prompts("treatment", 70)]
        work = KEEPER.folder("treated/work")
        result = treat(
            config, load_family(flux, device=device()), teacher.to(device()), asked, None, [], None, work
        )
        shutil.copytree(result.lora_folder, done.with_name(".part"), dirs_exist_ok=True)
        done.with_name(".part").rename(done)
    return done


def cells() -> dict[str, Any]:
    """The cells of `compare --under` with the judge's frequencies."""
    flux = clinic_parts.materialise("flux", KEEPER.folder("clinic/flux"))
    lora = treated_flux(flux)
    judge = load_judge(clinic_parts.materialise("judge", KEEPER.folder("clinic/judge"))).to(device())

    @torch.no_grad()
    def true_confidence(images: np.ndarray) -> list[float]:
        parts = as_tensor(images).to(device()).split(32)
        return [float(x) for part in parts for x in judge.confidence(part).flatten(1).amax(1).cpu()]

    workspace = create_workspace(KEEPER.folder("workspace"))
    try:
        base = register_generator(workspace, str(flux), "clinic-flux")
        treated = register_generator(workspace, str(flux), "treated", lora=lora)
        run = ComparisonRun(
            before=base.id,
            after=treated.id,
            detector="judge",
            sampling=SamplingConfig(steps=STEPS, batch=20),
            conditions=ConditionsConfig(axes=AXES, limit=LIMIT),
        )
        return compare_under(
            Context(workspace, Models(device())),
            run,
            [one.text for one in prompts("evaluation", PROMPTS, HARD)],
            RESULTS / "under-cells",
            measure=true_confidence,
            threshold=JUDGE_THRESHOLD,
        )
    finally:
        workspace.close()


def under_figures() -> list[Figure]:
    """`under_held`: the share of cells in which the true frequency is at most 0.7 of the base's, and the
    cells, in a table that the note names. Cells whose base has no artifact say nothing, and are left out."""
    result = cells()
    rows = [row for row in result["cells"] if row["verdict"] in (HOLDS, BAD)]
    columns: dict[str, list[Any]] = {
        name: [row[name] for row in rows] for name in ("name", "before", "after", "ratio", "detail")
    }
    columns |= {bound: [row["interval"][end] for row in rows] for end, bound in enumerate(("low", "high"))}
    table = curve("under", columns)
    held, bad = result["held"], ", ".join(result["bad"]) or "none"
    note = f"goal ≥ {GOAL}; bad: {bad}; {result['images']} images a cell and side, by the judge; {table}"
    return [
        figure("under_held", held / len(rows), wilson(held, len(rows)), "share of cells", len(rows), note)
    ]


if __name__ == "__main__":
    from tests.bench.harness import write

    write("under", under_figures(), seeds=[0])
