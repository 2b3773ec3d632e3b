"""`evidence.html`: the evidence as one page that holds everything itself, for people; light and dark.

Sentences first, then pictures, then every figure with its interval. No name of a person, no path.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dataengine.masks import dequantise
from dataengine.records import count_of
from pipelines.evidence.collect import without_places
from pipelines.evidence.parts import PARTS, Work
from pipelines.evidence.schema import Cell, Change, DetectorFigures, Evidence
from pipelines.reports.comparison import LABELS
from pipelines.reports.gallery import embed, render_page
from pipelines.reports.treatment import flawed_first, worse_first
from pipelines.runtime.images import read_pixels

TEMPLATE = Path(__file__).with_name("evidence.html")
PAIRS, WORSE = 12, 4
SIDE = 420
WIDEST = 1.6
"""Ratio at the right end of the bars; longer intervals are cut there."""
QUESTIONS = {"artifacts": "fewer artifacts", "quality": "better quality", "alignment": "closer to the prompt"}


def render(work: Work, evidence: Evidence) -> str:
    """The page."""
    titles = {name: title for name, title, _ in PARTS}
    return render_page(
        TEMPLATE,
        evidence=evidence,
        sentences=sentences(evidence),
        figures=figure_rows(evidence),
        cells=[] if evidence.under is None else cell_rows(evidence.under.cells),
        questions=question_rows(evidence),
        detectors=detector_rows(evidence),
        parts=[{**part.model_dump(), "title": titles[part.name]} for part in evidence.parts],
        facts=facts(evidence),
        pairs=shown_pairs(work, evidence),
        one=position(1.0),
    )


def sentences(evidence: Evidence) -> list[str]:
    """What came out, in plain sentences, the most independent figure first."""
    said = [_voted(evidence)]
    treated = evidence.treatment
    if treated is not None and treated.kept is None:
        said.append(f"No update was better within the guard's limits ({treated.stopped}).")
    elif treated is not None:
        said.append(_rated(evidence))
        if worse := treated.worse:
            said.append(f"{worse} of {count_of(treated.pairs, 'pair')} got worse by that detector.")
    if evidence.under is not None and evidence.under.cells:
        cells = len(evidence.under.cells)
        said.append(
            f"Under other conditions the gain held in {evidence.under.held} of {count_of(cells, 'cell')} "
            f"(artifact frequency at most {evidence.under.limit:g} of the base's)."
        )
    if evidence.labels is not None and evidence.labels.given:
        who = "simulated annotators" if evidence.labels.by == "simulated" else "people"
        said.append(
            f"{count_of(evidence.labels.given, 'label')} by {who} took {evidence.labels.minutes:g} minutes; "
            f"the machine worked {evidence.hours:.2g} hours."
        )
    elif evidence.labels is not None:
        said.append(f"Nobody marked any image; the machine worked {evidence.hours:.2g} hours.")
    return [one for one in said if one]


def _voted(evidence: Evidence) -> str:
    study = evidence.study
    if study is None:
        return {
            "waiting for labels": "The work waits for people to mark images; nothing is treated yet.",
            "running": "The work is not finished; nothing is treated yet.",
        }.get(evidence.state, "")
    if not study.votes:
        return f"Nobody has compared the {count_of(study.pairs, 'pair')} of the blind study yet."
    verdict = study.questions[0]
    if verdict.win_rate is None or verdict.interval is None:
        return f"{count_of(study.raters, 'rater')} judged blind, and no pair is decided yet."
    low, high = verdict.interval
    return (
        f"Blind, {count_of(study.raters, 'rater')} preferred the treated image in "
        f"{verdict.win_rate:.0%} of {count_of(verdict.after + verdict.before, 'decided pair')} "
        f"(95 % interval {low:.0%} to {high:.0%}; {verdict.question})."
    )


def _rated(evidence: Evidence) -> str:
    assert evidence.treatment is not None
    flagged = evidence.treatment.figures.get("flagged") or Change(before=None, after=None)
    if flagged.ratio is None or flagged.interval is None:
        return "The detector that treated flags none of the base's held-out images, so it shows no change."
    low, high = flagged.interval
    return (
        f"By the detector that treated, flawed images became {flagged.ratio:.2f} times as frequent "
        f"(95 % interval {low:.2f} to {high:.2f}; {count_of(evidence.treatment.pairs, 'held-out pair')})."
    )


def figure_rows(evidence: Evidence) -> list[dict[str, Any]]:
    """The treatment's figures as lines with a bar."""
    if evidence.treatment is None:
        return []
    return [
        {
            "name": LABELS.get(name, name),
            "before": one.before,
            "after": one.after,
            "difference": one.difference,
            **_bar(one.ratio, one.interval),
        }
        for name, one in evidence.treatment.figures.items()
    ]


def cell_rows(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """The cells as lines with a bar, those with the highest ratio first."""
    ordered = sorted(cells, key=lambda cell: -(cell.ratio if cell.ratio is not None else -1))
    return [{**cell.model_dump(), **_bar(cell.ratio, cell.interval)} for cell in ordered]


def _bar(ratio: float | None, interval: tuple[float, float] | None) -> dict[str, Any]:
    """Ratio and interval, and where they lie on a bar, in percent of its width."""
    found: dict[str, Any] = {"ratio": ratio, "interval": interval}
    if ratio is None or interval is None:
        return found
    left, right = position(interval[0]), position(interval[1])
    return found | {"at": position(ratio), "left": left, "width": max(0.6, right - left)}


def position(ratio: float) -> float:
    """Where a ratio lies on a bar from 0 to `WIDEST`, in percent."""
    return round(100 * min(max(ratio, 0.0), WIDEST) / WIDEST, 2)


def question_rows(evidence: Evidence) -> list[dict[str, Any]]:
    """The study's questions as lines."""
    found = evidence.study.questions if evidence.study is not None and evidence.study.votes else ()
    return [{**one.model_dump(), "title": QUESTIONS.get(one.question, one.question)} for one in found]


def detector_rows(evidence: Evidence) -> list[dict[str, Any]]:
    """Both detectors as lines."""
    found = evidence.detectors
    if found is None:
        return []
    both: list[tuple[str, DetectorFigures | None]] = [("first", found.first), ("second", found.second)]
    return [
        {**one.model_dump(), "which": which, "used": which == found.used}
        for which, one in both
        if one is not None
    ]


def facts(evidence: Evidence) -> list[tuple[str, str]]:
    """What it was made with, as lines of a name and a text."""
    model, machine = evidence.model, evidence.machine
    rows = []
    if model is not None:
        where = " at commit " + model.revision if model.revision else ""
        rows += [
            ("generator", f"{model.name}{where}"),
            ("pipeline", f"{model.pipeline}, {model.weights_gb:g} GB of weights, digest {model.digest}"),
            ("licence", model.licence or "not stated"),
        ]
    if evidence.photos is not None:
        shown = evidence.photos
        rows.append(
            (
                "photographs",
                f"{shown.used}, {shown.captioned} with a caption; {shown.injected} with an injected artifact",
            )
        )
    given = f"{evidence.prompts} given, digest {evidence.prompts_digest}" if evidence.prompts else ""
    gpu = f"{machine.gpu}, {machine.gpu_memory_gb:g} GB" if machine.gpu_memory_gb else "no GPU"
    commit = f", commit {evidence.product.commit}" if evidence.product.commit else ""
    return [
        *rows,
        ("prompts", given or "written by the program"),
        ("seed", str(evidence.seed)),
        ("machine", f"{gpu}; {machine.cores} cores of {machine.cpu}, {machine.memory_gb:g} GB"),
        ("system", f"{machine.system}, Python {machine.python}, PyTorch {machine.torch}"),
        ("program", f"Artifact Clinic {evidence.product.version}{commit}"),
        ("made", f"{evidence.created} to {evidence.updated}"),
    ]


def shown_pairs(work: Work, evidence: Evidence) -> list[dict[str, Any]]:
    """Pairs before and after, the most artifacts before first, then those that got worse most, as galleries
    of tiles."""
    from pipelines.jobs.treat_generator import PAIRS as FILE

    found = work.journal.result("treat")
    rows = work.workspace.job_files.get(found["run"], FILE) if found else None
    if not rows:
        return []
    most = "Held-out pairs, the most artifacts before first"
    groups = [
        (most, flawed_first(rows)[:PAIRS]),
        ("Pairs that got worse, the largest rise first", worse_first(rows)[:WORSE]),
    ]
    return [
        {"title": title, "tiles": [_tile(work, row) for row in chosen]} for title, chosen in groups if chosen
    ]


def _tile(work: Work, row: Mapping[str, Any]) -> dict[str, Any]:
    with work.workspace.catalog(read_only=True) as catalog:
        images = {one.id: one for one in catalog.images.get_many([row["before"], row["after"]])}
        maps = {
            one.image_id: one.map_ref
            for one in catalog.predictions.of(work.used.id, list(images))
            if one.map_ref
        }
    sides = {}
    for side in ("before", "after"):
        image = images[row[side]]
        pixels = read_pixels(work.workspace, image)
        sides[side] = embed(pixels, SIDE)
        if image.id in maps:
            sides[f"{side}_map"] = embed(
                _heat(pixels, dequantise(work.workspace.maps.get(maps[image.id]))), SIDE
            )
    return {
        "prompt": without_places(row["prompt"]),
        "max_before": row["max_before"],
        "max_after": row["max_after"],
        **sides,
    }


def _heat(pixels: Any, confidence: Any) -> Any:
    """The image in grey, with the map over it in red: uint8 HWC, float HW in [0, 1]."""
    import numpy as np

    grey = pixels.mean(2, keepdims=True) * 0.6 + 70
    weight = np.clip(confidence, 0, 1)[..., None]
    return np.clip(grey * (1 - weight) + np.array([230, 57, 70]) * weight, 0, 255).astype(np.uint8)
