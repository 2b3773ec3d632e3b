"""Parse the command line and run one command. Errors print one line; `--json` prints JSON."""

import argparse
import json
import os
import select
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from dataengine.errors import ClinicError
from pipelines.cli.command import DEFAULT_WORKSPACE, PRINTED, STOPPED, Call, Command, Parser, shared, to_json
from pipelines.cli.completion import PrintCompletion

PIPE_CLOSED = 128 + 13
"""As of a program that SIGPIPE ends."""


def build_parser(commands: Sequence[Command]) -> Parser:
    """The whole command line."""
    common = shared()
    front = Parser(
        prog="clinic",
        parents=[common],
        description="Finds artifacts in generated images, and trains the generator to stop making them.",
        epilog="New here? `clinic demo` runs one whole round on small bundled models. "
        "`clinic COMMAND --help` shows a command's options with examples.",
    )
    front.add_argument("--print-completion", action=PrintCompletion)
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
    """Run one command and return the exit status. `ClinicError` prints as one line on standard error; where
    the reader of a pipe has gone, as in `clinic status | head -1`, it ends quietly."""
    try:
        try:
            return run(commands, argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _is_closed(sys.stdout):
            raise
        # Python flushes again when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED


def _is_closed(stream: TextIO) -> bool:
    """Whether a stream is a pipe that nobody reads any more."""
    watched = select.poll()
    try:
        watched.register(stream.fileno(), 0)
    except OSError:
        return False
    return bool(watched.poll(0))


def run(commands: Sequence[Command], argv: Sequence[str] | None) -> int:
    """Parse the command line, run the command and print its result; returns the exit status."""
    options = build_parser(commands).parse_args(argv)
    options.workspace_given = hasattr(options, "workspace")
    options.workspace = Path(getattr(options, "workspace", DEFAULT_WORKSPACE))
    options.json = getattr(options, "json", False)
    call = Call(options)
    try:
        with private_files():
            result = options.run(call)
    except KeyboardInterrupt:
        return report_error(options, "stopped; run the same command again to resume", STOPPED)
    except ClinicError as error:
        return report_error(options, str(error))
    except ValueError as error:
        if type(error).__name__ != "ValidationError":
            raise
        return report_error(options, format_validation_error(error))
    finally:
        call.report.close()
    if options.json and result is not PRINTED:
        print(json.dumps(to_json(result), indent=1))
    return 0


@contextmanager
def private_files() -> Iterator[None]:
    """Within the block, files and folders that this process and its children create are their owner's alone.

    Around a whole process: the mask holds for all of its threads.
    """
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def report_error(options: argparse.Namespace, message: str, status: int = 1) -> int:
    """Print an error on standard error, and as JSON under `--json`; returns `status`."""
    line = " ".join(message.split())
    print(f"clinic {options.command}: {line}", file=sys.stderr)
    if options.json:
        print(json.dumps({"error": line}))
    return status


def format_validation_error(error: Any) -> str:
    """A pydantic error as one line: each field, the violated rule, and the value."""
    return "; ".join(
        f"{'.'.join(map(str, each['loc']))}: {each['msg']} (was {each.get('input')!r})"
        for each in error.errors()[:3]
    )
