"""The sbatch file and the Kubernetes manifest against their systems' fields and our command line."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from app import COMMANDS
from pipelines.cli.main import build_parser

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "operation"
SBATCH = (FOLDER / "worker.sbatch").read_text()
MANIFEST: dict[str, Any] = yaml.safe_load((FOLDER / "worker.yaml").read_text())

# The options of sbatch's manual that a worker may need, with the form of their values.
SECONDS = r"(\d+-)?(\d+:)?\d+:\d+"
DIRECTIVES = {
    "job-name": r"[\w.-]+",
    "nodes": r"\d+(-\d+)?",
    "ntasks": r"\d+",
    "cpus-per-task": r"\d+",
    "gpus-per-task": r"([\w.-]+:)?\d+",
    "mem": r"\d+[KMGT]?",
    "time": SECONDS,
    "signal": r"([RB]:)?\w+(@\d+)?",
    "requeue": "",
    "output": r"[\w./%-]+",
}


def closed(required: str, **properties: Any) -> dict[str, Any]:
    """An object of the API's schema with these fields and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


TEXT, NUMBER, FLAG = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
NAME = {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"}
LABELS = {"type": "object", "additionalProperties": TEXT}
QUANTITY = {
    "type": "object",
    "additionalProperties": {
        "anyOf": [{"type": "integer"}, {"type": "string", "pattern": r"^\d+(m|[KMGT]i?)?$"}]
    },
}


def many(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of, "minItems": 1}


CONTAINER = closed(
    "name image",
    name=TEXT,
    image=TEXT,
    command=many(TEXT),
    envFrom=many(closed("", secretRef=closed("name", name=TEXT))),
    resources=closed("", requests=QUANTITY, limits=QUANTITY),
    securityContext=closed("", runAsNonRoot=FLAG, runAsUser=NUMBER, allowPrivilegeEscalation=FLAG),
    volumeMounts=many(closed("name mountPath", name=TEXT, mountPath=TEXT)),
)
MEMORY = closed("", medium={"enum": ["", "Memory"]}, sizeLimit=TEXT)
VOLUME = closed("name emptyDir", name=TEXT, emptyDir=MEMORY)
POD = closed(
    "containers", terminationGracePeriodSeconds=NUMBER, containers=many(CONTAINER), volumes=many(VOLUME)
)
DEPLOYMENT = closed(
    "apiVersion kind metadata spec",
    apiVersion={"const": "apps/v1"},
    kind={"const": "Deployment"},
    metadata=closed("name", name=NAME, labels=LABELS),
    spec=closed(
        "selector template",
        replicas=NUMBER,
        selector=closed("matchLabels", matchLabels=LABELS),
        template=closed("metadata spec", metadata=closed("labels", labels=LABELS), spec=POD),
    ),
)


def test_the_manifest_is_a_deployment_whose_pods_are_its_own() -> None:
    jsonschema.validate(MANIFEST, DEPLOYMENT)
    spec = MANIFEST["spec"]
    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
    pod = spec["template"]["spec"]
    mounted = {one["name"] for one in pod["containers"][0]["volumeMounts"]}
    assert mounted == {one["name"] for one in pod["volumes"]}


def test_a_pod_has_longer_than_its_worker() -> None:
    pod = MANIFEST["spec"]["template"]["spec"]
    program, *words = pod["containers"][0]["command"]
    options = build_parser(COMMANDS).parse_args(words)
    assert (program, options.command, options.device) == ("clinic", "worker", "cuda:0")
    assert options.grace < pod["terminationGracePeriodSeconds"]
    assert pod["containers"][0]["image"].startswith("artifact-clinic")
    assert str(options.workspace) in {one["mountPath"] for one in pod["containers"][0]["volumeMounts"]}


def directives() -> dict[str, str]:
    lines = re.findall(r"^#SBATCH --([\w-]+)=?(\S*)$", SBATCH, re.MULTILINE)
    assert len(lines) == SBATCH.count("\n#SBATCH"), "a directive is malformed"
    return dict(lines)


def test_every_directive_of_sbatch_is_one_and_is_told_before_the_worker_is_killed() -> None:
    given = directives()
    for name, value in given.items():
        assert name in DIRECTIVES and re.fullmatch(DIRECTIVES[name], value), f"--{name}={value}"
    before = SBATCH.partition("\n#SBATCH")[0].splitlines()
    assert before[0] == "#!/bin/bash" and all(line.startswith("#") for line in before), (
        "sbatch reads directives before the first command only"
    )
    line = next(line for line in SBATCH.splitlines() if line.startswith("exec clinic"))
    options = build_parser(COMMANDS).parse_args(shlex.split(line)[2:])
    assert options.command == "worker" and options.grace < int(given["signal"].partition("@")[2])


def test_the_script_sets_the_addresses_and_hands_the_signal_on(tmp_path: Path) -> None:
    """It runs with a `clinic` that notes its arguments and environment, and gets SIGTERM like the shell."""
    (tmp_path / "bin").mkdir()
    (tmp_path / ".clinic").write_text("export CLINIC_DATABASE_URL=postgresql://host/clinic\n")
    stub = tmp_path / "bin" / "clinic"
    stub.write_text(
        f"#!{sys.executable}\n"
        "import os, signal, sys, time\n"
        f"note = open({str(tmp_path / 'note')!r}, 'w')\n"
        "def end(*_):\n    print('ended', file=note, flush=True); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "print(os.environ['CLINIC_DATABASE_URL'], *sys.argv[1:], file=note, flush=True)\n"
        "time.sleep(30)\n"
    )
    stub.chmod(0o755)
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "7",
        "SLURM_TMPDIR": str(tmp_path),
    }
    job = subprocess.Popen(["bash", str(FOLDER / "worker.sbatch")], env=environment)
    note = tmp_path / "note"
    deadline = time.monotonic() + 20
    while not (note.exists() and note.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    assert job.wait(20) == 0
    first, last = note.read_text().splitlines()
    assert first.startswith(f"postgresql://host/clinic --workspace {tmp_path}/clinic-7 worker ")
    assert last == "ended"
