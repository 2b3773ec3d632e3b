"""Settings of a run from a preset's name and what differs from it, for programs that have no form."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from dataengine.errors import InputRefused, NotFound
from pipelines.services.training.presets import preset_slug
from ui.runs.routes import Settings


class PresetSettings(Settings):
    """Complete settings, or what differs from those of a preset."""

    settings: dict[str, Any] = Field(default_factory=dict)
    preset: str = Field(default="", max_length=200)


def settings_of(body: PresetSettings, presets: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The settings of a request: those given, over those of the preset that it names, if any.

    A preset has its display name or its word on the command line ("cpu-smoke"). Raises `NotFound` for an
    unknown one, `InputRefused` for neither settings nor a preset.
    """
    if not body.preset and not body.settings:
        raise InputRefused("send the settings of the run, or the name of a preset")
    if not body.preset:
        return body.settings
    found = [name for name in presets if body.preset in (name, preset_slug(name))]
    if not found:
        known = ", ".join(preset_slug(name) for name in presets)
        raise NotFound(f"there is no preset {body.preset!r}; presets are {known}")
    return merged(presets[found[0]], body.settings)


def merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with `changes`, section by section; lists are replaced as a whole."""
    both = dict(settings)
    for name, value in changes.items():
        before = both.get(name)
        section = isinstance(before, Mapping) and isinstance(value, Mapping)
        both[name] = merged(before, value) if section else value  # type: ignore[arg-type]
    return both
