"""`clinic study`: open, close and report blind studies."""

import argparse
import secrets
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dataengine.errors import ConfigRefused
from pipelines.cli.command import Call, shared

if TYPE_CHECKING:
    from dataengine.records import Study


def study_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    actions.add_parser("list", help="every study and its votes (the default)", parents=[shared()])
    opened = actions.add_parser(
        "open", help="a blind study of a round's treated generator and its base", parents=[shared()]
    )
    opened.add_argument("--round", metavar="ID", help="the judged round (default: the newest one)")
    opened.add_argument("--name", default="", help="what raters see (default: the round's date)")
    opened.add_argument(
        "--seed",
        type=int,
        help="seed of what stands left and right (default: drawn, and told nobody)",
    )
    actions.add_parser("close", help="take no more votes", parents=[shared()]).add_argument("study")


def study(call: Call) -> Any:
    given = call.options
    if given.action == "open":
        open_study(call)
    if given.action == "close":
        with call.workspace.catalog() as catalog:
            catalog.studies.close(given.study)
            catalog.commit()
    with call.workspace.catalog(read_only=True) as catalog:
        found = [say_study(call, each, catalog.votes.of_study(each.id)) for each in catalog.studies.list()]
    if not found:
        call.say("no study yet: `clinic study open` makes one of a round that `judge` has ended")
    return {"studies": found}


def open_study(call: Call) -> None:
    """Write the study row. Raises `ConfigRefused` when the round has no pairs yet."""
    from dataengine.records import Study, digest
    from pipelines.cli.command import newest
    from pipelines.runtime.context import Context
    from pipelines.runtime.models import real_models
    from pipelines.stages.judge import pairs_of

    row = newest(call)
    treated = row.results.get("treat", {})
    pairs = pairs_of(Context(call.workspace, real_models()), row.id) if treated.get("treated") else []
    if not pairs:
        raise ConfigRefused(
            f"{row.id} has no pairs to judge: it has not treated a generator, or not judged it"
        )
    seed = secrets.randbits(62) if call.options.seed is None else call.options.seed
    study = Study(
        id=digest("study", row.id, seed),
        name=call.options.name or f"Before and after, {row.id}",
        before_id=treated["generator"],
        after_id=treated["treated"],
        pairs=tuple((pair.before.id, pair.after.id) for pair in pairs),
        seed=seed,
        round_id=row.id,
        created_by="command line",
    )
    with call.workspace.catalog() as catalog:
        catalog.studies.add(study)
        catalog.commit()


def say_study(call: Call, study: "Study", votes: Any) -> dict[str, Any]:
    """One study with its verdicts; raters who failed their attention checks are left out."""
    from dataengine.quality.config import StudyDesign
    from dataengine.quality.study import counted, verdict

    design = StudyDesign.model_validate(study.design)
    kept, _ = counted(votes, len(study.pairs), design.keep_from)
    verdicts = {each: asdict(verdict(kept, each, design.margin)) for each in design.questions}
    call.say(f"{study.id}  {study.name}: {study.state}, {len(study.pairs)} pairs, {len(votes)} votes")
    for question, found in verdicts.items():
        rate = (
            "undecided"
            if found["win_rate"] is None
            else f"after wins {found['win_rate']:.0%} of decided pairs"
        )
        call.say(f"  {question:10} {rate} ({found['after']} : {found['before']}, {found['ties']} ties)")
    return {"study": study.id, "name": study.name, "state": study.state, "verdicts": verdicts}
