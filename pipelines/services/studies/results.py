"""Results of a blind study: figures for its makers, and every vote as a table."""

from collections import defaultdict
from dataclasses import asdict
from datetime import UTC, datetime
from statistics import median
from typing import Any

from dataengine.csv_files import as_csv
from dataengine.quality.config import StudyDesign
from dataengine.quality.study import SCORES, checks_of, filter_votes, judge_question, minimum_over_aspects
from dataengine.records import Image, Study, Vote
from pipelines.services.studies.plans import design_of
from pipelines.services.studies.voting import is_finished, progress_of
from storage.catalog import Catalog
from storage.queries.studies import prompt_categories

COLUMNS = (
    "pair",
    "check",
    "prompt",
    "category",
    "seed",
    "rater",
    "question",
    "choice",
    "score",
    "seconds",
    "at",
    "counted",
)


def results_of(catalog: Catalog, study: Study) -> dict[str, Any]:
    """All figures of a study."""
    design, votes = design_of(study), catalog.votes.of_study(study.id)
    images = images_of(catalog, study)
    kept, careless = filter_votes(votes, len(study.pairs), design.keep_from)
    prompts = prompts_of(images)
    finished = finished_raters(catalog, study, votes) if design.code else set()
    categories: dict[str, set[int]] = defaultdict(set)
    for pair, category in categories_of(catalog, images).items():
        categories[category or "none"].add(pair)

    def verdicts(of: list[Vote]) -> list[dict[str, Any]]:
        return verdicts_on(of, design, prompts)

    return {
        "questions": verdicts(kept),
        "minimum": minimum_over_aspects(kept, design.questions, prompts),
        "categories": [
            {"category": name, "questions": verdicts([vote for vote in kept if vote.pair in pairs])}
            for name, pairs in sorted(categories.items())
        ],
        "raters": [
            each | {"code": design.code if each["rater"] in finished else ""}
            for each in raters_of(votes, len(study.pairs), careless)
        ],
        "left_out": careless,
        "left_out_text": left_out_text(votes, len(study.pairs), careless),
        "margin": design.margin,
    }


def finished_raters(catalog: Catalog, study: Study, votes: list[Vote]) -> set[str]:
    """The raters to whom the completion code is shown."""
    progress = progress_of(catalog, study)
    raters = {vote.rater for vote in votes}
    return {rater for rater in raters if is_finished(catalog, study, rater, progress)}


def left_out_text(votes: list[Vote], pairs: int, careless: list[str]) -> str:
    """What the figures leave out, in words; "" if they count every rater."""
    if not careless:
        return ""
    raters = {vote.rater for vote in votes}
    answers = sum(vote.pair < pairs and vote.rater in careless for vote in votes)
    who = "All" if len(careless) == len(raters) else f"{len(careless)} of"
    return (
        f"{who} {len(raters)} rater{'s' * (len(raters) > 1)} failed too many attention checks: "
        f"{answers} answer{'s' * (answers != 1)} are stored and not counted, and "
        f"{'their places are' if len(careless) > 1 else 'the place is'} free again."
    )


def verdicts_of(catalog: Catalog, study: Study) -> dict[str, dict[str, Any]]:
    """The verdict on each question, over all pairs and the raters who passed their attention checks."""
    design = design_of(study)
    kept, _ = filter_votes(catalog.votes.of_study(study.id), len(study.pairs), design.keep_from)
    found = verdicts_on(kept, design, prompts_of(images_of(catalog, study)))
    return {row["question"]: row for row in found}


def verdicts_on(votes: list[Vote], design: StudyDesign, prompts: dict[int, str]) -> list[dict[str, Any]]:
    """The verdict on each question of the design from these votes."""
    return [asdict(judge_question(votes, question, design.margin, prompts)) for question in design.questions]


def prompts_of(images: dict[int, Image]) -> dict[int, str]:
    """Each pair's prompt."""
    return {pair: image.prompt for pair, image in images.items()}


def images_of(catalog: Catalog, study: Study) -> dict[int, Image]:
    """The untreated image of each pair that still exists; for prompt, seed and category."""
    found = {image.id: image for image in catalog.images.get_many([before for before, _ in study.pairs])}
    return {pair: found[before] for pair, (before, _) in enumerate(study.pairs) if before in found}


def categories_of(catalog: Catalog, images: dict[int, Image]) -> dict[int, str]:
    """Each pair's category: the image's, or else its prompt's, or else nothing."""
    meant = prompt_categories(catalog)
    return {pair: image.category or meant.get(image.prompt, "") for pair, image in images.items()}


def raters_of(votes: list[Vote], pairs: int, careless: list[str]) -> list[dict[str, Any]]:
    """Each rater's pairs, pace and attention checks."""
    checks = checks_of(votes, pairs)
    seconds: dict[str, dict[int, float]] = defaultdict(dict)
    for vote in votes:
        if vote.pair < pairs:
            seconds[vote.rater][vote.pair] = vote.seconds
    return [
        {
            "rater": rater,
            "pairs": len(seconds[rater]),
            "median_seconds": median(seconds[rater].values()) if seconds[rater] else None,
            "checks": list(checks.get(rater, (0, 0))),
            "counted": rater not in careless,
        }
        for rater in sorted({vote.rater for vote in votes})
    ]


def votes_csv(catalog: Catalog, study: Study) -> str:
    """Every vote as a line, attention checks and left-out raters marked."""
    votes, images = catalog.votes.of_study(study.id), images_of(catalog, study)
    pairs, categories = len(study.pairs), categories_of(catalog, images)
    careless = filter_votes(votes, pairs, design_of(study).keep_from)[1]
    return as_csv(
        COLUMNS,
        (
            (
                vote.pair,
                int(vote.pair >= pairs),
                image.prompt if (image := images.get(vote.pair)) else "",
                categories.get(vote.pair, ""),
                image.seed if image else "",
                vote.rater,
                vote.question,
                vote.choice,
                SCORES[vote.choice],
                round(vote.seconds, 2),
                datetime.fromtimestamp(vote.created, UTC).isoformat(timespec="seconds"),
                int(vote.pair < pairs and vote.rater not in careless),
            )
            for vote in votes
        ),
    )


def results_csv(catalog: Catalog, study: Study) -> str:
    """The figures of every question, over all pairs and by category; each row says what is left out."""
    found = results_of(catalog, study)
    groups = [("all", found["questions"])] + [
        (one["category"], one["questions"]) for one in found["categories"]
    ]
    names = list(found["questions"][0])
    rows = [(group, *(row[name] for name in names)) for group, rows in groups for row in rows]
    flat = [
        tuple("–".join(map(str, cell)) if isinstance(cell, tuple) else cell for cell in row) for row in rows
    ]
    return as_csv(("category", *names, "left_out"), [(*row, found["left_out_text"]) for row in flat])
