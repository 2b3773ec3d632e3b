"""What every command shares: its declaration, its call, progress, settings."""

import argparse
import json
import sys
import textwrap
from collections.abc import Callable, Sequence
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


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command: what it is called, what it takes, what it does."""

    name: str
    summary: str
    run: "Callable[[Call], Any]"
    """Returns what `--json` prints."""
    arguments: Callable[[argparse.ArgumentParser], object] = lambda parser: None
    examples: Sequence[str] = ()
    settings: "Callable[[], type[BaseModel]] | None" = None
    """The configuration whose fields `--set` takes; its docstrings become help."""


class Call:
    """One run of a command: its options, its workspace, and how it talks."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options

    @cached_property
    def workspace(self) -> "Workspace":
        """The workspace that `--workspace` names, which must exist."""
        from storage.opening import open_workspace

        return open_workspace(self.options.workspace)

    @cached_property
    def new_workspace(self) -> "Workspace":
        """The same, made where there is none."""
        from storage.opening import create_workspace

        return create_workspace(self.options.workspace)

    def say(self, *words: object) -> None:
        """A line for people; silent under `--json`."""
        if not self.options.json:
            print(*words, flush=True)

    @cached_property
    def report(self) -> "Progress":
        """A `Report` that draws a bar on a terminal."""
        return Progress(shown=sys.stderr.isatty() and not self.options.json)


@dataclass
class Progress:
    """A `Report` for people: one bar, replaced when its message's work changes."""

    shown: bool
    _bar: Any = None

    def __call__(self, done: int, total: int, message: str = "", **figures: float) -> None:
        if not self.shown:
            return
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=total, leave=False, file=sys.stderr, dynamic_ncols=True)
        self._bar.total = total
        self._bar.n = done
        self._bar.set_description_str(message, refresh=False)
        self._bar.set_postfix({name: f"{value:.4g}" for name, value in figures.items()}, refresh=False)
        self._bar.refresh()

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class Parser(argparse.ArgumentParser):
    """A parser whose help ends with examples and, read only then, the settings of its configuration."""

    command: Command | None = None

    def format_help(self) -> str:
        """The usual help, examples, settings."""
        text = super().format_help()
        if self.command and self.command.examples:
            text += "\nexamples:\n" + "".join(f"  {line}\n" for line in self.command.examples)
        if self.command and self.command.settings:
            text += "\nsettings (--set NAME=VALUE):\n" + describe(self.command.settings())
        return text


def shared() -> Parser:
    """The options that every command and action takes, before or after its name."""
    options = Parser(add_help=False)
    options.add_argument(
        "--workspace",
        metavar="DIR",
        default=argparse.SUPPRESS,
        help=f"folder of the project (default: ./{DEFAULT_WORKSPACE})",
    )
    options.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS, help="print the result as one JSON object"
    )
    return options


def plain(value: Any) -> Any:
    """Records, paths and tuples as JSON's own kinds."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


FORMER_NAMES = {"second_detector": "rival"}
"""Settings that are stored under a former name."""


def with_settings(settings: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """Nested settings with "a.b=value" changes. Raises `ConfigRefused` for a name that is none of them."""
    changed: dict[str, Any] = json.loads(json.dumps(settings))
    for change in changes:
        name, given, value = change.partition("=")
        *path, last = (FORMER_NAMES.get(part, part) for part in name.split("."))
        place: Any = changed
        for part in path:
            place = place.get(part) if isinstance(place, dict) else None
        if not given or not isinstance(place, dict) or last not in place:
            raise ConfigRefused(
                f"--set {change}: expected NAME=VALUE with a name that `--help` lists, such as "
                f"{first_name(settings)}"
            )
        try:
            place[last] = json.loads(value)
        except json.JSONDecodeError:
            place[last] = value
    return changed


def first_name(settings: dict[str, Any]) -> str:
    """The dotted name of the first setting that holds a plain value."""
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            return f"{name}.{first_name(value)}"
    return next(iter(settings), "name")


def describe(config: "type[BaseModel]", prefix: str = "") -> str:
    """One entry for each field, sections indented by their name: the docstring and the default."""
    text = ""
    for name, field in config.model_fields.items():
        default = field.get_default(call_default_factory=True)
        inner = type(default) if hasattr(type(default), "model_fields") else None
        if inner is not None:
            text += describe(inner, f"{prefix}{name}.")
            continue
        what = " ".join((field.description or "").split())
        shown = json.dumps(default) if isinstance(default, str | int | float | bool | None) else default
        line = f"{what} (default: {shown})"
        text += f"  {prefix}{name}\n" + textwrap.fill(
            line, 100, initial_indent=" " * 6, subsequent_indent=" " * 6
        )
        text += "\n"
    return text


def who_draws(call: Call, version: "GeneratorVersion") -> str:
    """Which rounds draw with a generator, as a line for people."""
    from pipelines.services.generators import reads_prompts

    if reads_prompts(call.workspace, version):
        return "rounds begun from now on draw with it"
    return "it reads no prompts, so rounds draw with it only where generate.generators names it"


def newest(call: Call) -> "Round":
    """The round that `--round` names, or the newest one. Raises `NotFound`."""
    with call.workspace.catalog(read_only=True) as catalog:
        if call.options.round:
            return catalog.rounds.get(call.options.round)
        rows = sorted(catalog.rounds.list(), key=lambda row: row.created)
    if not rows:
        raise NotFound("this workspace has no round yet; begin one with `clinic round` or `clinic generate`")
    return rows[-1]
