"""`clinic study`: open and close blind studies, and report their results."""

import argparse
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from dataengine.errors import Conflict
from pipelines.cli.command import ACTOR, Call, named_or_newest_round, shared

if TYPE_CHECKING:
    from dataengine.records import Study
    from storage.catalog import Catalog


def study_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    actions.add_parser("list", help="list studies with their votes (the default)", parents=[shared()])
    opened = actions.add_parser(
        "open", help="open a blind study of a round's treated generator and its base", parents=[shared()]
    )
    opened.add_argument(
        "--round", metavar="ID", help="a round whose stage `judge` is done (default: the newest)"
    )
    opened.add_argument("--name", default="", help="name shown to raters (default: the round's date)")
    opened.add_argument(
        "--seed",
        type=int,
        help="seed of the sampled pairs and of their left-right order (default: random, and not shown)",
    )
    opened.add_argument(
        "--repairs",
        action="store_true",
        help="instead of a round, compare accepted repairs (see `clinic repair`) with their originals",
    )
    opened.add_argument("--pairs", type=int, metavar="N", help="sample N pairs (default: all of them)")
    exported = actions.add_parser(
        "export",
        help="write the blind pairs as a spreadsheet with images (.zip), for a rater without the server",
        parents=[shared()],
    )
    exported.add_argument("study")
    exported.add_argument(
        "--rater", required=True, metavar="NAME", help="whose sheet it is; each has another"
    )
    exported.add_argument("--out", required=True, metavar="FILE", help="the .zip file to write")
    imported = actions.add_parser(
        "import", help="store a filled sheet (CSV) as the votes of its rater", parents=[shared()]
    )
    imported.add_argument("study")
    imported.add_argument("file", metavar="FILE", help="the filled sheet.csv")
    imported.add_argument("--rater", required=True, metavar="NAME", help="the name given at the export")
    actions.add_parser("close", help="stop accepting votes", parents=[shared()]).add_argument("study")


def study(call: Call) -> Any:
    from pipelines.services.studies.lifecycle import (
        MAX_PAIRS,
        close_study,
        open_repair_study,
        open_round_study,
    )

    given = call.options
    if given.action == "export":
        return export_sheet(call)
    if given.action == "import":
        return import_sheet(call)
    if given.action == "open":
        pairs = MAX_PAIRS if given.pairs is None else given.pairs
        if given.repairs:
            open_repair_study(call.workspace, ACTOR, given.name, given.seed, pairs)
        else:
            round_id = named_or_newest_round(call).id
            open_round_study(call.workspace, round_id, ACTOR, given.name, given.seed, pairs)
    if given.action == "close":
        with suppress(Conflict):  # already closed: closing is idempotent here
            close_study(call.workspace, given.study, ACTOR)
    with call.workspace.catalog(read_only=True) as catalog:
        studies = [say_study(call, catalog, each) for each in catalog.studies.list()]
    if not studies:
        call.say("no study yet: `clinic study open` creates one from a round whose stage `judge` is done")
    return {"studies": studies}


def export_sheet(call: Call) -> dict[str, Any]:
    """Write one outside rater's sheet."""
    from pipelines.services.studies.sheets import write_sheet_file

    given = call.options
    rows = write_sheet_file(call.workspace, given.study, given.rater, given.out)
    call.say(f"{rows} pairs for {given.rater}: {given.out}")
    return {"study": given.study, "rater": given.rater, "pairs": rows, "file": given.out}


def import_sheet(call: Call) -> dict[str, Any]:
    """Store one outside rater's filled sheet."""
    from pathlib import Path

    from pipelines.services.studies.sheets import read_sheet_file

    given = call.options
    counts = read_sheet_file(call.workspace, given.study, given.rater, Path(given.file), ACTOR)
    call.say("{pairs} pairs answered, {new} answers new or changed, {skipped} rows empty".format(**counts))
    return {"study": given.study, "rater": given.rater, **counts}


def say_study(call: Call, catalog: "Catalog", study: "Study") -> dict[str, Any]:
    """Print one study with its verdicts, excluding raters who failed their attention checks."""
    from pipelines.services.studies.results import verdicts_of

    votes, verdicts = len(catalog.votes.of_study(study.id)), verdicts_of(catalog, study)
    call.say(f"{study.id}  {study.name}: {study.state}, {len(study.pairs)} pairs, {votes} votes")
    for question, verdict in verdicts.items():
        rate = (
            "undecided"
            if verdict["win_rate"] is None
            else f"after wins {verdict['win_rate']:.0%} of decided pairs"
        )
        call.say(f"  {question:10} {rate} ({verdict['after']} : {verdict['before']}, {verdict['ties']} ties)")
    return {"study": study.id, "name": study.name, "state": study.state, "verdicts": verdicts}
