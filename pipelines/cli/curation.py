"""Tag images, send them to annotators, and move them between splits: what the Curate page does to selected
images."""

import argparse
from typing import TYPE_CHECKING, Any

from dataengine.errors import InputRefused
from dataengine.records import count_of
from pipelines.cli.command import ACTOR, Call, Command
from pipelines.cli.selections import images_argument, query_of

if TYPE_CHECKING:
    from pipelines.selections.config import ImageSelection


def _chosen_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="*", metavar="IMAGE", help="ids of images, instead of --images")
    images_argument(parser)


def _chosen(call: Call) -> "ImageSelection":
    """The images that the options name. Raises `InputRefused` for none, which is not the same as all."""
    from pipelines.selections.config import ImageSelection

    given = call.options
    filtered = given.images is not None or given.search is not None
    if bool(given.ids) == filtered:
        raise InputRefused("name images by their ids, or by --images FILTER (without a FILTER: all)")
    return ImageSelection(images=query_of(call)) if filtered else ImageSelection(ids=tuple(given.ids))


def tag_arguments(parser: argparse.ArgumentParser) -> None:
    _chosen_arguments(parser)
    parser.add_argument("--add", nargs="+", default=[], metavar="TAG", help="tags to add")
    parser.add_argument("--remove", nargs="+", default=[], metavar="TAG", help="tags to remove")


def tag(call: Call) -> Any:
    """Add and remove tags of images."""
    from pipelines.services.images.actions import TagChange, tag_images

    given = call.options
    found = tag_images(
        call.workspace, TagChange(chosen=_chosen(call), add=given.add, remove=given.remove), ACTOR
    )
    call.say(f"{count_of(found['images'], 'image')}: {found['added']} tags added, {found['removed']} removed")
    return found


def send_arguments(parser: argparse.ArgumentParser) -> None:
    _chosen_arguments(parser)
    parser.add_argument(
        "--people", nargs="+", default=[], metavar="NAME", help="who may take them (default: all)"
    )
    parser.add_argument("--each", type=int, default=1, metavar="N", help="annotators per image (default: 1)")
    parser.add_argument(
        "--limit", type=int, default=1000, metavar="N", help="at most so many (default: 1000)"
    )


def send(call: Call) -> Any:
    """Queue images for annotators."""
    from pipelines.services.images.actions import SendImages, send_images

    given = call.options
    body = SendImages.model_validate(
        {"chosen": _chosen(call), "opinions": given.each, "people": given.people, "limit": given.limit}
    )
    found = send_images(call.workspace, body, ACTOR)
    call.say(
        f"{count_of(found['sent'], 'image')} sent to annotators; {found['left_out']} left out (labelled, "
        "queued, in a benchmark, or beyond the limit)"
    )
    return found


def split_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Move images to a split, with all images of their groups. Groups with an image of a benchmark or "
        "of a training set stay."
    )
    _chosen_arguments(parser)
    parser.add_argument("--to", required=True, choices=("train", "validation"), help="the split")


def split(call: Call) -> Any:
    """Move images to a split."""
    from pipelines.services.images.actions import SplitChange, split_images

    found = split_images(call.workspace, SplitChange(chosen=_chosen(call), split=call.options.to), ACTOR)
    call.say(f"{count_of(found['moved'], 'image')} moved to {call.options.to}; {found['kept']} stay")
    return found


COMMANDS = (
    Command(
        name="tag",
        summary="tag images, or remove tags",
        run=tag,
        arguments=tag_arguments,
        examples=(
            "clinic tag --images category=hand --search 'glove' --add gloves",
            "clinic tag 3f2c… 9a01… --remove gloves",
        ),
    ),
    Command(
        name="send",
        summary="send images to annotators",
        run=send,
        arguments=send_arguments,
        examples=("clinic send --images tag=gloves --people ada grace --each 2",),
    ),
    Command(
        name="split",
        summary="move images to the training or the validation split",
        run=split,
        arguments=split_arguments,
        examples=("clinic split --images round=ID --to validation",),
    ),
)
