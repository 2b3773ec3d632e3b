"""Composition root and console script: `clinic COMMAND`. Everything heavy is imported by the command that
needs it.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any

from pipelines.cli import (
    exchange,
    exports,
    injection,
    maintenance,
    models,
    repair,
    rounds,
    selections,
    training_free,
)
from pipelines.cli.command import Call, Command
from pipelines.cli.main import main as run_command

if TYPE_CHECKING:
    from pydantic import BaseModel


def demo_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recipe",
        default="demo",
        help="demo (ten minutes) or cpu-smoke (two minutes, models barely improve); default: demo",
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed of the whole run (default: 0)")


def demo(call: Call) -> Any:
    """Run one whole round on the embedded clinic."""
    from pipelines import recipes
    from pipelines.demo.run import demo as run_demo
    from ui.config import ServerConfig
    from ui.server import background

    given = call.options
    result = run_demo(
        given.workspace,
        serve=lambda workspace: background(workspace, ServerConfig(port=0, desks=False)),
        say=call.say,
        recipe=recipes.named(given.recipe, given.seed),
        seed=given.seed,
    )
    return {"round": result.round_id, "folder": result.folder, "report": result.report}


def app_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; any but loopback requires accounts, see `clinic users add` (default: "
        "127.0.0.1)",
    )
    parser.add_argument("--port", type=int, default=7860, help="port; 0 picks a free one (default: 7860)")
    parser.add_argument(
        "--no-worker", action="store_true", help="web server only; jobs stay queued until a worker runs"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change one setting; may be repeated"
    )


def app(call: Call) -> Any:
    """Run the web server, and one supervised worker unless `--no-worker` is given."""
    from pipelines.cli.command import with_settings
    from pipelines.worker.supervisor import supervised_worker
    from ui.config import ServerConfig
    from ui.server import serve

    given = call.options
    defaults = ServerConfig(host=given.host, port=given.port).model_dump(mode="json")
    settings = ServerConfig.model_validate(with_settings(defaults, given.set))
    workspace = call.new_workspace
    with nullcontext() if given.no_worker else supervised_worker(workspace), suppress(KeyboardInterrupt):
        serve(workspace, settings)
    return {"workspace": workspace.path}


def server_config() -> "type[BaseModel]":
    from ui.config import ServerConfig

    return ServerConfig


COMMANDS = (
    Command(
        name="demo",
        summary="run one whole round on the embedded clinic: no GPU, no network, ten minutes",
        run=demo,
        arguments=demo_arguments,
        examples=("clinic demo", "clinic --workspace try demo --recipe cpu-smoke"),
    ),
    Command(
        name="app",
        summary="serve the web app on this workspace, with one worker",
        run=app,
        arguments=app_arguments,
        examples=("clinic app", "clinic app --port 0 --no-worker"),
        settings=server_config,
    ),
    *rounds.COMMANDS,
    *selections.COMMANDS,
    *injection.COMMANDS,
    *exchange.COMMANDS,
    *exports.COMMANDS,
    *maintenance.COMMANDS,
    *models.COMMANDS,
    *training_free.COMMANDS,
    *repair.COMMANDS,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    return run_command(COMMANDS, argv)


if __name__ == "__main__":
    sys.exit(main())
