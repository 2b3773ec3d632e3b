"""Run, or resume, `clinic evidence`: every part that is not done, then `evidence.json` and its page.

Input: a generator, a folder of photographs, an output folder. Output: `evidence.json` and `evidence.html`
there, beside what the parts wrote; the same call goes on where an earlier one stopped, and brings the votes
that came since. Cost: an afternoon on a GPU, minutes for the embedded clinic's models.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataengine import durable
from dataengine.devices import default_device
from dataengine.errors import ConfigRefused
from dataengine.records import Report, count_of, no_report
from dataengine.records.counts import format_duration
from pipelines.evidence.collect import collect
from pipelines.evidence.journal import Journal
from pipelines.evidence.page import render
from pipelines.evidence.parts import PARTS, QUEUE, Serve, Work, generator, given_prompts
from pipelines.evidence.plan import EvidenceRequest
from pipelines.evidence.schema import Evidence, State
from pipelines.services.standalone.output import begun_output, output_workspace
from storage.workspace import Workspace

JSON, PAGE = "evidence.json", "evidence.html"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a call: the evidence so far, where it lies, and what to do next."""

    evidence: Evidence
    json: Path
    page: Path
    next: tuple[str, ...]


def run_evidence(
    request: EvidenceRequest,
    serve: Serve,
    device: str | None = None,
    report: Report = no_report,
    say: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """Do what is left, until people are needed or all is done; write the evidence either way.

    Raises `InputRefused` for photographs and prompts that cannot be used and an `out` that holds anything
    else, `NotFound` and `ModelRefused` for models, `ConfigRefused` for what does not fit onto the device.
    """
    device = device or default_device()
    first = {name for name, _, _ in PARTS[:2]}
    with begun_output(request.out, "evidence", request.recorded()):
        request.labelled_by  # noqa: B018 (raises before anything is written)
        with output_workspace(request.out) as workspace:
            work = work_of(request, workspace, serve, device)
            given_prompts(work)
            _do(work, report, say, first)
    with output_workspace(request.out) as workspace:
        work = work_of(request, workspace, serve, device)
        state = _do(work, report, say)
        evidence = collect(work, state)
        file, page = request.out / JSON, request.out / PAGE
        durable.write_text(file, json.dumps(evidence.model_dump(mode="json"), indent=1) + "\n")
        durable.write_text(page, render(work, evidence))
        return Outcome(evidence=evidence, json=file, page=page, next=tuple(what_next(work, state)))


def estimate_evidence(request: EvidenceRequest, device: str | None = None, report: Report = no_report) -> str:
    """What training and treatment need, in words; nothing stays. Raises as `run_evidence`."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder, output_workspace(Path(folder)) as workspace:
        work = work_of(request, workspace, _nobody, device or default_device())
        given_prompts(work)
        return str(generator(work, report)["estimate"])


def _nobody(workspace: Workspace) -> Any:
    raise ConfigRefused("an estimate serves nobody")


def work_of(request: EvidenceRequest, workspace: Workspace, serve: Serve, device: str) -> Work:
    """The work so far, in its output folder."""
    return Work(
        request=request,
        workspace=workspace,
        journal=Journal(workspace.path),
        device=device,
        serve=serve,
    )


def _do(work: Work, report: Report, say: Callable[[str], None], only: set[str] | None = None) -> State:
    """Run the parts that are not done, in order; where the work stands then."""
    for name, title, part in PARTS:
        if only is not None and name not in only:
            return "running"
        if work.journal.result(name) is not None:
            continue
        with work.journal.timed(name, work.device, report) as timing:
            result = part(work, timing)
        if result is None:
            return "waiting for labels"
        work.journal.finish(name, result)
        if result:
            say(f"✓ {title} ({format_duration(work.journal.row(name)['seconds'])})")
    if work.done("treat")["treated"] is None:
        return "nothing kept"
    with work.workspace.catalog(read_only=True) as catalog:
        votes = catalog.votes.of_study(work.done("study")["id"])
    return "complete" if votes else "waiting for votes"


def what_next(work: Work, state: State) -> list[str]:
    """What a person does now, line by line."""
    folder = work.workspace.path
    if state == "waiting for labels":
        with work.workspace.catalog(read_only=True) as catalog:
            remaining = catalog.queue.remaining(QUEUE)
        return [
            f"{count_of(remaining, 'image')} to mark: clinic --workspace {folder} app, then open /annotate",
            "run the same command again when they are marked; with --labels none it goes on without more",
        ]
    if state == "nothing kept":
        return [
            "no update was better within the guard's limits, so there is nothing to compare; this is a "
            "result as well: please send in evidence.json"
        ]
    study = work.done("study")["id"]
    asked = "votes came in; more may come" if state == "complete" else "nobody has voted yet"
    return [
        f"{asked}: clinic --workspace {folder} app, then open /study to judge, or to invite raters by a link",
        f"a rater without the server: clinic --workspace {folder} study export {study} --rater NAME --out "
        "sheet.zip",
        "run the same command again to bring the votes into the evidence, then send in evidence.json and "
        "evidence.html",
    ]
