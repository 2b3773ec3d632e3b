"""Makes what the tests of compatibility hold today's code to, by the code of an older commit:

    git worktree add /tmp/old 8f1fbce
    python tests/compat/make_workspaces.py /tmp/old

`workspaces.tar.xz` holds two workspaces of one `clinic demo --recipe cpu-smoke`, begun with few images:
"stopped" as it lay when the demo was killed while the teacher trained, "finished" after the same demo was
started again, with an account, an open study, and a queued job of each kind that needs no other server. Left
out are the models (`workspaces.restore` makes them from the shipped weights) and the weights of trained
detectors (it takes the first detector's).
The folder's own path in the catalog is written as `{workspace}`. The JSON files beside it hold the older
commit's commands, settings, recipes, routes, job kinds, and the keys of what its routes answer.
"""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import surface
from surface import KEEPER, ORIGIN, PASSWORD, PLACEHOLDER

HERE = Path(__file__).parent
LARGEST_BLOB = 300_000
"""Bytes; what is larger are weights of detectors."""
STOP_AT = "train_teacher"

SMALL_DEMO = """
import sys, app
from pipelines import demo_data, recipes
from pipelines.commands.front import with_settings
from pipelines.config import DemoDataConfig, RoundRecipe
demo_data.SIZES["cpu-smoke"] = DemoDataConfig(clean=24, previous=12, benchmark=8, benchmark_clean=6)
smoke = recipes.cpu_smoke
recipes.RECIPES["cpu-smoke"] = lambda seed: RoundRecipe.model_validate(
    with_settings(smoke(seed).model_dump(mode="json"), ["treat.tuning.lora.rank=1"]))
sys.exit(app.main(sys.argv[1:]))
"""
"""`clinic` with less to begin with: the archive has a place in the repository."""


def main() -> None:
    old = Path(sys.argv[1]).resolve()
    sys.path.insert(0, str(old))
    os.chdir(old)
    os.environ |= {"PYTHONPATH": str(old), "HF_HUB_OFFLINE": "1"}
    write_surface()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "workspace"
        run_demo(path, until=STOP_AT)
        shutil.copytree(path, Path(scratch) / "stopped")
        run_demo(path)
        furnish(path)
        write("answers.json", answers(path))
        shutil.copytree(path, Path(scratch) / "finished")
        pack(Path(scratch), [Path(scratch) / name for name in ("finished", "stopped")], str(path))


def run_demo(path: Path, until: str = "") -> None:
    """Run the demo to its end, or kill it once a worker has begun the stage `until`."""
    command = [sys.executable, "-c", SMALL_DEMO, "--workspace", str(path), "demo", "--recipe", "cpu-smoke"]
    process = subprocess.Popen(command)
    while until and running_stage(path) != until:
        assert process.poll() is None, f"the demo ended before {until}"
        time.sleep(0.02)
    if until:
        process.send_signal(signal.SIGKILL)
        time.sleep(5)  # its worker ends by itself
        assert running_stage(path) == until, "the stage was over before the kill"
    assert process.wait() == (-signal.SIGKILL if until else 0)


def running_stage(path: Path) -> str:
    """The stage that a worker has begun, empty while there is none."""
    if not (path / "catalog.sqlite").is_file():
        return ""
    with closing(sqlite3.connect(path / "catalog.sqlite", timeout=30)) as catalog:
        try:
            row = catalog.execute("SELECT args FROM jobs WHERE state = 'running'").fetchone()
        except sqlite3.OperationalError:  # no tables yet
            return ""
    return json.loads(row[0])["stage"] if row else ""


def furnish(path: Path) -> None:
    """An account with every role, a study of the round's pairs, and queued jobs."""
    from dataengine.records import ROLES
    from pipelines import requests
    from storage.accounts import create_user
    from storage.workspace import Workspace

    command = [sys.executable, "-m", "app", "--workspace", str(path), "study", "open", "--seed", "0"]
    subprocess.run(command, check=True)
    workspace = Workspace.open(path)
    with workspace.catalog() as catalog:
        create_user(catalog, KEEPER, PASSWORD, ROLES, "compat")
        catalog.commit()
    for kind, args in job_args(workspace).items():
        requests.request_job(workspace, kind, args, KEEPER)
    workspace.close()


def job_args(workspace: Any) -> dict[str, dict[str, Any]]:
    """Arguments as the desks and commands wrote them, for work of seconds."""
    from dataengine.diagnosis.config import HighlighterConfig
    from dataengine.treatment.config import UNetConfig
    from dataengine.treatment.refining.config import RefiningConfig
    from pipelines import runs
    from pipelines.config import RefiningRun

    with workspace.catalog(read_only=True) as catalog:
        treatment = catalog.treatments.list()[0]
    texts = ["a drawn hand", "a drawn mug", "a drawn house"]
    treating = runs.treatment_presets(treatment.generator_id)["recipe cpu-smoke"]
    treating["prompts"] |= {"source": "given", "texts": texts[:1]}
    treating["judge"] |= {"source": "given", "texts": texts[1:2]}
    refining = RefiningConfig(
        steps=2, cycle=1, batch=2, sample_steps=2, highlighted=12, highlighter=HighlighterConfig(epochs=1)
    )
    refined = RefiningRun(network=UNetConfig(channels=(8, 16)), refining=refining, limit=12)
    training = runs.training_presets(workspace)["recipe cpu-smoke"]
    return {
        "backup": {},
        "features": {},
        "compare": {"treatment": treatment.id, "prompts": texts[2:], "seeds": 1},
        runs.TRAINING: {"run": "training-old", "settings": training},
        runs.TREATMENT: {"run": "treatment-old", "settings": treating},
        "refine": {"run": "refine-old", "settings": refined.model_dump(mode="json")},
    }


def write_surface() -> None:
    """Commands, settings, recipes, routes and job kinds."""
    from pipelines.commands.front import parser
    from pipelines.requests import APPLICATION, JOB_QUEUE, JOB_WORKFLOW, STAGE_JOB, TASK_QUEUE

    import app
    from dataengine.curation.config import QuestionConfig
    from dataengine.diagnosis.config import DynamicsConfig
    from dataengine.records import image_id, prompt_group, split_of
    from dataengine.treatment.config import WeightsConfig
    from pipelines import dynamics, generator_files, questioning, recipes
    from pipelines.jobs import JOBS
    from pipelines.round import ROUND
    from ui.server import create_app

    write("commands.json", surface.commands_of(parser(app.COMMANDS)))
    configured = {command.name: command.settings() for command in app.COMMANDS if command.settings}
    write("settings.json", {name: surface.settings_of(each) for name, each in configured.items()})
    for name in recipes.RECIPES:
        write(f"recipes/{name}.json", recipes.named(name).model_dump(mode="json"))
    with tempfile.TemporaryDirectory() as scratch:
        write("routes.json", surface.routes_of(create_app(scratch)))
    work = {
        "kinds": [STAGE_JOB, *JOBS],
        "stages": [stage.name for stage in ROUND],
        "queues": [JOB_QUEUE, TASK_QUEUE],
        "workflow": JOB_WORKFLOW,
        "application": APPLICATION,
        "ids": {
            "image": image_id("a" * 64, "generator", "a hand", 7),
            "group": prompt_group("a hand", 7),
            "split": split_of("group", 0.2),
            "dynamics": dynamics.identity(DynamicsConfig()),
            "question": questioning.identity(QuestionConfig(model="folder")),
        },
        "generator_settings": {
            generator_files.FILES: "checkpoint",
            generator_files.WEIGHTS: WeightsConfig().model_dump(mode="json"),
            generator_files.PIPELINE: "DDPMPipeline",
        },
    }
    write("work.json", work)


def answers(path: Path) -> dict[str, list[str]]:
    """Every GET of the finished workspace that answers 200, with the keys of its JSON."""
    from fastapi.testclient import TestClient

    from ui.server import create_app

    app = create_app(path)
    client = TestClient(app, base_url=ORIGIN)
    assert client.post("/api/login", json={"name": KEEPER, "password": PASSWORD}).status_code == 200
    found = {}
    for url in urls(app, path):
        answer = client.get(url)
        print(answer.status_code, url)
        if answer.status_code == 200:
            is_json = answer.headers["content-type"].startswith("application/json")
            found[url] = sorted(surface.keys_of(answer.json())) if is_json else []
    return found


def urls(app: Any, path: Path) -> list[str]:
    """The GET routes with ids of the workspace put in; those that need an id of which there is none left
    out."""
    with closing(sqlite3.connect(path / "catalog.sqlite")) as catalog:

        def one(query: str) -> str:
            return str(catalog.execute(query).fetchone()[0])

        ids = {
            "image_id": one("SELECT image_id FROM labels ORDER BY image_id"),
            "image": one("SELECT image_id FROM labels ORDER BY image_id"),
            "author": one("SELECT author FROM labels ORDER BY image_id"),
            "revision": one("SELECT revision FROM labels ORDER BY image_id"),
            "round_id": one("SELECT id FROM rounds"),
            "job_id": one("SELECT id FROM jobs ORDER BY created"),
            "generator_id": one("SELECT id FROM generators WHERE parent IS NOT NULL"),
            "detector_id": one("SELECT id FROM detectors ORDER BY created DESC"),
            "treatment_id": one("SELECT id FROM treatments"),
            "benchmark_id": one("SELECT id FROM benchmarks"),
            "study_id": one("SELECT id FROM studies"),
            "table": "votes",
            "before": one("SELECT id FROM generators WHERE parent IS NULL"),
            "after": one("SELECT id FROM generators WHERE parent IS NOT NULL"),
        }
    made = []
    for route, operations in app.openapi()["paths"].items():
        if "get" not in operations:
            continue
        ids["run_id"] = "training-old" if route.startswith("/api/train") else "treatment-old"
        needed = [each for each in operations["get"].get("parameters", ()) if each.get("required")]
        if all(each["name"] in ids for each in needed):
            query = [f"{each['name']}={ids[each['name']]}" for each in needed if each["in"] == "query"]
            made.append(route.format_map(ids) + ("?" + "&".join(query) if query else ""))
    return made


def pack(scratch: Path, workspaces: list[Path], own_path: str) -> None:
    """Write the archive: databases and job files of each workspace, and the blobs that they share."""
    with tarfile.open(HERE / "workspaces.tar.xz", "w:xz", preset=9) as archive:
        for workspace in workspaces:
            for name in ("catalog.sqlite", "jobs.sqlite"):
                archive.add(tidied(workspace / name, own_path), f"{workspace.name}/{name}")
            for file in sorted((workspace / "jobs").rglob("*.*")):
                archive.add(file, f"{workspace.name}/{file.relative_to(workspace)}")
        for blob in sorted((workspaces[0] / "blobs").rglob("*")):
            if blob.is_file() and blob.stat().st_size <= LARGEST_BLOB:
                archive.add(blob, str(blob.relative_to(workspaces[0])))
    print(f"workspaces.tar.xz: {(HERE / 'workspaces.tar.xz').stat().st_size:,} bytes")


def tidied(database: Path, own_path: str) -> Path:
    """The database in one file, without the folder's own path."""
    target = database.with_name(f"tidied-{database.name}")
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        if database.name == "catalog.sqlite":
            connection.execute(
                "UPDATE generators SET location = replace(location, ?, ?)", (own_path, PLACEHOLDER)
            )
            connection.execute("DELETE FROM sessions")
        connection.execute("VACUUM INTO ?", (str(target),))
    assert own_path.encode() not in target.read_bytes(), f"{database} names {own_path} elsewhere too"
    return target


def write(name: str, value: Any) -> None:
    target = HERE / name
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
