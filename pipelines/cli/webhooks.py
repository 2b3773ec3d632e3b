"""The command that administers webhooks."""

import argparse
from typing import Any

from dataengine.records import EVENTS
from pipelines.cli.command import Call, Command, shared
from pipelines.cli.maintenance import current_user

ACTIONS = {
    "log": "show the newest messages to an address",
    "test": "send a signed test message now",
    "secret": "print the secret with which the receiver checks signatures",
    "remove": "remove an address and its log",
}


def webhooks_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "List or change the addresses that are told of events. Messages are signed by the scheme of Standard "
        f"Webhooks. Events: {', '.join(EVENTS)}."
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    actions.add_parser("list", help="list the addresses (the default)", parents=[shared()])
    add = actions.add_parser("add", help="register an address", parents=[shared()])
    add.add_argument("name", help="what lists call it, since the address may hold a secret")
    add.add_argument("url", help="https, or http on this machine")
    add.add_argument(
        "--allow-network",
        action="append",
        default=[],
        metavar="NETWORK",
        help="private network that the address may be in, such as 127.0.0.0/8; may be repeated",
    )
    for name, summary in ACTIONS.items():
        actions.add_parser(name, help=summary, parents=[shared()]).add_argument("name", help="name or id")
    events = actions.add_parser("events", help="choose what an address is told of", parents=[shared()])
    events.add_argument("name", help="name or id")
    events.add_argument(
        "--event", action="append", choices=tuple(EVENTS), required=True, help="may be repeated"
    )
    rotate = actions.add_parser("rotate", help="give an address a new secret", parents=[shared()])
    rotate.add_argument("name", help="name or id")
    rotate.add_argument(
        "--hours",
        type=float,
        default=24.0,
        help="how long both secrets sign, 0: not at all (default: 24)",
    )


def webhooks(call: Call) -> Any:
    from pipelines.services.endpoints import add_endpoint, remove_endpoint
    from pipelines.services.operation import webhooks as hooks

    given, workspace, actor = call.options, call.workspace, current_user()
    action = given.action or "list"
    if action == "list":
        return {"webhooks": say_webhooks(call)}
    if action == "add":
        added = add_endpoint(workspace, "webhook", given.name, given.url, actor, given.allow_network)
        return say_secret(call, added.id, hooks.reveal_secret(workspace, added.id, actor))
    id = hooks.webhook_named(workspace, given.name)
    if action == "secret":
        return say_secret(call, id, hooks.reveal_secret(workspace, id, actor))
    if action == "rotate":
        return say_secret(call, id, hooks.rotate_secret(workspace, id, actor, given.hours))
    if action == "test":
        sent = hooks.send_test(workspace, id)
        call.say(f"the test message was taken, status {sent.status}")
        return {"webhook": id, "status": sent.status}
    if action == "log":
        found = hooks.list_deliveries(workspace, id)
        for one in found:
            how = one.error or f"status {one.status}" if one.attempts else "not sent yet"
            call.say(f"{one.event:18} {one.subject:30} {one.state:10} {one.attempts} attempts, {how}")
        return {"webhook": id, "deliveries": found}
    if action == "events":
        hooks.set_events(workspace, id, given.event, actor)
    else:
        remove_endpoint(workspace, id, actor)
    return {"webhooks": say_webhooks(call)}


def say_webhooks(call: Call) -> Any:
    from pipelines.services.operation.webhooks import list_webhooks

    found = list_webhooks(call.workspace)
    for one in found:
        call.say(f"{one.name:20} {one.server}  {one.pending} to be sent, {one.failed} failed  {one.id}")
        call.say(f"  {', '.join(one.events) or 'no events'}")
    if not found:
        call.say("no webhooks; `clinic webhooks add NAME URL` registers one")
    return found


def say_secret(call: Call, id: str, secret: str) -> Any:
    call.say(secret)
    return {"webhook": id, "secret": secret}


COMMANDS = (
    Command(
        name="webhooks",
        summary="tell other services of events, by signed messages",
        run=webhooks,
        arguments=webhooks_arguments,
        examples=(
            "clinic webhooks add chat https://hooks.example.org/clinic",
            "clinic webhooks events chat --event 'job failed' --event 'backup failed'",
            "clinic webhooks test chat",
        ),
    ),
)
