"""The own call of a diffusers pipeline, with gradient, and with its inner functions replaced for that call.

Everything that depends on how diffusers writes a pipeline is the six names of `owners`, and that `__call__`
wraps a function in `torch.no_grad`.
"""

import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from dataengine.errors import ModelRefused

Hook = Callable[..., Any]
"""Takes the original function, then its arguments; its answer is the caller's."""


class Halt(BaseException):
    """Leaves a pipeline's call with a value. No `Exception`, so that no pipeline catches it."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value


def halting(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A hook that leaves the call with the original function's answer."""
    raise Halt(original(*args, **kwargs))


def owners(pipeline: Any, denoiser: str) -> dict[str, tuple[Any, str]]:
    """The object that holds each function that can be hooked, and the function's name there; `denoiser` names
    a component.

    A call without `prepare_latents` makes its noise by diffusers' `randn_tensor`, which its module imports.
    """
    prepares = (pipeline, "prepare_latents")
    if not hasattr(pipeline, "prepare_latents"):
        prepares = (sys.modules[type(pipeline).__module__], "randn_tensor")
    return {
        "encode_prompt": (pipeline, "encode_prompt"),
        "prepare_latents": prepares,
        "set_timesteps": (pipeline.scheduler, "set_timesteps"),
        "forward": (getattr(pipeline, denoiser), "forward"),
        "step": (pipeline.scheduler, "step"),
        "decode": (pipeline.vae, "decode"),
    }


def call(pipeline: Any, denoiser: str, hooks: Mapping[str, Hook], arguments: Mapping[str, Any]) -> Any:
    """The pipeline's own call, with `hooks` by the names of `owners` and gradient as in the caller; returns
    what a hook halted with, else the call's answer.

    Raises `ModelRefused` where the class has no such call or function.
    """
    kind = type(pipeline)
    sampling = getattr(kind.__call__, "__wrapped__", None)
    if sampling is None:
        raise ModelRefused(f"{kind.__name__}'s call is not one function under torch.no_grad")
    held = owners(pipeline, denoiser)
    if lacking := [name for name in hooks if not callable(getattr(*held[name], None))]:
        raise ModelRefused(f"{kind.__name__} has no {lacking[0]}")
    with replaced([(*held[name], hook) for name, hook in hooks.items()]):
        try:
            return sampling(_on_the_device_of(pipeline, denoiser), **arguments)
        except Halt as halt:
            return halt.value


def _on_the_device_of(pipeline: Any, denoiser: str) -> Any:
    """The same pipeline, whose device is its denoiser's: text encoders may be elsewhere."""
    kind = type(pipeline)
    device = property(lambda self: getattr(self, denoiser).device)
    driven: Any = object.__new__(type(kind.__name__, (kind,), {"device": device}))
    driven.__dict__ = pipeline.__dict__
    return driven


@contextmanager
def replaced(changes: list[tuple[Any, str, Hook]]) -> Iterator[None]:
    """Give each object its own version of a function, and take it away again."""
    kept = [(owner, name, vars(owner).get(name)) for owner, name, _ in changes]
    for owner, name, hook in changes:
        original = getattr(owner, name)
        # Pipelines ask for the signature of set_timesteps, so it is kept.
        vars(owner)[name] = functools.wraps(original)(functools.partial(hook, original))
    try:
        yield
    finally:
        for owner, name, own in kept:
            if own is None:
                del vars(owner)[name]
            else:
                vars(owner)[name] = own
