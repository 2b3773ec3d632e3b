"""Commands that import and export data, and exchange it with Label Studio."""

import argparse
import getpass
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from dataengine.errors import InputRefused
from dataengine.records import Source
from pipelines.cli.command import Call, Command

SHOWN = 20
FORMATS_OUT = ("folder", "masks", "coco", "fiftyone", "label-studio", "yolo", "hf", "predictions")


def import_arguments(parser: argparse.ArgumentParser) -> None:
    from pipelines.exchange.formats import BOX_COORDINATES, FORMATS

    formats = ", ".join(f"{name} ({one.what}: {one.expects})" for name, one in FORMATS.items())
    parser.add_argument("path", help="a folder, a file, a .zip, or hf://OWNER/NAME")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="folder",
        help=f"layout of the dataset: {formats}; default: folder",
    )
    parser.add_argument(
        "--source",
        choices=("generated", "real", "imported"),
        help="origin of all images; stored with each (default: as the dataset states, else generated)",
    )
    parser.add_argument("--licence", default="", help="licence of the images; stored with each")
    parser.add_argument(
        "--prompts", type=Path, metavar="CSV", help="CSV table of metadata: file_name, prompt, seed, …"
    )
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="folder of the image files, if not beside the labels"
    )
    parser.add_argument("--author", default="", help="author of labels that name none")
    parser.add_argument(
        "--class",
        action="append",
        default=[],
        metavar="THEIRS=OURS",
        dest="classes",
        help="map a class name of the dataset to a label class; may be repeated",
    )
    parser.add_argument(
        "--one-class", default="", metavar="OURS", help="label class of binary masks, which name none"
    )
    parser.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="OURS=THEIRS",
        help="map a field to a column of an hf dataset; may be repeated",
    )
    parser.add_argument(
        "--config", default="", metavar="NAME", help="configuration of an hf dataset that has several"
    )
    parser.add_argument(
        "--coordinates",
        choices=BOX_COORDINATES,
        default="",
        help="how the numbers of boxes are meant, for format sdg: pixels, shares of the image, or "
        "thousandths of it; -yx is the order top, left, bottom, right",
    )
    parser.add_argument(
        "--clean",
        action="store_true",
        help="import images without an annotation as free of artifacts; never those of which one was refused",
    )
    parser.add_argument(
        "--partial",
        action="store_true",
        help="keep the rest of a label of which a part was refused, as if the rest were fine",
    )
    parser.add_argument(
        "--update",
        action="store_true",
        help="give images that are known already the prompts, seeds, categories and licences of this dataset",
    )
    parser.add_argument("--generator", metavar="ID", help="the registered generator that made the images")
    parser.add_argument(
        "--validation", type=float, default=0.15, help="fraction of images for validation (default: 0.15)"
    )
    parser.add_argument(
        "--benchmark", type=float, default=0.0, help="fraction of images for the benchmark (default: 0)"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="validate and count everything without storing it"
    )


def import_data(call: Call) -> Any:
    from pipelines.services.exchange.datasets import ImportRequest
    from pipelines.services.exchange.datasets import import_data as import_dataset

    given = call.options
    request = ImportRequest(
        path=Path(given.path),
        format=given.format,
        source=given.source,
        licence=given.licence,
        prompts=given.prompts,
        images=given.images,
        author=given.author,
        classes=parse_pairs(given.classes, "--class"),
        one_class=given.one_class,
        columns=parse_pairs(given.column, "--column"),
        config=given.config,
        coordinates=given.coordinates,
        clean=given.clean,
        partial=given.partial,
        update=given.update,
        generator=given.generator,
        validation=given.validation,
        benchmark=given.benchmark,
    )
    summary, problems = import_dataset(call.new_workspace, request, given.dry_run, call.report)
    call.report.close()
    line = f"{summary.added} added, {summary.duplicates} duplicates, {len(summary.refused)} refused"
    line += f", {summary.updated} updated" * bool(summary.updated)
    line += f", {summary.labels} labels" * bool(summary.labels)
    line += f", {len(summary.alike)} near-duplicates" * bool(summary.alike)
    call.say(line + " (dry run: nothing was stored)" * given.dry_run)
    for refusal in summary.refused[:SHOWN]:
        call.say(f"  refused {refusal.name}: {refusal.reason}")
    if len(summary.refused) > SHOWN:
        call.say(f"  … and {len(summary.refused) - SHOWN} more refused")
    for loss in summary.losses:
        call.say(f"  note: {loss}")
    if problems:
        call.say(f"  full list: {problems}")
    return {
        "added": summary.added,
        "duplicates": summary.duplicates,
        "labels": summary.labels,
        "updated": summary.updated,
        "refused": [refusal._asdict() for refusal in summary.refused],
        "alike": [one._asdict() for one in summary.alike],
        "losses": summary.losses,
        "dry_run": given.dry_run,
        "problems": problems,
    }


def datasets(call: Call) -> Any:
    """Print the known public sets of labelled images, and how each comes in."""
    from pipelines.services.exchange.datasets import public_sets

    sets = public_sets()
    for one in sets:
        call.say(f"{one.name}: {one.images} images, licence {one.licence}")
        for line in (one.labels, one.note):
            call.say(f"  {line}")
        call.say(f"  page     {one.page}")
        call.say(f"  get      {one.get}")
        call.say(f"  import   {one.imports}")
    call.say(
        "Licences are those that the publishers state; “unstated” where none was found: ask them before you "
        "publish what was trained on such a set. --licence records one with every imported image."
    )
    return {"datasets": [asdict(one) for one in sets]}


def parse_pairs(given: Sequence[str], option: str) -> dict[str, str]:
    """`A=B` options as a mapping. Raises `InputRefused` for a malformed one."""
    mapping = {}
    for each in given:
        left, equals, right = each.partition("=")
        if not (left and equals and right):
            raise InputRefused(f"{option} {each}: expected two names with = between them")
        mapping[left] = right
    return mapping


def export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="a new or empty folder")
    parser.add_argument("--format", choices=FORMATS_OUT, default="folder", help="layout (default: folder)")
    parser.add_argument(
        "--snapshot", metavar="ID", help="exactly the rows of this snapshot (a published training set)"
    )
    parser.add_argument("--push-to-hub", metavar="OWNER/NAME", help="also upload it (--format hf)")
    parser.add_argument("--without-pictures", action="store_true", help="metadata only, no image files")
    parser.add_argument("--labelled", action="store_true", help="only labelled images")
    parser.add_argument(
        "--split", choices=("train", "validation", "benchmark"), help="only images of this split"
    )
    parser.add_argument(
        "--source",
        choices=get_args(Source),
        help="only images of this origin; injected artifacts are exported only with “injected”",
    )
    parser.add_argument("--category", help="only images of this category")
    parser.add_argument("--round", metavar="ID", help="only images of this round")


def export(call: Call) -> Any:
    from pipelines.services.exchange.datasets import export_data, export_snapshot

    given = call.options
    options = {
        "split": given.split,
        "source": given.source,
        "category": given.category,
        "round_id": given.round,
    }
    filters = {name: value for name, value in options.items() if value is not None}
    if given.snapshot and (filters or given.labelled):
        raise InputRefused("--snapshot already selects the rows; remove the other filters")
    if given.format == "hf" or given.push_to_hub:
        if given.format != "hf" or not given.snapshot:
            raise InputRefused(
                "only snapshots can be exported as hf: give --format hf --snapshot ID (`clinic publish`)"
            )
        pushed = export_snapshot(
            call.workspace, given.snapshot, given.folder, push_to=given.push_to_hub, report=call.report
        )
        call.report.close()
        call.say(f"{pushed.rows} rows in {pushed.folder} {pushed.url}".rstrip())
        return asdict(pushed)
    done = export_data(
        call.workspace,
        given.folder,
        given.format,
        only_labelled=given.labelled,
        snapshot=given.snapshot,
        pictures=not given.without_pictures,
        report=call.report,
        **filters,
    )
    call.report.close()
    call.say(f"{done.images} images and {done.masks} masks in {done.folder}")
    for loss in done.losses:
        call.say(f"  note: {loss}")
    return asdict(done)


def server_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", default="", help="URL of the server (default: $LABEL_STUDIO_URL)")
    parser.add_argument("--project", required=True, help="title or number of the project")
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        help="file with a personal or legacy token, - for standard input (default: $LABEL_STUDIO_API_KEY, "
        "else you are asked for it)",
    )
    parser.add_argument("--token", default="", help=argparse.SUPPRESS)  # deprecated: process lists show it


def token_of(given: argparse.Namespace) -> str:
    """The token from a file, standard input or the terminal; "" leaves it to the environment.

    Raises `InputRefused` for a file that cannot be read or is empty.
    """
    if given.token:
        print(
            "clinic: --token is deprecated, because process lists show it; use --token-file FILE or "
            "$LABEL_STUDIO_API_KEY",
            file=sys.stderr,
        )
        return str(given.token)
    if given.token_file is None:
        asked = sys.stdin.isatty() and not os.environ.get("LABEL_STUDIO_API_KEY")
        return getpass.getpass("Label Studio token: ") if asked else ""
    try:
        text = sys.stdin.readline() if given.token_file == "-" else Path(given.token_file).read_text()
    except (OSError, UnicodeError) as error:
        raise InputRefused(f"the token file {given.token_file} cannot be read: {error}") from None
    if not text.strip():
        raise InputRefused(f"the token file {given.token_file} is empty; write the token into its first line")
    return text.strip().splitlines()[0]


def push_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--to", choices=("label-studio",), default="label-studio", help="target (default: label-studio)"
    )
    server_arguments(parser)
    parser.add_argument("--round", metavar="ID", help="only images that wait in this round")
    parser.add_argument("--limit", type=int, metavar="N", help="only the N most informative ones")
    parser.add_argument(
        "--pixels",
        choices=("upload", "signed", "storage"),
        default="upload",
        help="how Label Studio gets the images: uploaded, by signed URLs of our server, or from a storage "
        "that both can reach (default: upload)",
    )
    parser.add_argument(
        "--prefix", default="", metavar="URL", help="start of the image URLs with --pixels signed|storage"
    )
    parser.add_argument(
        "--hooks",
        default="",
        metavar="URL",
        help="URL of our web server as seen from Label Studio; registers its webhook and ML backend",
    )


def push(call: Call) -> Any:
    from pipelines.services.exchange.label_studio import push_images

    given = call.options
    done = push_images(
        call.workspace,
        given.project,
        given.url,
        token_of(given),
        round_id=given.round,
        limit=given.limit,
        pixels=given.pixels,
        prefix=given.prefix,
        hooks=given.hooks,
        report=call.report,
    )
    call.report.close()
    call.say(
        f"{done.tasks} new tasks, {done.known} already present, {done.predictions} new predictions "
        f"({done.model_version or 'no champion'}): {done.url}"
    )
    return asdict(done)


def pull_arguments(parser: argparse.ArgumentParser) -> None:
    server_arguments(parser)
    parser.add_argument(
        "--partial",
        action="store_true",
        help="keep the rest of an annotation of which a region was refused, as if the rest were fine",
    )


def pull(call: Call) -> Any:
    from pipelines.services.exchange.label_studio import pull_labels

    given = call.options
    done = pull_labels(
        call.workspace,
        given.project,
        given.url,
        token_of(given),
        partial=given.partial,
        report=call.report,
    )
    call.report.close()
    call.say(
        f"{done.annotations} annotations: {done.labels} labels new or changed, {done.withdrawn} withdrawn, "
        f"{len(done.refused)} refused"
    )
    for refusal in done.refused[:SHOWN]:
        call.say(f"  refused {refusal.name}: {refusal.reason}")
    if len(done.refused) > SHOWN:
        call.say(f"  … and {len(done.refused) - SHOWN} more refused")
    for loss in done.losses:
        call.say(f"  note: {loss}")
    if done.tasks_gone:
        call.say(f"  {done.tasks_gone} tasks were deleted in Label Studio; their labels are kept")
    return asdict(done) | {"refused": [refusal._asdict() for refusal in done.refused]}


COMMANDS = (
    Command(
        name="import",
        summary="import images and labels: a folder, COCO, masks, Hugging Face, Label Studio, …",
        run=import_data,
        arguments=import_arguments,
        examples=(
            "clinic import photos --source real --licence CC0",
            "clinic import drawn --prompts drawn/metadata.csv",
            "clinic import coco.zip --format coco --class hand='shape distortion' --dry-run",
            "clinic import RichHF-18K --format richhf --images pick-a-pic",
            "clinic import hf://OWNER/NAME --format hf --column image=photo --column mask=flaws",
            "clinic import SDG-30K --format sdg --coordinates 0-1000-yx --class artifact='shape distortion'",
            "clinic import export.json --format label-studio --images photos",
        ),
    ),
    Command(
        name="datasets",
        summary="list public sets of labelled images: what they hold, their licences, how to import them",
        run=datasets,
        examples=("clinic datasets", "clinic datasets --json"),
    ),
    Command(
        name="export",
        summary="export images, masks and tables to a folder: CSV, COCO, YOLO, FiftyOne, Label Studio, "
        "Hugging Face",
        run=export,
        arguments=export_arguments,
        examples=(
            "clinic export labelled --labelled",
            "clinic export for-yolo --format yolo",
            "clinic export hands --category hand --split train",
            "clinic export set --snapshot ID --format hf --push-to-hub OWNER/NAME",
        ),
    ),
    Command(
        name="push",
        summary="push the images that wait for people, with artifact maps, to a Label Studio project",
        run=push,
        arguments=push_arguments,
        examples=(
            "clinic push --to label-studio --url http://127.0.0.1:8080 --project hands",
            "clinic push --project hands --hooks http://clinic.example:7860",
        ),
    ),
    Command(
        name="pull",
        summary="pull annotations from Label Studio as labels, with their changes and deletions",
        run=pull,
        arguments=pull_arguments,
        examples=("clinic pull --url http://127.0.0.1:8080 --project hands",),
    ),
)
