"""Shared by all commands: their declaration, one call of them, progress bar, settings and help."""

import argparse
import json
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataengine.errors import ConfigRefused, NotFound

if TYPE_CHECKING:
    from pydantic import BaseModel

    from dataengine.records import GeneratorVersion, Round
    from storage.workspace import Workspace


STOPPED = 130
ACTOR = "command line"
"""Who did it, in audit events and rows."""
DEFAULT_WORKSPACE = "workspace"
PRINTED = object()
"""Returned by a command that has printed its JSON itself, line by line."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command: its name, its arguments, and the function that runs it."""

    name: str
    summary: str
    run: "Callable[[Call], Any]"
    """Runs the command; returns the value that `--json` prints."""
    arguments: Callable[[argparse.ArgumentParser], object] = lambda parser: None
    examples: Sequence[str] = ()
    settings: "Callable[[], type[BaseModel]] | None" = None
    """The configuration whose fields `--set` accepts; their docstrings appear in `--help`."""


@dataclass(frozen=True, kw_only=True)
class OutsideRounds:
    """What the command of a round's stage does besides, outside rounds."""

    what: str
    """Continues "stage of a round, or …"."""
    arguments: Callable[[argparse.ArgumentParser], object]
    is_asked: "Callable[[Call], bool]"
    """Whether the options ask for it; raises `ConfigRefused` for options that do not go together."""
    run: "Callable[[Call], Any]"
    examples: Sequence[str] = ()
    settings: "Callable[[], type[BaseModel]] | None" = None
    """As in `Command`."""


class Call:
    """One run of a command: its options, its workspace, and its output."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options

    @property
    def named_workspace(self) -> Path | None:
        """What `--workspace` says, for commands that need none; None where it was not given."""
        return self.options.workspace if self.options.workspace_given else None

    @cached_property
    def workspace(self) -> "Workspace":
        """The existing workspace that `--workspace` names."""
        from storage.opening import open_workspace

        return open_workspace(self.options.workspace)

    @cached_property
    def new_workspace(self) -> "Workspace":
        """The workspace that `--workspace` names, created if there is none."""
        from storage.opening import create_workspace

        return create_workspace(self.options.workspace)

    def say(self, *words: object) -> None:
        """Print a line for people; prints nothing under `--json`."""
        if not self.options.json:
            print(*words, flush=True)

    def say_refused(self, named: Sequence[str], count: int) -> None:
        """Name what was refused, each on one line, of `count` in all."""
        for line in named:
            self.say(f"  refused: {' '.join(line.split())}")
        if count > len(named):
            self.say(f"  … and {count - len(named)} more")

    @cached_property
    def report(self) -> Any:
        """A `Report` that draws a bar on a terminal, and that `tracked` replaces."""
        return Progress(shown=sys.stderr.isatty() and not self.options.json)


TRACKERS = ("trackio", "wandb", "mlflow", "tensorboard")


def tracking_argument(parser: argparse.ArgumentParser) -> None:
    """The option of commands whose figures a tracker may log."""
    parser.add_argument(
        "--track",
        choices=TRACKERS,
        help="also log the figures to this experiment tracker, which must be installed; TensorBoard writes "
        "into tracking/ of the output folder or workspace",
    )


@contextmanager
def tracked(call: Call, run: str, settings: dict[str, Any], folder: Path) -> Iterator[None]:
    """Log what the command reports under the name `run` while the block runs, if `--track` says so.

    Raises `ConfigRefused` for a tracker that is not installed.
    """
    if not call.options.track:
        yield
        return
    from pipelines.services.training.tracking import tracked_report

    plain = call.report
    with tracked_report(plain, call.options.track, run, settings, folder / "tracking") as report:
        call.report = report
        try:
            yield
        finally:
            call.report = plain


@dataclass
class Progress:
    """A `Report` that shows one progress bar on the terminal."""

    shown: bool
    _bar: Any = None

    def __call__(self, done: float, total: int, message: str = "", **figures: float) -> None:
        if not self.shown:
            return
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=total, leave=False, file=sys.stderr, dynamic_ncols=True)
        self._bar.total = total
        self._bar.n = round(done, 2)
        self._bar.set_description_str(message, refresh=False)
        self._bar.set_postfix({name: f"{value:.4g}" for name, value in figures.items()}, refresh=False)
        self._bar.refresh()

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class Parser(argparse.ArgumentParser):
    """A parser whose help ends with examples and with the settings of its configuration, imported only
    then."""

    command: Command | None = None

    def format_help(self) -> str:
        """argparse's help, then examples, then settings."""
        text = super().format_help()
        if self.command and self.command.examples:
            text += "\nexamples:\n" + "".join(f"  {line}\n" for line in self.command.examples)
        if self.command and self.command.settings:
            text += "\nsettings (--set NAME=VALUE):\n" + describe_settings(self.command.settings())
        return text


def shared() -> Parser:
    """The options that every command and action accepts, before or after its name."""
    options = Parser(add_help=False)
    options.add_argument(
        "--workspace",
        metavar="DIR",
        default=argparse.SUPPRESS,
        help=f"folder of the workspace: catalog, images, checkpoints (default: ./{DEFAULT_WORKSPACE})",
    )
    options.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS, help="print the result as one JSON object"
    )
    return options


def to_json(value: Any) -> Any:
    """Convert records, paths and tuples to JSON types."""
    if is_dataclass(value) and not isinstance(value, type):
        return to_json(asdict(value))
    if isinstance(value, dict):
        return {str(key): to_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set):
        return [to_json(each) for each in value]
    return str(value) if isinstance(value, Path) else value


FORMER_NAMES = {"second_detector": "rival"}
"""Settings that are stored under a former name."""


def with_settings(settings: dict[str, Any], changes: Sequence[str], option: str = "--set") -> dict[str, Any]:
    """Nested settings with "a.b=value" changes applied. Raises `ConfigRefused` for an unknown name."""
    changed: dict[str, Any] = json.loads(json.dumps(settings))
    for change in changes:
        name, equals, value = change.partition("=")
        *path, last = (FORMER_NAMES.get(part, part) for part in name.split("."))
        section: Any = changed
        for part in path:
            section = section.get(part) if isinstance(section, dict) else None
        if not equals or not isinstance(section, dict) or last not in section:
            raise ConfigRefused(
                f"{option} {change}: expected NAME=VALUE, where NAME is a setting listed by `--help`, such "
                f"as {first_name(settings)}"
            )
        try:
            section[last] = json.loads(value)
        except json.JSONDecodeError:
            section[last] = value
    return changed


def first_name(settings: dict[str, Any]) -> str:
    """The dotted name of the first setting that holds a plain value."""
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            return f"{name}.{first_name(value)}"
    return next(iter(settings), "name")


def describe_settings(config: "type[BaseModel]", prefix: str = "") -> str:
    """One entry for each field, nested ones by their dotted name: the docstring and the default."""
    text = ""
    for name, field in config.model_fields.items():
        if field.is_required():
            continue
        default = field.get_default(call_default_factory=True)
        inner = type(default) if hasattr(type(default), "model_fields") else None
        if inner is not None:
            text += describe_settings(inner, f"{prefix}{name}.")
            continue
        what = " ".join((field.description or "").split())
        shown = json.dumps(default) if isinstance(default, str | int | float | bool | None) else default
        line = f"{what} (default: {shown})"
        text += f"  {prefix}{name}\n" + textwrap.fill(
            line, 100, initial_indent=" " * 6, subsequent_indent=" " * 6
        )
        text += "\n"
    return text


def describe_use(call: Call, version: "GeneratorVersion") -> str:
    """Which rounds will use a generator, as a line for people."""
    from pipelines.services.generators import drawn_unasked, reads_prompts

    if drawn_unasked(call.workspace, version):
        return "new rounds generate with it"
    if reads_prompts(call.workspace, version):
        return "it is treated, so rounds use it only where --generator names it"
    return "it reads no prompts, so rounds use it only if generate.generators names it"


def named_or_newest_round(call: Call) -> "Round":
    """The round that `--round` names, or the newest one. Raises `NotFound`."""
    with call.workspace.catalog(read_only=True) as catalog:
        if call.options.round:
            return catalog.rounds.get(call.options.round)
        rows = sorted(catalog.rounds.list(), key=lambda row: row.created)
    if not rows:
        raise NotFound("this workspace has no round yet; start one with `clinic round` or `clinic generate`")
    return rows[-1]
