"""What "How to add" in docs/architecture.md says, done: in a copy of the tree with one new file and one line
in a table, or in this process.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

from tests.test_architecture import LAYERS, ORDER, ROOT, arrows, upward

COPIED = {".py", ".html", ".toml"}

STAGE = '''
"""Count the survey's prompts."""

from pipelines.runtime.context import Context, Result
from pipelines.runtime.round_data import prompts_of
from pipelines.stages.stage import Stage


def count_prompts(context: Context, round_id: str) -> Result:
    return {"prompts": len(prompts_of(context, round_id, "survey"))}


STAGE = Stage(
    name="count_prompts",
    title="count the prompts",
    part="survey",
    section="generate",
    takes="survey prompts",
    found=lambda result: f"{result['prompts']} prompts counted",
    work=count_prompts,
)
'''

DESK = '''
"""A desk with a page, a style and a route."""

from pathlib import Path

from fastapi import APIRouter

from ui.web.access import CURATORS
from ui.web.desk import Desk

routes = APIRouter()


@routes.get("/api/notes")
def notes() -> list[str]:
    return ["a note"]


DESK = Desk(
    folder=Path(__file__).parent,
    path="/notes",
    title="Notes",
    caption="What was noted.",
    roles=CURATORS,
    api={"/api/notes": CURATORS},
    routers=lambda site: [routes],
)
'''

READER = '''
"""Read a text file with the name of an image in each line."""

from functools import partial

from pipelines.exchange.import_options import ImportOptions
from pipelines.exchange.importer import Reading, Row
from pipelines.exchange.labels import ImportedAnnotation
from pipelines.exchange.safe_files import read_inside


def read_clean_list(options: ImportOptions) -> Reading:
    names = options.path.read_text().split()
    rows = [
        Row(
            name=name,
            load=partial(read_inside, options.path.parent, name),
            answers=lambda height, width: [ImportedAnnotation(author="list", label_map=None)],
        )
        for name in names
    ]
    return Reading(rows=rows, total=len(rows))
'''

FAMILY = '''
"""Stable Diffusion with perturbed-attention guidance."""

from pathlib import Path
from typing import ClassVar, Self

import torch

from dataengine.treatment.families.quantization import Bits
from dataengine.treatment.families.stable_diffusion import StableDiffusionFamily


class PerturbedFamily(StableDiffusionFamily):
    name: ClassVar[str] = "perturbed"

    @classmethod
    def open(cls, folder: Path, dtype: torch.dtype, bits: Bits | None = None) -> Self:
        from diffusers import StableDiffusionPAGPipeline

        pipeline = StableDiffusionPAGPipeline.from_pretrained(
            folder,
            dtype={"vae": torch.float32, "default": dtype},
            use_safetensors=True,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        return cls(pipeline)
'''

FAMILY_LINE = """
    "perturbed": FamilyFacts(
        implementation="perturbed:PerturbedFamily",
        pipelines=("StableDiffusionPAGPipeline",),
        components=STABLE_DIFFUSION,
        takes_lora=True,
        reads_prompts=True,
        refinable=True,
    ),
"""

FAMILY_TEST = '''
"""The contract on the new family."""

import json

import pytest

from dataengine.treatment.config import SamplingConfig
from tests.dataengine.treatment import tiny
from tests.dataengine.treatment.families.family_contract import PipelineContract


class TestPerturbed(PipelineContract):
    settings = SamplingConfig(steps=4, guidance=4.0)

    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory):
        folder = tiny.stable_diffusion(tmp_path_factory.mktemp("perturbed"))
        index = json.loads((folder / "model_index.json").read_text())
        index["_class_name"] = "StableDiffusionPAGPipeline"
        (folder / "model_index.json").write_text(json.dumps(index))
        return folder

    def stock_call(self, pipeline, family, **kwargs):
        return pipeline(guidance_scale=self.settings.guidance, pag_scale=0.0, **kwargs).images
'''


class Copy:
    """A copy of the tree that a test may change. Everything but code and pages is linked."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in (*LAYERS, "tests"):
            shutil.copytree(
                ROOT / name,
                root / name,
                copy_function=_copy,
                ignore=shutil.ignore_patterns("__pycache__", ".*_cache"),
            )
        for name in ("app.py", "pyproject.toml"):
            shutil.copy(ROOT / name, root / name)

    def write(self, path: str, text: str) -> None:
        """A new file; never over one that exists."""
        file = self.root / path
        assert not file.exists(), f"{path} exists already"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.lstrip("\n"))

    def insert(self, path: str, after: str, line: str) -> None:
        """A line behind one that a table has."""
        file = self.root / path
        before, found, behind = file.read_text().partition(after + "\n")
        assert found, f"{path} has no line {after!r}"
        file.write_text(before + found + line.strip("\n") + "\n" + behind)

    def python(self, *arguments: str) -> str:
        """What the interpreter prints with this copy as its source."""
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": str(self.root)},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout


def _copy(source: str, target: str) -> None:
    if Path(source).suffix in COPIED:
        shutil.copy(source, target)
    else:
        Path(target).symlink_to(source)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    return Copy(tmp_path_factory.mktemp("copy"))


def test_a_stage_is_one_file_and_one_line_in_round(copy: Copy, tmp_path: Path) -> None:
    copy.write("pipelines/stages/count_prompts.py", STAGE)
    copy.insert("pipelines/round.py", "    categorize,", "    count_prompts,")
    copy.insert("pipelines/round.py", "    generate.SURVEY_STAGE,", "    count_prompts.STAGE,")
    played = json.loads(copy.python("-c", PLAY, str(tmp_path / "w")))
    assert played["ended"][:2] == ["generate", "count_prompts"]
    assert played["result"] == {"prompts": 12}
    assert played["timeline"] == {
        "title": "count the prompts",
        "takes": "survey prompts",
        "gives": "12 prompts counted",
        "state": "done",
    }


PLAY = """
import json, sys
from pathlib import Path
from dataengine.records import no_report
from pipelines import recipes
from pipelines.round import ROUND
from pipelines.runtime.shards import run_sequentially
from pipelines.services.rounds import start_round
from pipelines.worker.local_runner import LocalRunner
from storage.opening import create_workspace
from tests import fake_workspace, fakes
from ui.rounds.timeline import timeline

workspace = create_workspace(Path(sys.argv[1]))
fake_workspace.prepare(workspace)
row = start_round(workspace, {**recipes.fakes().model_dump(mode="json"), "parts": []})
runner = LocalRunner(
    workspace=workspace,
    models=fakes.fake_models(),
    report=no_report,
    stages=ROUND,
    run_shards=run_sequentially,
)
ended = [step.name for step in runner.run_round(row.id)]
with workspace.catalog(read_only=True) as catalog:
    row = catalog.rounds.get(row.id)
    shown = next(one for one in timeline(catalog, row) if one["name"] == "count_prompts")
shown = {name: shown[name] for name in ("title", "takes", "gives", "state")}
print(json.dumps({"ended": ended, "result": row.results["count_prompts"], "timeline": shown}))
"""


def test_a_desk_is_one_folder_and_one_line_in_desks(copy: Copy, tmp_path: Path) -> None:
    copy.write("ui/notes/__init__.py", '"""Notes."""\n')
    copy.write("ui/notes/desk.py", DESK)
    copy.write("ui/notes/page.html", '{% extends "web/pages/desk.html" %}\n')
    copy.write("ui/notes/static/notes.css", ".note { margin: 0 }\n")
    copy.insert("ui/desks.py", "from ui.label_studio.desk import DESK as LABEL_STUDIO", NOTES_IMPORT)
    copy.insert("ui/desks.py", "    STUDY,", "    NOTES,")
    answers = json.loads(copy.python("-c", VISIT, str(tmp_path / "w")))
    assert answers["strangers"] == {"/notes": 401, "/api/notes": 401}
    assert "<title>Notes · Artifact Clinic</title>" in answers["page"]
    assert "/static/notes/notes.css" in answers["page"] and answers["style"] == ".note { margin: 0 }\n"
    assert answers["notes"] == ["a note"] and answers["cards"] == [["Notes", "What was noted."]]
    assert upward(arrows(copy.root, sorted((copy.root / "ui").rglob("*.py"))), {"ui": ORDER["ui"]}) == [
        "ui: write notes into ORDER",
        "ui: write notes into ORDER",
    ]


NOTES_IMPORT = "from ui.notes.desk import DESK as NOTES"
VISIT = """
import json, sys
from fastapi.testclient import TestClient
from ui.config import ServerConfig
from ui.server import create_app

app = create_app(sys.argv[1], ServerConfig(desks=False, start_token="start"))
client = TestClient(app, base_url="http://127.0.0.1:7860", follow_redirects=False)
strangers = {path: client.get(path).status_code for path in ("/notes", "/api/notes")}
client.get("/login?token=start")
home = client.get("/").text
print(json.dumps({
    "strangers": strangers,
    "page": client.get("/notes").text,
    "style": client.get("/static/notes/notes.css").text,
    "notes": client.get("/api/notes").json(),
    "cards": [["Notes", "What was noted."]] if 'href="/notes"' in home and "What was noted." in home else [],
}))
"""


def test_an_import_format_is_one_reader_and_one_line_in_formats(copy: Copy, tmp_path: Path) -> None:
    copy.write("pipelines/exchange/readers/clean_list.py", READER)
    copy.insert("pipelines/exchange/formats.py", "FORMATS: dict[str, ImportFormat] = {", CLEAN_LIST)
    folder = tmp_path / "data"
    folder.mkdir()
    for seed in range(2):
        pixels = np.random.default_rng(seed).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Picture.fromarray(pixels).save(folder / f"{seed}.png")
    (folder / "names.txt").write_text("0.png 1.png absent.png\n")
    assert "clean-list (names of clean images: a text file)" in " ".join(
        copy.python("-m", "app", "import", "--help").split()
    )
    out = copy.python(
        "-m",
        "app",
        "--workspace",
        str(tmp_path / "w"),
        "--json",
        "import",
        str(folder / "names.txt"),
        "--format",
        "clean-list",
    )
    result = json.loads(out[out.index("{") :])
    assert (result["added"], result["labels"], len(result["refused"])) == (2, 2, 1), result


CLEAN_LIST = """
    "clean-list": ImportFormat(
        reader="clean_list:read_clean_list", what="names of clean images", expects="a text file"
    ),
"""


@pytest.mark.slow
def test_a_generator_family_is_one_module_and_one_entry_in_families(copy: Copy) -> None:
    copy.write("dataengine/treatment/families/perturbed.py", FAMILY)
    copy.insert(
        "dataengine/treatment/families/catalog.py", "FAMILIES: dict[str, FamilyFacts] = {", FAMILY_LINE
    )
    copy.write("tests/dataengine/treatment/families/test_perturbed.py", FAMILY_TEST)
    copy.python(
        "-m", "pytest", "-p", "no:cacheprovider", "tests/dataengine/treatment/families/test_perturbed.py"
    )


def test_an_objective_is_settings_a_function_and_one_line_in_objectives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pydantic import Field

    from dataengine.config import Config
    from dataengine.treatment.config import LoraSettings, SamplingConfig, TreatmentConfig
    from dataengine.treatment.families.loading import load_family
    from dataengine.treatment.objectives.batch import GeneratedBatch
    from dataengine.treatment.objectives.registry import OBJECTIVES
    from dataengine.treatment.tuning.trainer import treat
    from tests.dataengine.treatment import tiny

    class ContrastConfig(Config):
        weight: float = Field(default=1.0, ge=0)

    class WithContrast(TreatmentConfig):
        contrast: ContrastConfig | None = None

    def contrast(settings: ContrastConfig, batch: GeneratedBatch) -> dict[str, Any]:
        return {"contrast": -settings.weight * batch.images.flatten(1).std(1).mean()}

    about: dict[str, Any] = {
        "batch": 2,
        "grad_steps": 1,
        "offline": None,
        "sampling": SamplingConfig(steps=2),
        "lora": LoraSettings(rank=2),
    }
    folder = tiny.flux(tmp_path / "flux")

    def run(config: TreatmentConfig, work: str) -> list[dict[str, Any]]:
        family = load_family(folder)
        return treat(
            config, family, tiny.ToyDetector(), tiny.PROMPTS, None, [], None, tmp_path / work
        ).history

    plain = run(TreatmentConfig(**about, updates=1), "plain")
    assert set(plain[0]) == {"update", "loss", "pixel", "grad_norm"}
    monkeypatch.setitem(OBJECTIVES, "contrast", contrast)
    both = run(WithContrast(**about, updates=1, contrast=ContrastConfig()), "both")
    assert both[0]["pixel"] == plain[0]["pixel"] and both[0]["contrast"] < 0
    assert both[0]["loss"] == pytest.approx(both[0]["pixel"] + both[0]["contrast"])
    off = run(WithContrast(**about, updates=1, contrast=ContrastConfig(weight=0)), "off")
    assert set(off[0]) == {"update", "loss", "pixel", "grad_norm"}
    # A run that began before the objective existed is resumed.
    resumed = run(WithContrast(**about, updates=2), "plain")
    assert resumed[0] == plain[0] and len(resumed) == 2
