"""Commands about what is kept: backup, restore, gc, users."""

import argparse
import getpass
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dataengine.errors import InputRefused
from dataengine.records import ROLES
from pipelines.cli.command import Call, Command, shared


def backup_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, nargs="?", help="where to (default: backups/ in the workspace)")
    parser.add_argument("--without-blobs", action="store_true", help="the catalog alone")


def backup(call: Call) -> Any:
    from storage.maintenance.backup import back_up

    name = f"backup-{time.strftime('%Y%m%d-%H%M%S')}.tar"
    target = call.options.file or call.workspace.path / "backups" / name
    made = back_up(call.workspace, target, blobs=not call.options.without_blobs, report=call.report)
    call.report.close()
    call.say(f"{made.path}: {sum(made.rows.values())} rows, {made.blobs} blobs, {made.bytes / 1e6:.1f} MB")
    for damaged in made.damaged:
        call.say(f"  left out, because it no longer matches its hash: {damaged}")
    return asdict(made)


def restore_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="a file that `clinic backup` wrote")


def restore(call: Call) -> Any:
    from storage.maintenance.backup import read_backup
    from storage.maintenance.backup import restore as restore_backup

    about = read_backup(call.options.file)
    workspace = restore_backup(call.options.file, call.options.workspace, report=call.report)
    call.report.close()
    call.say(f"restored {sum(about.rows.values())} rows and {about.blobs} blobs into {workspace.path}")
    return {"workspace": workspace.path, "rows": about.rows, "blobs": about.blobs}


def gc_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trial", action="store_true", help="only say what would be cleared")
    parser.add_argument(
        "--share",
        type=float,
        default=0.25,
        help="refuse to clear more of the blobs (default: 0.25)",
    )
    parser.add_argument("--clear", type=int, metavar="N", help="clear N blobs although that is more")
    parser.add_argument("--days", type=float, default=7.0, help="leave alone what is younger (default: 7)")


def gc(call: Call) -> Any:
    from storage.maintenance.collect_garbage import collect

    given = call.options
    cleared = collect(
        call.workspace,
        given.days * 86400,
        trial=given.trial,
        report=call.report,
        most_share=1.0 if given.trial else given.share,
        expected=given.clear,
    )
    call.report.close()
    verb = "would clear" if given.trial else "cleared"
    call.say(f"{verb} {cleared.maps} maps and {cleared.blobs} blobs, {cleared.bytes / 1e6:.1f} MB")
    if cleared.deleted:
        call.say(f"deleted {cleared.deleted} blobs that had lain in the trash for {given.days:g} days")
    if cleared.missing:
        call.say(f"{cleared.missing} blobs of images and labels are missing; restore them from a backup")
    return asdict(cleared)


def users_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    actions.add_parser("list", help="who has an account (the default)", parents=[shared()])
    for name, what in (("add", "open an account"), ("roles", "change what somebody may do")):
        each = actions.add_parser(name, help=what, parents=[shared()])
        each.add_argument("name")
        each.add_argument("--role", action="append", choices=ROLES, required=True, help="may be repeated")
    for name, what in (
        ("password", "set a new password; ends the person's sessions"),
        ("close", "close an account; ends its sessions"),
        ("open", "open a closed account again"),
        ("remove", "delete an account; labels and votes stay"),
    ):
        actions.add_parser(name, help=what, parents=[shared()]).add_argument("name")


def users(call: Call) -> Any:
    from storage import accounts

    given, actor = call.options, f"{getpass.getuser()} (command line)"
    action = given.action or "list"
    workspace = call.new_workspace if action == "add" else call.workspace
    password = ask_password() if action in ("add", "password") else ""
    with workspace.catalog() as catalog:
        if action == "add":
            accounts.create_user(catalog, given.name, password, given.role, actor)
        elif action == "roles":
            accounts.set_roles(catalog, given.name, given.role, actor)
        elif action == "password":
            accounts.set_password(catalog, given.name, password, actor)
        elif action in ("close", "open"):
            accounts.set_active(catalog, given.name, action == "open", actor)
        elif action == "remove":
            accounts.remove_user(catalog, given.name, actor)
        catalog.commit()
        known = catalog.users.list()
    for user in known:
        call.say(f"{user.name:24} {', '.join(user.roles)}{'' if user.active else '  (closed)'}")
    if not known:
        call.say("no accounts: the web app listens on this machine only and prints a link with its token")
    return {"users": known}


def ask_password() -> str:
    """From the terminal, unseen and twice; from a pipe, its first line."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    first = getpass.getpass("password: ")
    if first != getpass.getpass("once more: "):
        raise InputRefused("the two passwords differ; nothing was changed")
    return first


COMMANDS = (
    Command(
        name="users",
        summary="accounts and roles",
        run=users,
        arguments=users_arguments,
        examples=(
            "clinic users add ada --role admin",
            "clinic users roles ben --role annotator --role rater",
        ),
    ),
    Command(
        name="backup",
        summary="write catalog and blobs to one file",
        run=backup,
        arguments=backup_arguments,
        examples=("clinic backup", "clinic backup /mnt/safe/clinic.tar"),
    ),
    Command(
        name="restore",
        summary="make a workspace from a backup",
        run=restore,
        arguments=restore_arguments,
        examples=("clinic --workspace fresh restore clinic.tar",),
    ),
    Command(
        name="gc",
        summary="clear maps and blobs that nothing needs",
        run=gc,
        arguments=gc_arguments,
        examples=("clinic gc --trial", "clinic gc --days 30"),
    ),
)
