"""`clinic study`: open, close and report blind studies."""

import argparse
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from dataengine.errors import Conflict
from pipelines.cli.command import ACTOR, Call, newest, shared

if TYPE_CHECKING:
    from dataengine.records import Study
    from storage.catalog import Catalog


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
        help="seed of the sample and of what stands left and right (default: random, and not shown)",
    )
    opened.add_argument("--pairs", type=int, metavar="N", help="a sample of N pairs (default: all of them)")
    actions.add_parser("close", help="take no more votes", parents=[shared()]).add_argument("study")


def study(call: Call) -> Any:
    from pipelines.services.studies.lifecycle import MAX_PAIRS, close_study, open_round_study

    given = call.options
    if given.action == "open":
        pairs = MAX_PAIRS if given.pairs is None else given.pairs
        open_round_study(call.workspace, newest(call).id, ACTOR, given.name, given.seed, pairs)
    if given.action == "close":
        with suppress(Conflict):  # it is closed already, which is what was asked for
            close_study(call.workspace, given.study, ACTOR)
    with call.workspace.catalog(read_only=True) as catalog:
        found = [say_study(call, catalog, each) for each in catalog.studies.list()]
    if not found:
        call.say("no study yet: `clinic study open` makes one of a round that `judge` has ended")
    return {"studies": found}


def say_study(call: Call, catalog: "Catalog", study: "Study") -> dict[str, Any]:
    """One study with its verdicts; raters who failed their attention checks are left out."""
    from pipelines.services.studies.results import verdicts_of

    votes, verdicts = len(catalog.votes.of_study(study.id)), verdicts_of(catalog, study)
    call.say(f"{study.id}  {study.name}: {study.state}, {len(study.pairs)} pairs, {votes} votes")
    for question, found in verdicts.items():
        rate = (
            "undecided"
            if found["win_rate"] is None
            else f"after wins {found['win_rate']:.0%} of decided pairs"
        )
        call.say(f"  {question:10} {rate} ({found['after']} : {found['before']}, {found['ties']} ties)")
    return {"study": study.id, "name": study.name, "state": study.state, "verdicts": verdicts}
