"""Commands that administer a workspace: users, tokens, backup, restore, salvage, gc, erase."""

import argparse
import getpass
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataengine.errors import InputRefused
from dataengine.records import ROLES
from pipelines.cli.command import ACTOR, Call, Command, shared

if TYPE_CHECKING:
    from dataengine.records import ApiToken


def backup_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", type=Path, nargs="?", help="file to write (default: one in backups/ of the workspace)"
    )
    parser.add_argument("--without-blobs", action="store_true", help="back up the catalog only")
    parser.add_argument(
        "--without-models", action="store_true", help="leave out the files of detectors and generators"
    )
    parser.add_argument("--to", metavar="URL", default="", help="also copy it to this folder or fsspec URL")
    parser.add_argument(
        "--keep",
        type=int,
        metavar="N",
        help="keep only the N newest automatic backups, here and there",
    )
    key_argument(parser)


def key_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--key-file",
        type=Path,
        metavar="FILE",
        help="file with the key that signs backups (default: CLINIC_BACKUP_KEY_FILE, or CLINIC_BACKUP_KEY)",
    )


def backup(call: Call) -> Any:
    from pipelines.services.admin.maintenance import back_up, signature_in_words

    given = call.options
    made = back_up(
        call.workspace,
        given.file,
        blobs=not given.without_blobs,
        report=call.report,
        models=not given.without_models,
        key_file=given.key_file,
        to=given.to,
        keep=given.keep,
    )
    call.report.close()
    call.say(f"{made.path}: {sum(made.rows.values())} rows, {made.blobs} blobs, {made.bytes / 1e6:.1f} MB")
    if not made.models:
        call.say("  without the files of detectors and generators: a restored workspace cannot run rounds")
    for damaged in made.damaged:
        call.say(f"  skipped, because it no longer matches its hash: {damaged}")
    for location in made.outside:
        call.say(f"  not included, because it is outside the workspace and its generators: {location}")
    if not made.signed:
        call.say(f"  {signature_in_words(made, checked=False)}")
    return asdict(made)


def restore_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="a file that `clinic backup` wrote")
    parser.add_argument(
        "--check", action="store_true", help="only prove that it can be restored, in a scratch folder"
    )
    key_argument(parser)


def restore(call: Call) -> Any:
    from pipelines.services.admin.maintenance import (
        backup_key,
        check_backup,
        restore_backup,
        signature_in_words,
    )

    given = call.options
    checked = backup_key(given.key_file) is not None
    if given.check:
        sound = check_backup(given.file, call.report, given.key_file)
        call.report.close()
        call.say(
            f"{given.file} is sound: {sum(sound.rows.values())} rows and {sound.blobs} blobs were restored "
            f"and compared; {signature_in_words(sound, checked)}"
        )
        return asdict(sound)
    restored, workspace = restore_backup(given.file, given.workspace, call.report, given.key_file)
    call.report.close()
    call.say(
        f"restored {sum(restored.rows.values())} rows and {restored.blobs} blobs into {workspace.path}; "
        f"{signature_in_words(restored, checked)}"
    )
    if not restored.models:
        call.say("  without the files of detectors and generators, which this backup left out")
    for location in restored.outside:
        call.say(f"  not in the backup: {location}")
    return {"workspace": workspace.path, "rows": restored.rows, "blobs": restored.blobs}


def salvage_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Read what is intact of a damaged SQLite catalog into a new file, check it, and list what was lost. "
        "The damaged file is never changed. Stop the app and its workers first. A backup may hold more."
    )
    parser.add_argument(
        "--replace",
        action="store_true",
        help="use the new file as the catalog; the damaged one is kept as catalog.damaged-DATE.sqlite",
    )


def salvage(call: Call) -> Any:
    from pipelines.services.admin.maintenance import salvage as salvage_catalog

    found = salvage_catalog(call.options.workspace, call.options.replace, call.report)
    call.report.close()
    rows = sum(table.kept for table in found.tables.values())
    call.say(f"{found.path}: {rows} rows in {len(found.tables)} tables, checked")
    for name, table in found.tables.items():
        if table.damaged or table.rejected:
            lost = "an unknown number of rows may be lost" if table.damaged else "it could be read to its end"
            invalid = f", {table.rejected} were no longer valid" if table.rejected else ""
            call.say(f"  {name}: {table.kept} rows kept{invalid}; {lost}")
    if found.nameless:
        call.say(f"  {found.nameless} rows of unknown tables were left out")
    if found.damaged_file is None:
        call.say("the damaged catalog is still in place; to use the new one: clinic salvage --replace")
    else:
        call.say(f"the damaged catalog is kept as {found.damaged_file}")
    return asdict(found)


def gc_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trial", action="store_true", help="dry run: only report what would be moved to the trash"
    )
    parser.add_argument(
        "--share",
        type=float,
        default=0.25,
        help="refuse to clear more than this fraction of all blobs (default: 0.25)",
    )
    parser.add_argument(
        "--clear", type=int, metavar="N", help="clear exactly N blobs, even if more than --share"
    )
    parser.add_argument(
        "--days", type=float, default=7.0, help="keep files younger than this many days (default: 7)"
    )


def gc(call: Call) -> Any:
    from pipelines.services.admin.maintenance import collect_garbage

    given = call.options
    cleared = collect_garbage(
        call.workspace,
        given.days * 86400,
        trial=given.trial,
        report=call.report,
        most_share=given.share,
        expected=given.clear,
    )
    call.report.close()
    verb = "would clear" if given.trial else "cleared"
    call.say(f"{verb} {cleared.maps} maps and {cleared.blobs} blobs, {cleared.bytes / 1e6:.1f} MB")
    if cleared.deleted:
        call.say(f"deleted {cleared.deleted} blobs that had been in the trash for {given.days:g} days")
    if cleared.missing:
        call.say(f"{cleared.missing} blobs of images and labels are missing; restore them from a backup")
    return asdict(cleared)


def erase_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Delete images with their labels, predictions and files, or everything that a person made: account, "
        "labels, reviews, votes. The name goes from texts and logs as well. This cannot be undone, except by "
        "restoring a backup. What keeps something of it is listed with what can be done: backups, training "
        "sets and models that were already made from this data, copies elsewhere. If it was interrupted, run "
        "the same again."
    )
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="ids of images")
    parser.add_argument("--person", metavar="NAME", help="a person instead of images")
    parser.add_argument("--trial", action="store_true", help="dry run: only show what would go")


def erase(call: Call) -> Any:
    from pipelines.services.admin.maintenance import erase_images, erase_person

    given = call.options
    if bool(given.images) == bool(given.person):
        raise InputRefused("name what to erase: ids of images, or --person NAME")
    if given.person:
        erased = erase_person(call.workspace, given.person, current_user(), given.trial)
    else:
        erased = erase_images(call.workspace, given.images, current_user(), given.trial)
    verb = "would erase" if given.trial else "erased"
    call.say(
        f"{verb} {erased.images} images, {erased.labels} labels, {erased.reviews} reviews, {erased.votes} "
        f"votes and {erased.blobs} files"
    )
    if given.trial:
        for place, count in erased.columns.items():
            call.say(f"  {place}: {count} rows or values")
        for name in erased.files:
            call.say(f"  the name in {name}")
        for kind in ("snapshots", "detectors", "treatments", "generators", "benchmarks"):
            if ids := getattr(erased, kind):
                call.say(f"  {kind} already made from this data, and kept: {', '.join(ids)}")
    if erased.remains:
        call.say("what still holds something of it, and what you can do:")
    for one in erased.remains:
        call.say(f"  {one.kind}: {one.name}\n    {one.advice}")
    return asdict(erased)


def current_user() -> str:
    """The user who runs the command, for the audit log."""
    return f"{getpass.getuser()} ({ACTOR})"


FORMER = {"deactivate": "close", "activate": "open"}
"""Earlier names of actions on accounts."""


def users_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    actions.add_parser("list", help="list accounts (the default)", parents=[shared()])
    for name, summary in (("add", "add an account"), ("roles", "replace a user's roles")):
        each = actions.add_parser(name, help=summary, parents=[shared()])
        each.add_argument("name")
        each.add_argument("--role", action="append", choices=ROLES, required=True, help="may be repeated")
    for name, summary in (
        ("password", "set a new password and end the user's sessions"),
        ("deactivate", "deactivate an account and end its sessions"),
        ("activate", "activate a deactivated account"),
        ("remove", "delete an account; its labels and votes are kept"),
    ):
        former = [FORMER[name]] if name in FORMER else []
        actions.add_parser(name, help=summary, parents=[shared()], aliases=former).add_argument("name")
    rename = actions.add_parser("rename", help="rename an account and its work", parents=[shared()])
    rename.add_argument("name")
    rename.add_argument("new_name", metavar="NEW_NAME")


def users(call: Call) -> Any:
    from pipelines.services.admin import users as accounts

    given, actor = call.options, current_user()
    action = given.action or "list"
    workspace = call.new_workspace if action == "add" else call.workspace
    password = ask_password() if action in ("add", "password") else ""
    if action == "add":
        accounts.add_user(workspace, given.name, password, given.role, actor, keep_admin=False)
    elif action == "roles":
        accounts.set_roles(workspace, given.name, given.role, actor, keep_admin=False)
    elif action == "password":
        accounts.set_password(workspace, given.name, password, actor)
    elif action in ("deactivate", "activate", *FORMER.values()):
        active = action in ("activate", FORMER["activate"])
        accounts.set_active(workspace, given.name, active, actor, keep_admin=False)
    elif action == "rename":
        accounts.rename_user(workspace, given.name, given.new_name, actor)
    elif action == "remove":
        accounts.remove_user(workspace, given.name, actor)
    with workspace.catalog(read_only=True) as catalog:
        accounts_now = catalog.users.list()
    for user in accounts_now:
        call.say(f"{user.name:24} {', '.join(user.roles)}{'' if user.active else '  (deactivated)'}")
    if not accounts_now:
        call.say("no accounts: the web app listens on this machine only and prints a link with its token")
    return {"users": accounts_now}


def tokens_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "List, create or revoke the API tokens by which programs sign in: `Authorization: Bearer TOKEN`. A "
        "token acts for its person, with the roles named here or those of them that the person still has. It "
        "is printed once."
    )
    parser.add_argument("--create", metavar="NAME", help="create one, named after its program")
    parser.add_argument("--person", metavar="PERSON", help="whose token; a list shows theirs only")
    parser.add_argument("--roles", nargs="+", choices=ROLES, help="what the new token may do")
    parser.add_argument(
        "--days", type=days_of, metavar="N", help="days until it expires, or `never` (default: 90)"
    )
    parser.add_argument("--revoke", metavar="ID", help="end one at once")


def days_of(text: str) -> Any:
    """The days of `--days`."""
    if text == "never":
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of days nor `never`") from None


def tokens(call: Call) -> Any:
    from pipelines.services.admin import tokens as api_tokens

    given, actor = call.options, current_user()
    if given.create and given.revoke:
        raise InputRefused("create a token or revoke one, not both at once")
    if not given.create and (given.roles or given.days is not None):
        raise InputRefused("--roles and --days belong to a new token; name it with --create NAME")
    if given.create:
        if not (given.person and given.roles):
            raise InputRefused("a new token needs --person PERSON and --roles ROLE …")
        days = api_tokens.DEFAULT_DAYS if given.days is None else given.days
        text, token = api_tokens.create_token(
            call.workspace, given.person, given.create, given.roles, days, actor
        )
        call.say(text)
        call.say(f"  {token_line(token)}\n  It is not shown again.")
        return {"token": text, **public_fields(token)}
    if given.revoke:
        api_tokens.revoke_token(call.workspace, given.revoke, actor, given.person)
    found = api_tokens.list_tokens(call.workspace, given.person)
    for token in found:
        call.say(token_line(token))
    if not found:
        call.say("no API tokens; `clinic tokens --create NAME --person PERSON --roles ROLE` makes one")
    return {"tokens": [public_fields(token) for token in found]}


def token_line(token: "ApiToken") -> str:
    """A token in one line, without what is secret."""
    from pipelines.services.admin.tokens import day_of, ended

    until = ended(token) or ("never expires" if token.expires is None else f"until {day_of(token.expires)}")
    used = "never used" if token.used is None else f"last used {day_of(token.used)}"
    return f"{token.id}  {token.user:16} {token.name:24} {', '.join(token.roles)}  ({until}; {used})"


def public_fields(token: "ApiToken") -> dict[str, Any]:
    """A token's record without its hash."""
    return {name: value for name, value in asdict(token).items() if name != "token_hash"}


def classes_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "List or change what people mark on images. Label maps hold a class by its number, so renaming or "
        "recolouring one also applies to earlier labels; a retired class is no longer offered."
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    actions.add_parser("list", help="list the classes (the default)", parents=[shared()])
    add = actions.add_parser("add", help="append a class", parents=[shared()])
    add.add_argument("name")
    add.add_argument("--color", default="", help="such as #d55e00 (default: the palette's)")
    change = actions.add_parser("change", help="rename, recolour, move or retire one", parents=[shared()])
    change.add_argument("value", type=int, help="its number in label maps")
    change.add_argument("--name", help="new name")
    change.add_argument("--color", help="new colour, such as #d55e00; '' for the palette's")
    change.add_argument("--place", type=int, help="new place in lists, from 1")
    change.add_argument(
        "--retired", action=argparse.BooleanOptionalAction, help="stop offering it, or offer it again"
    )


def classes(call: Call) -> Any:
    from dataclasses import replace

    from pipelines.services.admin import classes as label_classes

    given, workspace = call.options, call.workspace
    if given.action == "add":
        label_classes.add_class(workspace, given.name, given.color, current_user())
    elif given.action == "change":
        seen = label_classes.find_class(workspace, given.value)
        wanted = {name: getattr(given, name) for name in ("name", "color", "place", "retired")}
        changed = replace(seen, **{name: value for name, value in wanted.items() if value is not None})
        label_classes.change_class(workspace, seen, changed, current_user())
    found = label_classes.list_classes(workspace)
    for one in found:
        retired = "  (retired)" if one.retired else ""
        call.say(f"{one.value:3} {label_classes.color_of(one)} {one.name}{retired}")
    return {"classes": found}


def ask_password() -> str:
    """Prompt for a password twice without echo; when standard input is a pipe, read its first line."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    first = getpass.getpass("password: ")
    if first != getpass.getpass("repeat password: "):
        raise InputRefused("the two passwords differ; nothing was changed")
    return first


COMMANDS = (
    Command(
        name="users",
        summary="manage accounts and their roles",
        run=users,
        arguments=users_arguments,
        examples=(
            "clinic users add ada --role admin",
            "clinic users roles ben --role annotator --role rater",
        ),
    ),
    Command(
        name="tokens",
        summary="manage the API tokens of programs",
        run=tokens,
        arguments=tokens_arguments,
        examples=(
            "clinic tokens",
            "clinic tokens --create nightly --person ada --roles curator --days 30",
            "clinic tokens --revoke 3f2c19aa",
        ),
    ),
    Command(
        name="classes",
        summary="manage the label classes",
        run=classes,
        arguments=classes_arguments,
        examples=("clinic classes", "clinic classes add 'extra limb' --color '#0072b2'"),
    ),
    Command(
        name="backup",
        summary="back up catalog and blobs to one file",
        run=backup,
        arguments=backup_arguments,
        examples=(
            "clinic backup",
            "clinic backup /mnt/safe/clinic.tar",
            "clinic backup --to s3://safe/clinic --keep 7",
        ),
    ),
    Command(
        name="restore",
        summary="create a workspace from a backup",
        run=restore,
        arguments=restore_arguments,
        examples=("clinic --workspace fresh restore clinic.tar", "clinic restore --check clinic.tar"),
    ),
    Command(
        name="salvage",
        summary="save what can be read of a damaged catalog",
        run=salvage,
        arguments=salvage_arguments,
        examples=("clinic salvage", "clinic salvage --replace"),
    ),
    Command(
        name="gc",
        summary="garbage collection: remove maps and blobs that nothing references",
        run=gc,
        arguments=gc_arguments,
        examples=("clinic gc --trial", "clinic gc --days 30"),
    ),
    Command(
        name="erase",
        summary="delete images, or everything a person made, and list what was derived from them",
        run=erase,
        arguments=erase_arguments,
        examples=("clinic erase 3f2c…", "clinic erase --person ada --trial"),
    ),
)
