"""What an installation could use beyond its core, and what is missing for it. Nothing is connected to."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from dataengine.devices import DEVICE, has_apple_gpu
from storage.workspace import BLOB_VARIABLE, DATABASE_VARIABLE

INSTALL = "pip install 'artifact-clinic[{extra}]'"
URL, KEY = "LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"


@dataclass(frozen=True, kw_only=True, slots=True)
class Extra:
    """One optional part."""

    name: str
    state: Literal["ready", "unused", "broken"]
    """Broken is what is configured but cannot work."""
    text: str
    """What is there, or what is missing and how to get it."""


def find_extras(environment: Mapping[str, str] = os.environ) -> list[Extra]:
    """GPU, hub, PostgreSQL, S3 and Label Studio, by what is installed and what the environment names."""
    return [
        _gpu(),
        _hub(environment),
        _store("PostgreSQL", "psycopg", "postgres", DATABASE_VARIABLE, "postgresql", environment),
        _store("S3", "s3fs", "s3", BLOB_VARIABLE, "s3:", environment),
        _label_studio(environment),
    ]


def _gpu() -> Extra:
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        gib = f"{free / 2**30:.0f} of {total / 2**30:.0f} GiB free"
        return Extra(name="GPU", state="ready", text=f"{torch.cuda.get_device_name()}, {gib}")
    if has_apple_gpu():
        text = f"a Mac's GPU is only used where it is named: --device mps, or {DEVICE}=mps"
        return Extra(name="GPU", state="unused", text=text)
    if Path("/dev/nvidia0").exists():
        why = "is a build without CUDA" if torch.version.cuda is None else "cannot use it: update the driver"
        text = f"there is an NVIDIA GPU, but torch {torch.__version__} {why}"
        return Extra(name="GPU", state="broken", text=text)
    return Extra(name="GPU", state="unused", text="no NVIDIA GPU was found; everything runs on the CPU")


def _hub(environment: Mapping[str, str]) -> Extra:
    from huggingface_hub import get_token

    if environment.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        text = "HF_HUB_OFFLINE is set, so only models in the cache and in folders are found"
        return Extra(name="hub", state="unused", text=text)
    if get_token() is None:
        text = "open models are fetched; gated ones, such as FLUX.1-dev, need a token: `hf auth login`"
        return Extra(name="hub", state="unused", text=text)
    return Extra(
        name="hub", state="ready", text="a token is there; accept a gated model's licence on its page"
    )


def _store(
    name: str, library: str, extra: str, variable: str, scheme: str, environment: Mapping[str, str]
) -> Extra:
    """A store that an environment variable names and a library reads."""
    installed, wanted = find_spec(library) is not None, environment.get(variable, "").startswith(scheme)
    if not installed:
        text = f"{library} is missing: {INSTALL.format(extra=extra)}"
        return Extra(name=name, state="broken" if wanted else "unused", text=text)
    if not wanted:
        text = f"{library} is installed; {variable} does not name one"
        return Extra(name=name, state="unused", text=text)
    return Extra(name=name, state="ready", text=f"{library} is installed, and {variable} names one")


def _label_studio(environment: Mapping[str, str]) -> Extra:
    missing = [name for name in (URL, KEY) if not environment.get(name)]
    if missing:
        text = f"push and pull need {' and '.join(missing)} in the environment"
        return Extra(name="Label Studio", state="unused", text=text)
    return Extra(name="Label Studio", state="ready", text=f"{URL} and {KEY} are set")
