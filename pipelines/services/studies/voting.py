"""Votes of raters: their studies and pairs, and their blind answers as votes."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from dataengine.errors import Conflict, InputRefused, NotFound
from dataengine.quality.study import careless_raters
from dataengine.records import AuditEvent, Image, Study, Vote
from pipelines.services.studies.plans import Showing, design_of, plan_of
from storage.catalog import Catalog
from storage.queries.studies import StudyProgress, pairs_answered, study_progress
from storage.workspace import Workspace

Side = Literal["left", "right", "tie"]


class VoteBody(BaseModel):
    """One pair's answers, by question."""

    model_config = ConfigDict(extra="forbid")
    task: str = Field(max_length=64)
    answers: dict[str, Side] = Field(max_length=8)
    seconds: float = Field(default=0.0, ge=0, le=86_400)
    corrects: bool = False
    """Whether these answers replace the rater's earlier ones on this pair."""


def cast_votes(workspace: Workspace, study_id: str, sent: VoteBody, rater: str) -> int:
    """Store a pair's answers; returns how many were new or corrected: the same pair sent again changes
    nothing, unless it corrects. The audit trail keeps what a correction replaced, and when that was said.

    Raises `NotFound` for a study or pair that is not this rater's, `Conflict` for a closed study,
    `InputRefused` unless every question is answered, and no other.
    """
    with workspace.catalog() as catalog:
        study = study_for(catalog, study_id, rater)
        showing = plan_of(study, rater).by_task.get(sent.task)
        if showing is None:
            raise NotFound("this pair is not part of your plan; reload the page")
        new = store_votes(catalog, study, unblinded(study, showing, sent, rater), sent.corrects)
        catalog.commit()
    return new


def store_votes(catalog: Catalog, study: Study, votes: list[Vote], corrects: bool) -> int:
    """Store one rater's votes on one pair; returns how many were new or, if they correct, changed. The audit
    trail keeps what a correction replaced, and when that was said."""
    new = catalog.votes.add(*votes)
    if new or not corrects:
        return new
    rater, pair = votes[0].rater, votes[0].pair
    earlier = {one.question: one for one in catalog.votes.of_study(study.id, rater) if one.pair == pair}
    changed = [vote for vote in votes if earlier[vote.question].choice != vote.choice]
    if changed:
        catalog.votes.correct(*changed)
        said = {vote.question: earlier[vote.question] for vote in changed}
        details = {
            "pair": pair,
            "replaced": {question: vote.choice for question, vote in said.items()},
            "said_at": max(vote.created for vote in said.values()),
        }
        catalog.audit.add(AuditEvent(actor=rater, action="study.correct", subject=study.id, details=details))
    return len(changed)


def judged_tasks(catalog: Catalog, study: Study, rater: str) -> list[str]:
    """The names of the pairs that this rater has judged, in the order of the answers."""
    tasks = {one.pair: one.task for one in plan_of(study, rater).showings}
    votes = sorted(catalog.votes.of_study(study.id, rater), key=lambda vote: (vote.created, vote.pair))
    return list(dict.fromkeys(tasks[vote.pair] for vote in votes if vote.pair in tasks))


def judged_pair(catalog: Catalog, study: Study, rater: str, task: str) -> tuple[Showing, dict[str, Side]]:
    """A pair that this rater has judged, and the answers as the rater gave them. Raises `NotFound`."""
    showing = plan_of(study, rater).by_task.get(task)
    votes = catalog.votes.of_study(study.id, rater) if showing is not None else []
    sides: dict[str, Side] = {"tie": "tie"}
    if showing is not None:
        sides |= {showing.left: "left", showing.right: "right"}
        votes = [vote for vote in votes if vote.pair == showing.pair]
    if showing is None or not votes:
        raise NotFound("you have not judged this pair; reload the page")
    return showing, {vote.question: sides[vote.choice] for vote in votes}


def is_for(catalog: Catalog, study: Study, rater: str) -> bool:
    """Whether this person may judge the study; invited guests may judge only theirs."""
    guest = catalog.guests.find(rater)
    return guest is None or guest.study_id == study.id


def study_for(catalog: Catalog, study_id: str, rater: str) -> Study:
    """A study that this person may judge. Raises `NotFound`, or `Conflict` once it is closed."""
    study = catalog.studies.get(study_id)
    if not is_for(catalog, study, rater):
        raise NotFound(f"there is no study {study_id!r}; list them to see the ids in use")
    if study.state != "open":
        raise Conflict("this study is closed; thank you for judging")
    return study


def left_out(catalog: Catalog, study: Study) -> list[str]:
    """The raters whose votes do not count, because they failed too many of the attention checks so far."""
    pairs = len(study.pairs)
    checks = catalog.votes.of_study(study.id, from_pair=pairs)
    return careless_raters(checks, pairs, design_of(study).keep_from)


def progress_of(catalog: Catalog, study: Study) -> StudyProgress:
    """The progress of a study, in which only raters who count so far hold a place."""
    return study_progress(catalog, study, left_out(catalog, study))


def left_for(
    catalog: Catalog, study: Study, rater: str, progress: StudyProgress | None = None
) -> list[Showing]:
    """Pairs that this rater has not answered and that still need raters, in the rater's order. Attention
    checks come with pairs: whoever found none left is not asked for checks alone."""
    mine = pairs_answered(catalog, study.id, rater)
    raters, enough = (progress or progress_of(catalog, study)).by_pair, design_of(study).raters_a_pair
    waiting = [
        one
        for one in plan_of(study, rater).showings
        if one.pair not in mine and raters.get(one.pair, 0) < enough
    ]
    pairs = len(study.pairs)
    works = any(pair < pairs for pair in mine) or any(one.pair < pairs for one in waiting)
    return waiting if works else []


def is_finished(catalog: Catalog, study: Study, rater: str, progress: StudyProgress | None = None) -> bool:
    """Whether this rater has judged something and nothing more waits; pairs with an erased image do not."""
    if not pairs_answered(catalog, study.id, rater):
        return False
    waiting = left_for(catalog, study, rater, progress)
    return not any(images_of_pair(catalog, study, showing.pair) for showing in waiting)


def images_of_pair(catalog: Catalog, study: Study, pair: int) -> tuple[Image, Image] | None:
    """Before and after; an attention check shows one image, shuffled and intact. None if one was erased."""
    check = pair - len(study.pairs)
    before, after = study.pairs[check % len(study.pairs) if check >= 0 else pair]
    found = {image.id: image for image in catalog.images.get_many([before, after])}
    if check >= 0:
        return (found[before], found[before]) if before in found else None
    return (found[before], found[after]) if before in found and after in found else None


def unblinded(study: Study, showing: Showing, sent: VoteBody, rater: str) -> list[Vote]:
    """The answers as votes. Raises `InputRefused` unless every question is answered, and no other."""
    questions = design_of(study).questions
    if set(sent.answers) != set(questions):
        raise InputRefused(f"got answers to {sorted(sent.answers)}, expected {sorted(questions)}")
    meant = {"left": showing.left, "right": showing.right, "tie": "tie"}
    return [
        Vote(
            study_id=study.id,
            pair=showing.pair,
            rater=rater,
            question=question,
            choice=meant[side],  # type: ignore[arg-type]
            seconds=sent.seconds,
        )
        for question, side in sent.answers.items()
    ]
