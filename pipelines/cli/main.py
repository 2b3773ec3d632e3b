"""Parse the command line and run one command: one clear line on an error, JSON for machines."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dataengine.errors import ClinicError
from pipelines.cli.command import DEFAULT_WORKSPACE, STOPPED, Call, Command, Parser, plain, shared


def parser(commands: Sequence[Command]) -> Parser:
    """The whole command line."""
    common = shared()
    front = Parser(
        prog="clinic",
        parents=[common],
        description="Finds where generated images are broken, and trains the model that drew them to stop.",
        epilog="New here? `clinic demo` runs one whole round on small models of its own. "
        "`clinic COMMAND --help` shows a command's options with examples.",
    )
    choices = front.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    for command in commands:
        each = choices.add_parser(
            command.name, parents=[common], help=command.summary, description=command.summary
        )
        each.command = command
        command.arguments(each)
        each.set_defaults(run=command.run)
    return front


def main(commands: Sequence[Command], argv: Sequence[str] | None = None) -> int:
    """Run one command; the process's exit status. Errors of ours are one line on standard error."""
    options = parser(commands).parse_args(argv)
    options.workspace = Path(getattr(options, "workspace", DEFAULT_WORKSPACE))
    options.json = getattr(options, "json", False)
    call = Call(options)
    try:
        result = options.run(call)
    except KeyboardInterrupt:
        return complain(options, "stopped; the same command goes on where it was", STOPPED)
    except ClinicError as error:
        return complain(options, str(error))
    except ValueError as error:
        if type(error).__name__ != "ValidationError":
            raise
        return complain(options, one_line(error))
    finally:
        call.report.close()
    if options.json:
        print(json.dumps(plain(result), indent=1))
    return 0


def complain(options: argparse.Namespace, message: str, status: int = 1) -> int:
    """Say what went wrong, on standard error, and as JSON where that was asked for."""
    line = " ".join(message.split())
    print(f"clinic {options.command}: {line}", file=sys.stderr)
    if options.json:
        print(json.dumps({"error": line}))
    return status


def one_line(error: Any) -> str:
    """A pydantic error as one line naming each field, its value and the rule."""
    return "; ".join(
        f"{'.'.join(map(str, each['loc']))}: {each['msg']} (was {each.get('input')!r})"
        for each in error.errors()[:3]
    )
