"""A pipeline without weights, for estimates: what its call asks of its denoiser, and the same asked of
shapes.

The pipeline's glue runs for real on zeros, which are small; only its networks are fake tensors. Text encoders
are replaced by their outputs' shapes. Must be used within `estimate.fake_tensors()`.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from dataengine.treatment.families.components import stock_class
from dataengine.treatment.families.diffusion import Conditioning, Schedule
from dataengine.treatment.families.own_call.hooked import Halt, replaced
from dataengine.treatment.families.own_call.layout import Layout
from dataengine.treatment.families.stock import StockFamily

Asked = tuple[tuple[Any, ...], dict[str, Any]]
"""Arguments of one call of the denoiser."""


class ShapesFamily(StockFamily):
    """A `StockFamily` whose networks have shapes only."""

    def __init__(self, pipeline: Any, prompt: str = "") -> None:
        """`pipeline` is one whose networks are fake; every image is of `prompt`, whose length counts."""
        self._prompt = prompt
        denoiser = getattr(pipeline, "transformer", None) or pipeline.unet
        for module in denoiser.modules():
            if hasattr(module, "experts") and hasattr(module, "num_activated_experts"):
                vars(module)["forward"] = partial(_balanced, module)
        self._asked: dict[tuple[int, tuple[int, int], bool], list[Asked]] = {}
        self._read: dict[str, tuple[int, int]] = {}
        with _disable_current_modes():
            _real_buffers(pipeline.vae)
            super().__init__(pipeline)
            # Learned now, while nothing is counted.
            self.size, self.multiple  # noqa: B018

    @property
    def device(self) -> torch.device:
        """The glue's: the CPU."""
        return torch.device("cpu")

    def layout(self, size: tuple[int, int]) -> Layout:
        """See `StockFamily`."""
        with _disable_current_modes():
            return super().layout(size)

    def encoded(self, prompts: Sequence[str], guidance: float | None = None) -> list[Any]:
        """See `StockFamily`; text encoders answer zeros."""
        encoders: list[tuple[Any, str, Callable[..., Any]]] = [
            (part, "forward", partial(_encoded, partial(self._note, name)))
            for name, part in self.modules().items()
            if name.startswith("text_encoder")
        ]
        with replaced(encoders):
            return super().encoded(prompts, guidance)

    def _note(self, name: str, ids: Tensor) -> None:
        read = len(ids), ids.shape[-1]
        self._read[name] = max(self._read.get(name, read), read, key=prod)

    def sequences(self, count: int) -> dict[str, tuple[int, int]]:
        """Rows and tokens that each text encoder reads at once when `count` prompts are encoded, with the
        instructions that its pipeline puts around them."""
        with _disable_current_modes():
            together = 1 if self._recording.one_by_one else count
            self._read.clear()
            self.encoded([self._prompt] * min(together, 2))
        each = min(together, 2)
        return {name: (rows * together // each, tokens) for name, (rows, tokens) in self._read.items()}

    def blank_conditioning(self, count: int) -> Conditioning:
        """See `StockFamily`."""
        with _disable_current_modes():
            return super().blank_conditioning(count)

    @cached_property
    def _blank(self) -> Conditioning:
        return self.encode_prompts([self._prompt])

    def initial_latents(self, seeds: Any, size: tuple[int, int]) -> Tensor:
        """Latents of the right shape."""
        return torch.zeros(len(seeds), *self.layout(size).scale.shape)

    def schedule(self, steps: int, latents: Tensor) -> Schedule:
        """See `StockFamily`."""
        with _disable_current_modes():
            return super().schedule(steps, torch.zeros(1, *latents.shape[1:]))

    def predict(self, latents: Tensor, times: Tensor, conditioning: Conditioning, guidance: float) -> Tensor:
        """The denoiser asked as by the pipeline's call; the answer depends on all that it gives."""
        key = len(latents), self._size_of(latents), guidance > self.training_guidance
        if key not in self._asked:
            with _disable_current_modes():
                self._asked[key] = self._ask(len(latents), key[1], guidance)
        mode = next(self.denoiser.parameters()).fake_mode
        answer = latents
        for args, kwargs in self._asked[key]:
            shaped = partial(tree_map, partial(_fake, mode))
            with unset_fake_temporarily():
                outputs = self.denoiser(*shaped(args), **shaped(kwargs))
            for each in tree_leaves(outputs):
                if isinstance(each, Tensor) and each.is_floating_point():
                    answer = answer + each.float().mean()
        return answer

    def _ask(self, count: int, size: tuple[int, int], guidance: float) -> list[Asked]:
        asked: list[Asked] = []
        mode = next(self.denoiser.parameters()).fake_mode

        def zeros(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            asked.append((args, kwargs))
            shaped = partial(tree_map, partial(_fake, mode))
            outputs = original(*shaped(args), **shaped(kwargs))
            return tree_map(
                lambda each: torch.zeros(each.shape, dtype=each.dtype) if isinstance(each, Tensor) else each,
                outputs,
            )

        def leave(original: Any, *args: Any, **kwargs: Any) -> None:
            raise Halt(None)

        with torch.no_grad():
            conditioning = self.blank_conditioning(count)
            self.call({"forward": zeros, "step": leave}, conditioning, size, guidance)
        return asked


def pipeline_of(kind: str, parts: dict[str, Any]) -> Any:
    """A pipeline of that class of parts without weights, and of the settings among them."""
    made = stock_class(kind)
    takes = inspect.signature(made.__init__).parameters
    needed = {name for name in takes if takes[name].default is inspect.Parameter.empty} - {"self"}
    with _disable_current_modes():
        return made(**dict.fromkeys(needed) | {name: parts[name] for name in parts if name in takes})


def _fake(mode: Any, value: Any) -> Any:
    """Numbers of networks as shapes; masks and positions stay real, since networks may read them."""
    if isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1:
        return mode.from_tensor(value)
    return value


def _real_buffers(network: nn.Module) -> None:
    """Give statistics, which the glue reads, values."""
    for module in network.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = torch.ones(buffer.shape, dtype=buffer.dtype)


def _balanced(module: Any, hidden: Tensor) -> Tensor:
    """HiDream's layer of experts, as if each were sent equally many tokens: which one a token is sent to
    cannot be known from shapes."""
    weights = module.gate(hidden)[1]
    copies = hidden.flatten(0, -2).repeat_interleave(module.num_activated_experts, 0)
    shares = zip(module.experts, copies.tensor_split(len(module.experts)), strict=True)
    routed = torch.cat([expert(share) for expert, share in shares]).unflatten(0, weights.shape)
    return (routed * weights.unsqueeze(-1)).sum(1).view_as(hidden) + module.shared_experts(hidden)


def _encoded(
    note: Callable[[Tensor], None],
    original: Any,
    input_ids: Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """What a text encoder of transformers answers, of the right shape; `note` is told what it reads."""
    network = original.__self__
    from transformers.modeling_outputs import BaseModelOutputWithPooling
    from transformers.models.clip.modeling_clip import CLIPTextModelOutput

    ids = input_ids if input_ids is not None else kwargs["input_ids"]
    note(ids)
    config = (
        network.config.get_text_config() if hasattr(network.config, "get_text_config") else network.config
    )
    dtype = next(network.parameters()).dtype
    last = torch.zeros(*ids.shape, config.hidden_size, dtype=dtype)
    states = (last,) * (config.num_hidden_layers + 1)
    if "WithProjection" in type(network).__name__:
        pooled = torch.zeros(len(ids), config.projection_dim, dtype=dtype)
        return CLIPTextModelOutput(text_embeds=pooled, last_hidden_state=last, hidden_states=states)
    return BaseModelOutputWithPooling(last_hidden_state=last, pooler_output=last[:, 0], hidden_states=states)
