"""The commands in the blocks of the documentation, and how each is made runnable on a small machine."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HISTORY = "log.md"
"""Tells of what was, in the names of its time."""


@dataclass(frozen=True, slots=True)
class Documented:
    """One command as a page has it."""

    page: str
    line: str

    @property
    def words(self) -> list[str]:
        """Its words after `clinic`."""
        return shlex.split(self.line)[1:]


def pages() -> list[Path]:
    return [
        ROOT / "README.md",
        *sorted(path for path in (ROOT / "docs").glob("*.md") if path.name != HISTORY),
    ]


def commands_in(text: str, page: str = "") -> list[Documented]:
    """The lines of fenced and indented blocks that begin with `clinic`; `&&` joins several."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    fenced = "\n".join(body for language, body in blocks if language in SHELLS)
    indented = "\n".join(re.findall(r"^ {4}(.*)$", text, re.MULTILINE))
    lines = [line.removeprefix("$ ").strip() for line in f"{fenced}\n{indented}".splitlines()]
    joined = [part.strip() for line in lines if line.startswith("clinic ") for part in line.split(" && ")]
    return [Documented(page, match[0].rstrip()) for line in joined if (match := CODE.match(line))]


def documented() -> list[Documented]:
    """Every command of every page, in order."""
    return [each for page in pages() for each in commands_in(page.read_text(), page.name)]


CODE = re.compile(r"""(?:'[^']*'|"[^"]*"|[^'"#]|(?<=\S)#)*""")
"""A line without its comment: a number sign after a space that is not quoted begins one."""

SHELLS = ("", "sh", "bash", "console")
NEEDS_HUB = "fetches weights or data from a hub"
NEEDS_SERVER = "needs a server that is not there"
TRAINS_LONG = "trains a whole denoiser; `tests/pipelines/jobs` runs it on a tiny one"
RUNS_ON = "a server, which runs until it is stopped; tests of its own start it"

ONLY_PARSED = {
    "clinic app": RUNS_ON,
    "clinic gradio": RUNS_ON,
    "clinic push --project hands --hooks http://clinic.example:7860": NEEDS_SERVER,
    "clinic pull --project hands": NEEDS_SERVER,
    "clinic categorize --model http://127.0.0.1:8000/v1#MODEL": NEEDS_SERVER,
    "clinic import synthscars --format synthscars": NEEDS_HUB,
    "clinic retrain --start imagenet --recipe photo --name first": NEEDS_HUB,
    "clinic evidence --generator black-forest-labs/FLUX.1-schnell --photos photos --prompts prompts.txt "
    "--out evidence": NEEDS_HUB,
    "clinic retrain --start ID --recipe photo --name second": NEEDS_HUB,
    "clinic refine --set refining.steps=2000": TRAINS_LONG,
    "clinic refine --generator 4f1c… --set refining.reverse=0.05 --worker": TRAINS_LONG,
}
"""Commands that cannot run here, and why."""

COARSE = "--set repair.draws=1 --set repair.repeats=1 --set sampling.steps=2"
SMALLER = {
    "clinic evidence --generator sd15/ --photos photos --estimate": (
        "clinic evidence --generator clinic-flux --photos photos --estimate --recipe cpu-smoke"
    ),
    "clinic evidence --generator clinic-flux --photos photos --out rehearsal --recipe cpu-smoke": (
        "clinic evidence --generator clinic-flux --photos photos --out rehearsal --recipe cpu-smoke "
        "--budget 4 --set under.conditions.axes=[] --set draw.prompts_per_category=1"
    ),
    "clinic repair pictures --generator ID --out mended": (
        f"clinic repair pictures --generator tiny-flux --out mended {COARSE}"
    ),
    "clinic train pictures --masks masks --out my-detector": (
        "clinic train pictures --masks masks --out my-detector --start clinic "
        "--set training.steps=1 --set training.batch=2"
    ),
    "clinic treat clinic-flux --detector clinic --prompts prompts.txt --out treated": (
        "clinic treat clinic-flux --detector clinic --prompts prompts.txt --out treated "
        "--set tuning.updates=1 --set tuning.batch=2 --set tuning.sampling.steps=2 --set tuning.guard.every=1"
    ),
    "clinic round --recipe demo": "clinic round --recipe cpu-smoke --detach",
    "clinic erase --person NAME --trial": "clinic erase --person ada --trial",
    "clinic erase --person NAME": "clinic erase --person ada",
    "clinic erase IMAGE IMAGE": "clinic erase {images}",
    "clinic inject --images source=real --source redraw --generator ID --detach": (
        "clinic inject --images source=real --source redraw --generator tiny-flux --detach"
    ),
    "clinic pseudo-label --detector ID": "clinic pseudo-label --detector first-doctor",
    "clinic detectors --promote ID": "clinic detectors --promote first-doctor",
    "clinic repair holiday/ cat.png --detector 9a2e… --generator 4f1c… --out repaired": (
        "clinic repair holiday/ cat.png --detector first-doctor --generator tiny-flux --out repaired "
        + COARSE
    ),
    "clinic inpaint broken mended --generator 4f1c… --steps 30": (
        "clinic inpaint broken mended --generator tiny-flux --steps 2"
    ),
    # Without --images it is a stage of the newest round, which these readers do not have.
    "clinic diagnose": "clinic diagnose --images",
    **{
        line: f"{line} --new --recipe cpu-smoke --set generate.prompts_per_category=1 "
        "--set generate.sampling.steps=6"
        for line in (
            "clinic generate --set 'generate.correction="
            '{"gamma": 0, "cover": 1, "dynamics": {"space": "pixel"}}\'',
            'clinic generate --set \'generate.correction={"regions": "detector", "repeated": true}\'',
            'clinic generate --set \'generate.guidance={"kind": "reward", "region": {}, "scale": 2}\'',
        )
    },
}
"""Commands whose names or sizes stand for the reader's own, and what runs instead."""
