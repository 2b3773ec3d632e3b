"""Composition root and console script: `clinic COMMAND`. Everything heavy is imported by the command that
needs it.
"""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

LAYERS = ("dataengine", "storage", "pipelines", "ui")
"""Our top-level packages, which lie beside this file."""


def why_unusable() -> str:
    """Why this program cannot run here, in one sentence; "" where it can. Imports nothing of ours."""
    if sys.platform == "win32":
        return "Windows itself is not supported; run it in WSL2, where everything works as on Linux"
    home = Path(__file__).resolve().parent
    for name in LAYERS:
        spec = find_spec(name)
        found = Path(spec.origin).resolve() if spec and spec.origin else None
        if found is None or found.parent.parent != home:
            what = f"the one in {found.parent} is found first" if found else "it is missing"
            return (
                f"the Python package {name!r} beside {home / 'app.py'} is needed, but {what}; install "
                "artifact-clinic into an environment of its own"
            )
    return ""


if _why := why_unusable():
    sys.exit(f"clinic: {_why}")

from pipelines.cli import (  # noqa: E402 (only after the check)
    compare,
    curation,
    dreambooth,
    evidence,
    exchange,
    exports,
    injection,
    maintenance,
    models,
    repair,
    rounds,
    selections,
    stages,
    train,
    training_free,
    webhooks,
)
from pipelines.cli.command import Call, Command  # noqa: E402
from pipelines.cli.main import main as run_command  # noqa: E402

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


def run_evidence(call: Call) -> Any:
    """Treat a model from photographs to a blind study."""

    def serve(workspace: Any) -> Any:
        from ui.config import ServerConfig
        from ui.server import background

        return background(workspace, ServerConfig(port=0, desks=False))

    return evidence.evidence(call, serve)


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


def app(call: Call, page: str = "") -> Any:
    """Run the web server, and one supervised worker unless `--no-worker` is given; `page` is the path of what
    the printed address opens."""
    from dataengine.outgoing import VARIABLE, allowed_in_environment
    from pipelines.cli.command import with_settings
    from pipelines.worker.supervisor import supervised_worker
    from ui.config import ServerConfig
    from ui.server import print_start, serve

    given = call.options
    defaults = ServerConfig(host=given.host, port=given.port).model_dump(mode="json")
    settings = ServerConfig.model_validate(with_settings(defaults, given.set))
    workspace = call.new_workspace
    networks = ",".join((*settings.allowed_networks, *allowed_in_environment()))
    worker = supervised_worker(workspace, environment={VARIABLE: networks})
    with nullcontext() if given.no_worker else worker, suppress(KeyboardInterrupt):
        serve(workspace, settings, lambda where: print_start(where.at(page) if page else where, workspace))
    return {"workspace": workspace.path}


def gradio(call: Call) -> Any:
    """Run what `app` runs, and print the address of its Gradio app."""
    return app(call, "/gradio")


def mcp_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Serve tools with which an assistant curates images and launches trainings on a clinic's server: "
        "over stdio, or with --http on a port of this machine. The token comes from a file or the variable "
        "CLINIC_TOKEN; with --http every caller sends its own."
    )
    parser.add_argument("--url", help="address of the clinic's server (default: the variable CLINIC_URL)")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="file with the token, of mode 600")
    parser.add_argument("--write", action="store_true", help="also offer the tools that change the clinic")
    parser.add_argument(
        "--http", action="store_true", help="serve http://127.0.0.1:PORT/mcp instead of stdio"
    )
    parser.add_argument("--port", type=int, default=7870, help="port with --http (default: 7870)")


def mcp(call: Call) -> Any:
    """Run the MCP server."""
    from dataengine.errors import ConfigRefused
    from pipelines.cli.command import PRINTED

    if find_spec("fastmcp") is None:
        raise ConfigRefused("the MCP server needs FastMCP; run pip install 'artifact-clinic[mcp]'")
    from ui.mcp.server import serve_http, serve_stdio, token_in

    given = call.options
    url = given.url or os.environ.get("CLINIC_URL", "")
    if given.http and given.token_file:
        raise ConfigRefused("with --http every caller sends a token of its own; leave --token-file out")
    with suppress(KeyboardInterrupt):
        if given.http:
            serve_http(url, given.port, given.write)
        else:
            file = given.token_file
            serve_stdio(url, token_in(file) if file else os.environ.get("CLINIC_TOKEN", ""), given.write)
    return PRINTED


def space_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write a folder that is a Hugging Face Space: README with its settings, requirements.txt, and a copy "
        "of this program with the embedded clinic's weights. Push it to a Space, or start it here with "
        "`pip install -r requirements.txt` and `SPACE_ID=local python app.py`."
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="new or empty folder")


def space(call: Call) -> Any:
    """Write the folder of a Space."""
    from pipelines.services.standalone.space import write_space

    folder = write_space(call.options.folder, Path(__file__).resolve().parent)
    call.say(f"{folder} is a Space; its README.md says how to start it and what hardware it takes")
    return {"folder": folder}


def run_space() -> int:
    """What `python app.py` does on a Space: one worker, a first small round, and the Gradio app."""
    from pipelines.demo.data import register_models
    from pipelines.worker.supervisor import supervised_worker
    from storage.opening import create_workspace
    from ui.gradio.space import address, serve_space

    # A Space is stopped by SIGTERM, which would leave the children to themselves.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    workspace = create_workspace(os.environ.get("CLINIC_WORKSPACE", "workspace"))
    register_models(workspace)
    first = [sys.executable, "-m", "pipelines.demo.first_round", str(workspace.path)]
    with supervised_worker(workspace), subprocess.Popen(["nice", "-n", "10", *first]) as preparing:
        try:
            serve_space(workspace, *address())
        finally:
            preparing.terminate()
    return 0


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
        name="evidence",
        summary="treat a model from photographs to a blind study, and write what came of it",
        run=run_evidence,
        arguments=evidence.evidence_arguments,
        examples=evidence.EXAMPLES,
        settings=evidence.evidence_settings,
    ),
    Command(
        name="app",
        summary="serve the web app on this workspace, with one worker",
        run=app,
        arguments=app_arguments,
        examples=("clinic app", "clinic app --port 0 --no-worker"),
        settings=server_config,
    ),
    Command(
        name="gradio",
        summary="serve the web app and open its Gradio page, with one worker",
        run=gradio,
        arguments=app_arguments,
        examples=("clinic gradio", "clinic gradio --port 0"),
        settings=server_config,
    ),
    Command(
        name="mcp",
        summary="serve tools for an assistant (MCP) on a clinic's server",
        run=mcp,
        arguments=mcp_arguments,
        examples=("clinic mcp --url http://127.0.0.1:7860", "clinic mcp --http --write"),
    ),
    Command(
        name="space",
        summary="write a Hugging Face Space that runs the Gradio app",
        run=space,
        arguments=space_arguments,
        examples=("clinic space my-space",),
    ),
    *rounds.COMMANDS,
    *stages.COMMANDS,
    *selections.COMMANDS,
    *curation.COMMANDS,
    *train.COMMANDS,
    *injection.COMMANDS,
    *exchange.COMMANDS,
    *exports.COMMANDS,
    *maintenance.COMMANDS,
    *webhooks.COMMANDS,
    *models.COMMANDS,
    *training_free.COMMANDS,
    *repair.COMMANDS,
    *compare.COMMANDS,
    *dreambooth.COMMANDS,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. Without any, a Space runs its Gradio app."""
    if argv is None and not sys.argv[1:] and os.environ.get("SPACE_ID"):
        return run_space()
    return run_command(COMMANDS, argv)


if __name__ == "__main__":
    sys.exit(main())
